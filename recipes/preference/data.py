"""Read preference pairs with their pictures; divide them into rows to train on and held-out rows. No torch.

Texts, pictures and a seed alone, not the order of rows, determine the list of a row. Rows with a picture in common are
in the same list; without pictures, rows with the same prompt, whatever its case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rl_nmt.config import excerpt, to_public_dict
from rl_nmt.data.linked import linked
from rl_nmt.data.pictures import FOLDER, keep_pictures, looks_like_picture, open_picture, sealed
from rl_nmt.data.snapshot import Snapshot
from rl_nmt.data.sources import is_hub_name, is_saved, read_split
from rl_nmt.data.tables import Row as Record
from rl_nmt.errors import ConfigError
from rl_nmt.text.prompts import read_exchange
from rl_nmt.text.unicode import clean_lines, is_blank

if TYPE_CHECKING:
    from PIL.Image import Image

    from recipes.preference.settings import DatasetCfg

Row = dict[str, Any]  # "source" (the prompt), "chosen", "rejected", "images" (names of files, [] without)
COLUMNS = {"prompt": ("prompt", "question", "instruction", "input"), "chosen": ("chosen",), "rejected": ("rejected",)}
COLUMNS |= {"image": ("images", "image")}  # what → usual names, best first
MATHVISTA = {"pid", "question_type", "answer_type"}  # its columns
FORBIDDEN = "the licence of MathVista forbids training on it; give it as dataset.mathvista_file, to evaluate on"


class Pairs(NamedTuple):
    """The pairs of a run, in the order of their hashes. sha256: of the snapshot, also of the names of the pictures."""

    train: list[Row]
    heldout: list[Row]
    sha256: str


def check_data(cfg: DatasetCfg) -> None:
    """Refuse data that are missing or must not be trained on, before any are read. Raises ConfigError."""
    if not cfg.train_file:
        raise ConfigError("dataset.train_file is empty; give a file, a folder of save_to_disk or a hub name")
    for field in ("train_file", "eval_file", "mathvista_file"):
        name = getattr(cfg, field)
        path, on_hub = Path(name).expanduser(), is_hub_name(name)
        if name and not (on_hub or path.is_file() or is_saved(path)):
            raise ConfigError(f"dataset.{field}: {name}: no such file, nor a folder that save_to_disk wrote")
        if field != "mathvista_file" and on_hub and "mathvista" in name.lower():
            raise ConfigError(f"dataset.{field}: {name}: {FORBIDDEN}")
    if cfg.eval_file == cfg.train_file and cfg.eval_split in ("", cfg.split):
        raise ConfigError(f"dataset.eval_file: {cfg.eval_file} is also dataset.train_file; leave it empty")


def load(cfg: DatasetCfg, folder: str | Path, limit: int = 0) -> Pairs:
    """Read and divide the pairs, at most `limit` per list (0: all), or read the snapshot in `folder`/data back.

    At most eval_count rows are held out, of eval_file or else of train_file. With a limit only the first rows of a hub
    data set are read. Pictures are saved unchanged in `folder`/data/images.

    Raises ConfigError for bad rows and pictures (with their place), too few rows, and a snapshot of other settings or
    with changed files; MissingService; CannotWrite if the snapshot cannot be written.
    """
    request = to_public_dict(cfg) | {"limit": limit}
    del request["mathvista_file"]

    def read(images: Path) -> tuple[list[Row], list[Row]]:
        train, heldout = (rows[: limit or None] for rows in _divided(cfg, images, limit))
        pictures = {name for row in train + heldout for name in row["images"]}
        print(f"data: {len(train)} pairs, {len(heldout)} held out, {len(pictures)} pictures", flush=True)
        return train, heldout

    found = sealed(Snapshot(Path(folder, "data"), request, "logging.output_dir"), read)
    return Pairs(found.train, found.heldout, found.sha256)


def open_images(row: Row, folder: str | Path) -> list[Image]:
    """Return the pictures of a row of the run in `folder`: RGB, upright, on white. Raises ConfigError."""
    return [open_picture(Path(folder, "data", FOLDER, name)) for name in row["images"]]


def _divided(cfg: DatasetCfg, images: Path, limit: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on and the held-out ones."""
    count = min(cfg.eval_count, limit or cfg.eval_count)
    rows = read_rows(cfg, "train_file", images, limit and limit + (0 if cfg.eval_file else count))
    if cfg.eval_file:
        held, fix = read_rows(cfg, "eval_file", images, limit and count), "give other rows as dataset.eval_file"
        ids, parts = {id(row) for row in held}, groups(rows + held, cfg.seed)
        train = [row for part in parts if not any(id(row) in ids for row in part) for row in part]
        heldout = [row for part in parts for row in part if id(row) in ids][:count]
        if len(train) < len(rows):
            print(f"data: training rows not used, eval_file has their picture or prompt: {len(rows) - len(train)}")
    else:
        fix, (train, heldout) = "lower dataset.eval_count, or give eval_file", hold_out(rows, count, cfg.seed)
    if not train:
        raise ConfigError(f"dataset.train_file: {cfg.train_file}: all its rows are held out; give more rows, or {fix}")
    return train, heldout


def hold_out(rows: list[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on and at most `count` held-out ones: the first of `groups` that fit, whole.

    If none fits, a part of the smallest one is held out; its other rows are not used.
    """
    train, heldout, parts = list[Row](), list[Row](), groups(rows, seed)
    smallest = min(parts, key=len)
    if len(smallest) > count:
        return [row for part in parts if part is not smallest for row in part], smallest[:count]
    for part in parts:
        (heldout if len(heldout) + len(part) <= count else train).extend(part)
    return train, heldout


def groups(rows: Iterable[Row], seed: int) -> list[list[Row]]:
    """Return the rows in groups that must stay together (see the module), in the order of their first hash."""

    def place(row: Row) -> tuple:
        text = "\n".join([str(seed), _folded(row["source"]), *row["images"]])
        return hashlib.sha256(text.encode()).digest(), row["source"], row["chosen"], row["rejected"]

    return linked(sorted(rows, key=place), lambda row: row["images"] or [_folded(row["source"])])


def read_rows(cfg: DatasetCfg, field: str, images: Path, enough: int = 0) -> list[Row]:
    """Return the distinct rows of train_file or eval_file and write their pictures to the folder `images`.

    `enough`: distinct rows of a hub data set after which reading ends; 0: never. Raises ConfigError, MissingService.
    """
    name, split = getattr(cfg, field), cfg.eval_split if field == "eval_file" else ""
    path, on_hub, count = Path(name).expanduser(), is_hub_name(name), 0
    base = None if on_hub else path if path.is_dir() else path.parent
    rows: dict[tuple, Row] = {}
    other = ""  # a column that may hold pictures and is not read
    with closing(read_split(name, split or cfg.split, f"dataset.{field}", cfg.config)) as records:
        for record in records:
            row, count = _row(record, cfg, base, images), count + 1
            if count == 1:
                unread = (str(name) for name in record.cells if str(name).lower() not in sum(COLUMNS.values(), ()))
                other = next((name for name in unread if looks_like_picture(record.cells[name])), "")
            rows.setdefault((row["source"], row["chosen"], row["rejected"], *row["images"]), row)
            if on_hub and len(rows) == enough:
                break
    if not rows:
        raise ConfigError(f"dataset.{field}: {name} holds no rows; give at least one")
    if cfg.image_field and not any(row["images"] for row in rows.values()):
        raise ConfigError(f"dataset.image_field: no row of {name} has an image in {cfg.image_field!r}; leave it empty")
    if other and not any(row["images"] for row in rows.values()):
        raise ConfigError(
            f"dataset.image_field: no row of {name} has an image, but its column {other!r} looks like one; name it "
            "here, or remove the column"
        )
    if len(rows) < count:
        print(f"dataset.{field}: duplicate rows that are not used: {count - len(rows)}")
    return list(rows.values())


def _row(record: Record, cfg: DatasetCfg, base: Path | None, images: Path) -> Row:
    where, columns = record.where, {str(name).lower(): name for name in record.cells}
    if columns.keys() >= MATHVISTA:
        raise ConfigError(f"{where} has the columns {', '.join(sorted(MATHVISTA))}: {FORBIDDEN}")
    names = {what: (own.lower(),) if (own := getattr(cfg, f"{what}_field")) else COLUMNS[what] for what in COLUMNS}
    found = {what: [record.cells.get(columns.get(name)) for name in names[what]] for what in COLUMNS}
    values = {what: next((cell for cell in cells if cell not in (None, "", [])), None) for what, cells in found.items()}
    image = values.pop("image")
    texts = {what: read_exchange(f"{where}: {what}", value, what == "prompt") for what, value in values.items()}
    questions = {clean for text in texts.values() if (clean := clean_lines(text.question))}
    answers = {what: clean_lines(texts[what].answer) for what in ("chosen", "rejected")}
    for what, text in (("prompt", "".join(questions)), *answers.items()):
        if is_blank(text):
            fix = f"remove the row, or name the column in dataset.{what}_field"
            raise ConfigError(f"{where} has no {what} in {' or '.join(names[what])}, only {', '.join(columns)}: {fix}")
    if len(questions) > 1:
        raise ConfigError(f"{where}: its messages ask different questions ({excerpt(min(questions))}): remove the row")
    if answers["chosen"] == answers["rejected"]:
        raise ConfigError(f"{where}: chosen and rejected are equal ({excerpt(answers['chosen'])}): remove the row")
    pictures = keep_pictures(image, where, base, images)
    if (marked := max(text.images for text in texts.values())) and marked != len(pictures):
        raise ConfigError(f"{where}: its messages mark {marked} images, but its image column has {len(pictures)}")
    return {"source": questions.pop(), **answers, "images": pictures}


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
