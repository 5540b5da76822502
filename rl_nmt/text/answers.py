"""Compare short answers with the right ones, strictly: an answer that cannot be read is wrong. No torch.

Of an answer the rest of the line after its last "answer is" or "answer:" is read, else all of it, without $, ** and
\\boxed{}, and without quotes and a full stop at its ends. It is right if

    choice   it is the letter of the right choice (B, (b), B.), alone or before that choice's text, or that text
    integer  it has exactly one number, and that is equal: 1,000 is 1000, 12.0 is 12
    float    it has exactly one number, equal once both are rounded, half up, to as many digits after the point
    list     it has exactly one list in square brackets, equal item by item, numbers as numbers
    text     it is the same text

Case and runs of white space do not matter in texts. A number may be among words and units ("about 12 cm").
"""

import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

KINDS = ("choice", "integer", "float", "list", "text")
_MARKER = re.compile(r"\banswer(?:\s+is|\s*:)[\s:]*", re.IGNORECASE)
_WHOLE = r"[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))"  # the part before the point
_NUMBER = re.compile(rf"(?<![\w.^]){_WHOLE}(?:\.\d+)?(?:e[-+]?\d+)?(?!\.?\d)", re.IGNORECASE)


def is_right(answer: str, right: str, kind: str, choices: Sequence[str] = (), digits: int = 0) -> bool:
    """Return whether an answer is right by the rules above.

    `kind`: one of KINDS; `choices`: of a choice, lettered in this order; `digits`: after the point of a float. Nothing
    is right if `right` itself cannot be read.

    >>> is_right("The answer is (B).", "7 cm", "choice", ["6 cm", "7 cm"]), is_right("3.14159", "3.1", "float", (), 1)
    (True, True)
    """
    *before, text = _MARKER.split(answer)
    text = text.split("\n")[0] if before else text
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", text).replace("$", "").replace("**", "")
    named = [_folded(choice) for choice in choices]
    readers: dict[str, Callable[[str], Any]] = {
        "choice": lambda each: each if each in named else None,
        "integer": _number,
        "float": lambda each: _rounded(_number(each), digits),
        "list": _list,
        "text": lambda each: each or None,
    }
    wanted, text = readers[kind](_folded(right)), _folded(text)
    found = _lettered(text, named) if kind == "choice" else None
    found = readers[kind](text) if found is None else found
    return found is not None and found == wanted


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip("\"'“”‘’` ").rstrip(". ")


def _lettered(text: str, choices: list[str]) -> str | None:
    """Return the choice whose letter a text is, alone or before the choice itself; None for other texts."""
    letter = re.fullmatch(r"\(?([a-z])\)?[.:]?(?:\s+(.+))?", text)
    place = ord(letter[1]) - ord("a") if letter else len(choices)
    return choices[place] if place < len(choices) and letter[2] in (None, choices[place]) else None


def _number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[0].replace(",", "").replace("−", "-")) if len(found) == 1 else None


def _rounded(value: Decimal | None, digits: int) -> Decimal | None:
    try:
        return None if value is None else value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    except InvalidOperation:  # too large a number
        return None


def _list(text: str) -> list[Decimal | str] | None:
    found = re.findall(r"\[([^\[\]]*)\]", text)
    items = [item.strip("\"' ") for item in found[0].split(",")] if len(found) == 1 else []
    return [_number(item) if _NUMBER.fullmatch(item) else item for item in items] or None
