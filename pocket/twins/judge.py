"""A judge that knows the pocket world: an OpenAI-compatible endpoint on 127.0.0.1 that marks the errors it knows.

    python -m pocket.twins.judge [--world pocket/build/twins-seed0] [--port 0] [--fail MODE]

The first line it prints is its address, for `load_gemba_mqm`. It looks the source up among the sentences of the
world and compares the translation with the reference (pocket/twins/damage.py); of a sentence it does not know it says
so, in prose, which is not an annotation and gets no score. In a process of one's own:

    with serve(Path("pocket/build/twins-seed0")) as judge:
        scorer = load_gemba_mqm(judge.url, "judge")

It fails on request: `--fail status_503`, every third time with `--fail_every 3`, from the hundredth request on with
`--fail_after 100`, `--fail all` in every way in turn. No torch.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

from pocket.twins.damage import Error, find_errors
from pocket.twins.judge_server import FAILURES, JudgeServer, Marks
from rl_nmt import errors
from rl_nmt.errors import ConfigError

REFERENCES = "judge/references.jsonl.gz"
WORLD = Path(__file__).resolve().parent.parent / "build" / "twins-seed0"


def serve(world: Path, fail: str | None = None, every: int = 1, after: int = 0, **options) -> JudgeServer:
    """A judge of one world, served while it is entered; `url` is its address.

    Args:
        world: a folder that pocket.twins.build made.
        fail: a name out of FAILURES, or "all" for each of them in turn; None never fails.
        every, after: fail at every so manieth request, from request number `after` on (counted from 0).
        options: json_status, delay, port of `JudgeServer`.

    Raises ConfigError: no such world, an unknown way to fail, numbers out of range, or a port that is taken.
    """
    try:
        return JudgeServer(known_errors(world), failing(fail, every, after), **options)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port: {options.get('port')} cannot be used ({error}); 0 takes a free one") from error


def failing(fail: str | None, every: int = 1, after: int = 0) -> Callable[[int], str]:
    """The mode of each request by its number, for `JudgeServer`. Raises ConfigError for an unknown one."""
    if fail is not None and fail not in (*FAILURES, "all"):
        near = difflib.get_close_matches(fail, FAILURES, 1)
        hint = f"did you mean {near[0]}?" if near else f"use all, or one of: {', '.join(FAILURES)}"
        raise ConfigError(f"fail: {fail!r} is unknown; {hint}")
    if every < 1 or after < 0:
        raise ConfigError(f"fail_every is {every}, fail_after is {after}: give at least 1 and 0")

    def mode(number: int) -> str:
        turn, rest = divmod(number - after, every)
        if fail is None or number < after or rest:
            return "plain"
        return FAILURES[turn % len(FAILURES)] if fail == "all" else fail

    return mode


def known_errors(world: Path) -> Marks:
    """(source, translation) → errors as the judge writes them, or None for a source that is not of this world.

    Case and spacing of the source do not matter; of a source of several sentences each has to be known.
    """
    references = read_references(world)

    def marks(source: str, output: str) -> list[dict] | None:
        sentences = [source] if key(source) in references else re.split(r"(?<=[.?])\s+", source.strip())
        known = [references.get(key(sentence)) for sentence in sentences]
        if None in known:
            return None
        return [described(error, output) for error in find_errors(source, output, " ".join(known))]

    return marks


def described(error: Error, output: str) -> dict:
    """One error as a judge writes it: severity, category, quote, and all the words before the quote."""
    row = {"severity": error.severity, "category": error.category, "quote": error.source, "before": ""}
    if error.start is not None:
        row |= {"quote": output[error.start : error.end], "before": output[: error.start].strip()}
    return row


def key(source: str) -> str:
    """What sources are looked up by."""
    return " ".join(source.casefold().split())


def read_references(world: Path) -> dict[str, str]:
    """Tamil by key of its English. Raises ConfigError where `world` holds no twins."""
    file = Path(world) / REFERENCES
    if not file.is_file():
        raise ConfigError(f"world: {world} has no {REFERENCES}; build it with python -m pocket.twins.build")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {key(row["english"]): row["tamil"] for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=WORLD, help="folder of the twins (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one")
    parser.add_argument("--fail", metavar="MODE", help="a way to fail, or all; an unknown one prints the list")
    parser.add_argument("--fail_every", type=int, default=1, metavar="N", help="fail every Nth time (default 1)")
    parser.add_argument("--fail_after", type=int, default=0, metavar="N", help="answer N requests well first")
    parser.add_argument("--text_only", action="store_true", help="refuse structured output, as older servers do")
    args = parser.parse_args()
    server = serve(
        args.world,
        args.fail,
        args.fail_every,
        args.fail_after,
        port=args.port,
        json_status=400 if args.text_only else None,
    )
    with server:
        print(server.url, flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    errors.run(main)
