"""Small pictures, drawn here: four bars on a white ground, or four shapes, one in each quarter. No torch.

A picture is a grid of GRID × GRID cells, one for each patch of the vision tower, so that no edge of a bar or quarter
is inside a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

GRID, CELL = 4, 12  # cells along a side, pixels along a cell
SIDE = GRID * CELL  # of a picture, in pixels
WHITE, DARK = 255, 70
COLOURS = {  # the names have the same length, so that answers have
    "blue": (0, 0, 255),
    "pink": (255, 60, 180),
    "gold": (255, 190, 0),
    "cyan": (0, 225, 255),
    "lime": (60, 215, 0),
}
HEIGHTS = (1, 2, 3, 4)  # of bars, in cells
SHAPES = ("disc", "ring", "kite", "plus")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: four bars from left to right, or four shapes, row by row."""

    colours: tuple[str, ...]
    marks: tuple  # heights of the bars in cells, or names of the shapes

    @property
    def bars(self) -> bool:
        """Return whether these are bars; else shapes."""
        return isinstance(self.marks[0], int)


@cache
def mask(shape: str) -> np.ndarray:
    """Return where a quarter is coloured: (SIDE / 2, SIDE / 2), of bool."""
    half = SIDE // 4
    down, right = np.mgrid[0.5 - half : half, 0.5 - half : half]
    radius = np.hypot(down, right) / half
    near, far = np.minimum(abs(down), abs(right)) / half, np.maximum(abs(down), abs(right)) / half
    return {
        "disc": radius < 0.9,
        "ring": (radius > 0.55) & (radius < 0.9),
        "kite": near + far < 0.95,
        "plus": (near < 0.3) & (far < 0.9),
    }[shape]


def draw(scene: Scene) -> np.ndarray:
    """Return the picture: (SIDE, SIDE, 3), uint8."""
    picture = np.full((SIDE, SIDE, 3), WHITE, np.uint8)
    for i, (colour, mark) in enumerate(zip(scene.colours, scene.marks, strict=True)):
        if scene.bars:
            left = i * CELL
            picture[SIDE - mark * CELL :, left + 1 : left + CELL - 1] = COLOURS[colour]
        else:
            down, right = divmod(i, 2)
            half = SIDE // 2
            quarter = picture[down * half : (down + 1) * half, right * half : (right + 1) * half]
            quarter[mask(mark)] = COLOURS[colour]
    if scene.bars:
        picture[-1] = DARK  # the axis
    return picture


def save(scene: Scene, file: Path) -> None:
    """Write the picture as PNG."""
    from PIL import Image

    Image.fromarray(draw(scene)).save(file)
