"""Build the conversation that asks a language model for MQM errors, and parse its reply. No torch.

Two forms: a JSON object under a schema, and headings with one line per error. Prompt and worked examples
(prompt.yaml) are ours; the scheme is MQM's, as in GEMBA-MQM (Kocmi and Federmann, arXiv 2310.13988).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

WEIGHTS = {"critical": 25, "major": 5, "minor": 1}  # in order of gravity
MAX_ERRORS = 50  # a longer list means that the model is in a loop

PROMPT = yaml.safe_load(Path(__file__).with_name("prompt.yaml").read_text(encoding="utf-8"))
_STRING = {"type": "string"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


_ERROR = _object(severity=_STRING | {"enum": list(WEIGHTS)}, category=_STRING, quote=_STRING, before=_STRING)
SCHEMA = _object(segment=_STRING, errors={"type": "array", "items": _ERROR})
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "mqm", "strict": True, "schema": SCHEMA}}


@dataclass(frozen=True)
class MqmError:
    """One error as the LLM judge wrote it: severity, category, quote, and the words `before` the quote."""

    severity: str
    category: str
    quote: str
    before: str = ""


# (source language, target language, source, translation, errors)
EXAMPLES = tuple(
    (row["source"], row["target"], row["src"], row["mt"], tuple(MqmError(**error) for error in row["errors"]))
    for row in PROMPT["examples"]
)


class Unparsable(ValueError):
    """A reply that is not a valid annotation of this segment; the message is a one-word reason."""


def segment_code(src: str, mt: str) -> str:
    """Return eight hexadecimal digits; a translation cannot contain its own code, which depends on all of its text."""
    return hashlib.sha256(f"{src}\0{mt}".encode("utf-8", "replace")).hexdigest()[:8]


def question(form: str, source: str, target: str, src: str, mt: str) -> tuple[str, list[dict[str, str]], dict | None]:
    """Return the form, its conversation and the response_format, as `ChatEndpoint.ask` takes them."""
    return form, messages(form, source, target, src, mt), RESPONSE_FORMAT if form == "json" else None


def messages(form: str, source: str, target: str, src: str, mt: str) -> list[dict[str, str]]:
    """Return the conversation that asks for the errors of one segment, in form "json" or "text", with examples."""
    said = [{"role": "system", "content": PROMPT["system"]}]
    for *example, errors in EXAMPLES:
        code = segment_code(*example[2:])
        said.append({"role": "user", "content": _turn(form, *example)})
        said.append({"role": "assistant", "content": _reply(form, code, errors)})
    said.append({"role": "user", "content": _turn(form, source, target, src, mt)})
    return said


def _turn(form: str, source: str, target: str, src: str, mt: str) -> str:
    longest = max((len(run) for run in re.findall("`+", src + " " + mt)), default=0)
    fence = "`" * max(3, longest + 1)  # longer than any fence in the texts
    code = segment_code(src, mt)
    texts = PROMPT["texts"].format(source=source, target=target, code=code, fence=fence, src=src, mt=mt)
    return f"{texts}\n{PROMPT['task']}{PROMPT[form].format(code=code)}"


def _reply(form: str, code: str, errors: Sequence[MqmError]) -> str:
    if form == "json":
        return json.dumps({"segment": code, "errors": list(map(asdict, errors))}, ensure_ascii=False)
    lines = [f"Segment: {code}"]
    for severity in WEIGHTS:
        lines.append(f"{severity.capitalize()}:")
        lines += [f'{e.category} - "{e.quote}"' for e in errors if e.severity == severity] or ["no-error"]
    return "\n".join(lines)


def parse(form: str, reply: str, code: str) -> list[MqmError]:
    """Return the errors of a reply that is entirely in the requested form and about this segment.

    Closed <think> blocks in front and one code fence around the whole message are removed. Raises Unparsable.
    """
    message = _bare(reply)
    segment, errors = _parse_json(message) if form == "json" else _parse_text(message)
    if segment != code:
        raise Unparsable("other_segment")
    if len(errors) > MAX_ERRORS:
        raise Unparsable("endless")
    return errors


def _bare(reply: str) -> str:
    text = re.sub(r"\A(?:\s*<(think|thinking)>.*?</\1>)+", "", reply, flags=re.DOTALL).strip()
    fenced = re.fullmatch(r"```[a-zA-Z]*\s(.*)```", text, flags=re.DOTALL)
    return fenced[1].strip() if fenced else text


def _parse_json(message: str) -> tuple[str, list[MqmError]]:
    def once(pairs: list[tuple[str, Any]]) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise Unparsable("double_key")
        return dict(pairs)

    try:
        reply = json.loads(message, object_pairs_hook=once)
    except Unparsable:
        raise
    except (ValueError, RecursionError):
        raise Unparsable("not_the_form") from None
    if not isinstance(reply, dict) or set(reply) != {"segment", "errors"} or not isinstance(reply["errors"], list):
        raise Unparsable("schema")
    try:
        errors = [MqmError(**error) for error in reply["errors"]]
    except TypeError:  # not an object, or one with other fields
        raise Unparsable("schema") from None
    if not all(isinstance(value, str) for error in errors for value in vars(error).values()):
        raise Unparsable("schema")
    errors = [replace(error, severity=error.severity.strip().lower()) for error in errors]
    if not all(error.severity in WEIGHTS for error in errors):
        raise Unparsable("severity")
    return reply["segment"], errors


_HEADING = re.compile(r"\W*(segment|critical|major|minor)\W*:\W*?(no-error|[0-9a-f]{8})?\W*", re.IGNORECASE)
_ENTRY = re.compile(r"(?:[-*•]\s+)?([A-Za-z][A-Za-z /-]*?)\s+[-–—]\s+[\"“«'](.*)[\"”»']")
_NONE = re.compile(r"(?:[-*•]\s+)?no-error\.?", re.IGNORECASE)


def _parse_text(message: str) -> tuple[str, list[MqmError]]:
    seen: dict[str, str] = {}  # heading → the text below it, "" if none so far
    errors: list[MqmError] = []
    current = ""
    for line in filter(None, map(str.strip, message.split("\n"))):
        if heading := _HEADING.fullmatch(line):
            current = heading[1].lower()
            if current in seen:
                raise Unparsable("double_heading")
            seen[current] = (heading[2] or "").lower()
        elif (entry := _ENTRY.fullmatch(line)) and current in WEIGHTS:
            errors.append(MqmError(current, entry[1].strip(), entry[2]))
            seen[current] = "errors"
        elif _NONE.fullmatch(line) and current in WEIGHTS:
            seen[current] = seen[current] or "no-error"
        else:
            raise Unparsable("not_the_form")
    if list(seen) != ["segment", *WEIGHTS] or not all(seen.values()):  # an empty heading may mean a truncated reply
        raise Unparsable("headings")
    return seen["segment"], errors
