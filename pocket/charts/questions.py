"""Questions about a picture or two numbers, each with a right and a wrong answer that differ in one word. No torch.

Rows come in twins: the same question and the same two answers about two pictures, right and wrong exchanged. So every
rule that reads only the texts is right for exactly half of the rows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pocket.charts.draw import COLOURS, HEIGHTS, SHAPES, Scene

PICTURED = ("tallest", "height", "shape", "colour")  # kinds of questions about a picture
TEMPLATES = {  # kind → question, answer; {about}: what is asked about, {value}: the word in which answers differ
    "tallest": ("Which bar is the tallest?", "The tallest bar is {value}."),
    "height": ("How high is the {about} bar?", "The {about} bar is {value} high."),
    "shape": ("Which shape is {about}?", "The {about} shape is a {value}."),
    "colour": ("What colour is the {about}?", "The {about} is {value}."),
    "numbers": ("Which number is {about}, {numbers}?", "The {about} number is {value}."),
}
VALUES = {  # kind → the words that answer it, of equal length
    "tallest": tuple(COLOURS),
    "height": tuple(map(str, HEIGHTS)),
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "numbers": tuple("123456789"),
}
TEXT_ONLY = 10  # one pair of twins in ten is about numbers, without a picture


@dataclass(frozen=True)
class Row:
    """A question, its right and its wrong value; `scene` is None where it has no picture."""

    kind: str
    right: str
    wrong: str
    scene: Scene | None = None
    about: str = ""
    numbers: str = ""

    @property
    def prompt(self) -> str:
        return TEMPLATES[self.kind][0].format(about=self.about, numbers=self.numbers)

    def answer(self, value: str) -> str:
        return TEMPLATES[self.kind][1].format(about=self.about, value=value)

    @property
    def chosen(self) -> str:
        return self.answer(self.right)

    @property
    def rejected(self) -> str:
        return self.answer(self.wrong)


def twins(rng: random.Random, kind: str) -> tuple[Row, Row]:
    """Draw two rows of one kind with the same two answers, right and wrong exchanged.

    They ask the same about two pictures, or about numbers for the larger and the smaller of the same two.
    """
    first, second = rng.sample(VALUES[kind], 2)
    if kind == "numbers":
        numbers, (low, high) = f"{first} or {second}", sorted((first, second))
        return Row(kind, high, low, None, "larger", numbers), Row(kind, low, high, None, "smaller", numbers)
    about = rng.choice({"tallest": ("",), "colour": SHAPES}.get(kind, tuple(COLOURS)))
    return (
        Row(kind, first, second, scene(rng, kind, about, first, second), about),
        Row(kind, second, first, scene(rng, kind, about, second, first), about),
    )


def scene(rng: random.Random, kind: str, about: str, right: str, wrong: str) -> Scene:
    """Draw a picture about which `right` is the answer; the wrong colour or shape is found in it too.

    One bar alone is the tallest, and it fills the picture.
    """
    needed = [about] if kind in ("height", "shape") else [right, wrong]
    colours = needed + rng.sample([name for name in COLOURS if name not in needed], 4 - len(needed))
    marks: list
    if kind in ("shape", "colour"):
        shape = right if kind == "shape" else about
        marks = [shape, *rng.sample([name for name in SHAPES if name != shape], 3)]
    else:
        height = int(right) if kind == "height" else 4
        marks = [height, 4 if height < 4 else rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)]
    places = rng.sample(range(4), 4)  # so far the first is the one that is asked about
    return Scene(tuple(colours[i] for i in places), tuple(marks[i] for i in places))


def rows(rng: random.Random, count: int, used: set[Scene | str], repeat: bool = False) -> list[Row]:
    """Draw `count` rows, twins next to each other, whose pictures and pairs of numbers are not in `used`.

    Kinds take turns. The pictures and numbers are added to `used`, unless they may `repeat`.
    """
    found: list[Row] = []
    for i in range(count // 2):
        kind = "numbers" if i % TEXT_ONLY == TEXT_ONLY - 1 else PICTURED[i % len(PICTURED)]
        drawn = twins(rng, kind)
        while used & {row.scene or row.numbers for row in drawn}:
            drawn = twins(rng, kind)
        used |= set() if repeat else {row.scene or row.numbers for row in drawn}
        found += drawn
    return found
