"""Read posts and replies; divide them into rows for SFT, rows for GRPO and held-out rows. No torch.

The texts and a seed alone, not the order of rows, determine the list of a row. All rows of a post, whatever its case,
are in the same list.
"""

from __future__ import annotations

import functools
import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rl_nmt.config import excerpt, to_public_dict
from rl_nmt.data.snapshot import Snapshot
from rl_nmt.data.tables import clean_text, read_all
from rl_nmt.errors import ConfigError, warn
from rl_nmt.text.unicode import is_blank

if TYPE_CHECKING:
    from recipes.replies.settings import DataCfg

Row = dict[str, str]  # "source" (the post) and, where there is one, "reference" (a human reply)
FILES = ("train_file", "sft_file", "grpo_file", "eval_file")
COLUMNS = {"post": ("post", "tweet", "text", "source"), "reply": ("reply", "response", "output", "reference")}


class Phases(NamedTuple):
    """The rows of a run, in the order of their hashes. sha256: of the snapshot."""

    sft: list[Row]
    grpo: list[Row]  # one a post
    heldout: list[Row]  # one a post, with a reply
    sha256: str


def check_data(cfg: DataCfg, phase: str = "both") -> None:
    """Refuse files that cannot be trained on. `phase` (sft, grpo, both): what will run. Raises ConfigError."""
    given = {name: path for name in FILES if (path := getattr(cfg, name))}
    for name in ("sft_file", "grpo_file"):
        if cfg.train_file and name in given:
            raise ConfigError(f"data.{name}: data.train_file, split into both phases, is given too; leave one empty")
        if not (cfg.train_file or name in given) and phase in ("both", name.removesuffix("_file")):
            raise ConfigError(f"data.{name} is empty; give its rows, or data.train_file to split into both phases")
    files = {name: Path(path).expanduser().resolve() for name, path in given.items()}
    for name, path in given.items():
        if not files[name].is_file():
            raise ConfigError(f"data.{name}: no such file: {path}")
        if name != "eval_file" and files[name] == files.get("eval_file"):
            raise ConfigError(f"data.eval_file: {path} is also data.{name}; give other rows, or leave it empty")


def load(cfg: DataCfg, folder: str | Path, limit: int = 0) -> Phases:
    """Read and divide the rows, at most `limit` per list (0: all), or read the snapshot in `folder`/data back.

    The rows of train_file are split; a phase without a file has no rows. Held out are eval_count posts with a reply, of
    eval_file or else of train_file, grpo_file or sft_file. Posts held out or in eval_file are in no phase.

    Raises ConfigError for bad files and rows, a post in both files, too few rows, and a snapshot of other settings or
    with changed files; CannotWrite if the snapshot cannot be written.
    """
    snapshot = Snapshot(Path(folder) / "data", to_public_dict(cfg) | {"limit": limit}, "logging.output_dir")
    if not snapshot.exists:
        sft, grpo, heldout = (rows[: limit or None] for rows in _divided(cfg))
        snapshot.write([row | {"phase": "sft"} for row in sft] + [row | {"phase": "grpo"} for row in grpo], heldout, {})
        print(f"data: {len(sft)} rows for SFT, {len(grpo)} posts for GRPO, {len(heldout)} held out", flush=True)
    phases: dict[str, list[Row]] = {"sft": [], "grpo": []}
    sealed = snapshot.read()
    for row in sealed.train:
        phases[row.pop("phase")].append(row)
    return Phases(**phases, heldout=sealed.heldout, sha256=sealed.sha256)


def _divided(cfg: DataCfg) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the rows of SFT, of GRPO and the held-out ones."""
    paths = {name: path for name in FILES if (path := getattr(cfg, name))}
    files = {}
    for name, path in paths.items():
        found = read_rows(path, f"data.{name}", cfg.post_field, cfg.reply_field, replies=name != "grpo_file")
        files[name] = by_post(found, cfg.split_seed)
    if common := sorted(files.get("sft_file", {}).keys() & files.get("grpo_file", {})):
        raise ConfigError(
            f"data.grpo_file: posts that are also in data.sft_file: {len(common)}, e.g. {excerpt(common[0])}; remove "
            "them from one, or give all rows as data.train_file"
        )
    last = "eval_file" if cfg.eval_file else [*files][-1]
    heldout = [rows[-1] for rows in files[last].values() if "reference" in rows[-1]][: cfg.eval_count]
    held = files[last].keys() if cfg.eval_file else by_post(heldout, 0).keys()
    apart = {name: _rows(posts, posts.keys() - held) for name, posts in files.items()}
    sft, grpo = apart.get("sft_file", []), apart.get("grpo_file", [])
    if cfg.train_file:
        sft, grpo = split(apart["train_file"], cfg.split_ratio, cfg.split_seed)
    for name, kept in (("sft_file", sft), ("grpo_file", grpo), (last, heldout)):
        used = name if name in files else "train_file"
        if used in files and not kept:
            fix = "give other rows as data.eval_file" if cfg.eval_file else "lower data.eval_count"
            what = f"for {name[:-5].upper()} is left besides the {len(held)} held out; give more rows, or {fix}"
            what = what if heldout else "has a reply to evaluate with; give data.eval_file"
            raise ConfigError(f"data.{used}: {paths[used]}: no post {what}")
    return sft, [rows[0] for rows in by_post(grpo, cfg.split_seed).values()], heldout


def read_rows(
    path: str | Path, argument: str, post_field: str = "", reply_field: str = "", replies: bool = True
) -> list[Row]:
    """Return distinct clean rows; without `replies` a row needs no reply. `argument`: the setting that names the file.

    Raises ConfigError for a missing column and, with the line, for a row without a post or reply.
    """
    records = read_all(path, argument, (post_field, reply_field if replies else ""))
    first = [str(value).strip().lower() for value in records[0].cells.values()]
    if not (post_field or reply_field) and set(first) & set(COLUMNS["post"]):  # a header unknown to read_all
        records = read_all(path, argument, [name for name in first if name in sum(COLUMNS.values(), ())])
    columns = {column.lower(): column for _, cells in records for column in cells}
    found: dict[str, str] = {}
    for what, named in (("post", post_field), ("reply", reply_field)):
        names = (named.lower(),) if named else COLUMNS[what]
        found[what] = next((columns[name] for name in names if name in columns), "")
        if not found[what] and (replies or what == "post"):
            has = f"has no column {' or '.join(names)}, only {', '.join(columns.values()) or 'empty rows'}"
            raise ConfigError(f"{argument}: {path} {has}; name the {what} in {what}_field")
    rows: dict[tuple[str, str], Row] = {}
    for where, cells in records:
        post, reply = (clean_text(cells, column, where) if column else "" for column in found.values())
        missing = "post" if is_blank(post) else "reply" if replies and is_blank(reply) else ""
        if missing:
            raise ConfigError(f"{where} has no {missing} in {found[missing]!r}: remove rows without {missing}")
        row = {"source": post} if is_blank(reply) else {"source": post, "reference": reply}
        rows.setdefault((_folded(post), _folded(reply)), row)
    if len(rows) < len(records):
        print(f"{argument}: duplicate rows that are not used: {len(records) - len(rows)}", flush=True)
    return list(rows.values())


def split(rows: list[Row], ratio: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows of SFT and of GRPO; SFT has `ratio` of the posts of every stratum, within one post."""
    posts, members = by_post(rows, seed), defaultdict(list)
    for post, stratum in strata(posts).items():
        members[stratum].append(post)
    sft: set[str] = set()
    seen = 0
    for _, stratum in sorted(members.items()):
        seen += len(stratum)
        sft.update(stratum[: math.floor(seen * ratio + 0.5) - len(sft)])  # so that rounding errors do not add up
    return _rows(posts, sft), _rows(posts, posts.keys() - sft)


def strata(posts: dict[str, list[Row]]) -> dict[str, tuple[int, ...]]:
    """Return the terciles (0, 1, 2) of each post: of its length in characters and of its TextBlob polarity.

    Equal values are in the same tercile, that of their middle rank. Without textblob only the length counts.
    """
    terciles = []
    for measure in (len, _polarity()):
        values = [measure(rows[0]["source"]) for rows in posts.values()]
        ranked = sorted(values)
        middles = (bisect_left(ranked, value) + bisect_right(ranked, value) for value in values)  # times 2
        terciles.append([3 * middle // (2 * len(ranked)) for middle in middles])
    return dict(zip(posts, zip(*terciles, strict=True), strict=True))


@functools.cache
def _polarity() -> Callable[[str], float]:
    try:
        from textblob import TextBlob
    except ImportError:
        warn("textblob is not installed: posts are stratified by length alone; pip install textblob")
        return lambda text: 0.0
    return lambda text: TextBlob(text).sentiment.polarity


def by_post(rows: Iterable[Row], seed: int) -> dict[str, list[Row]]:
    """Return folded post → its rows, in the order of the posts' hashes; rows with a reply last."""
    posts = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.get("reference", ""), row["source"])):
        posts[_folded(row["source"])].append(row)
    return dict(sorted(posts.items(), key=lambda item: hashlib.sha256(f"{seed}\n{item[0]}".encode()).digest()))


def _rows(posts: dict[str, list[Row]], wanted: Iterable[str]) -> list[Row]:
    return [row for post, rows in posts.items() if post in wanted for row in rows]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
