"""Make templates with masks from streamed texts, or read them from a file; divide them into two lists. No torch.

A template is a sequence of token ids from bos to eos, with the mask token where something is to be written. A row has
it as "ids", and as "source" for people: its text with "_" for each mask. Rows of texts have the text as "reference".
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from recipes.diffusion.settings import DiffusionCfg
from rl_nmt.data import tables
from rl_nmt.data.corpus import CorpusSettings, materialise
from rl_nmt.data.snapshot import Sealed
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.text.templates import encode_template, shown, text_ids

Row = dict[str, Any]
FIXES = {  # why a text gives no template → the fix
    "with unknown characters": "give texts in the characters that the generator was pretrained on",
    "longer than the model reads": "lower max_chars",
    "with fewer tokens than denoising_steps": "lower denoising_steps, or raise min_chars",
}


class Templates(NamedTuple):
    """The templates of a run, no list empty. sha256: of the snapshot of texts, or of the file."""

    train: list[Row]
    heldout: list[Row]
    sha256: str


def load(cfg: DiffusionCfg, folder: Path, tokenizer, context: int) -> Templates:
    """Return the templates, of at most `context` tokens with bos and eos; texts are saved in `folder`/data once.

    Raises ConfigError (bad texts, templates and snapshots; a list would be empty), MissingService and CannotWrite.
    """
    if cfg.template_file:
        return _of_file(cfg, tokenizer, context)
    data, left = load_texts(cfg, folder), Counter[str]()
    train, heldout = (_rows(part, cfg, tokenizer, context, left) for part in (data.train, data.heldout))
    counts = ", ".join(f"{count} {why}" for why, count in left.most_common())
    if not train or not heldout:
        what, fix = "held out" if train else "to train on", FIXES[left.most_common(1)[0][0]]
        raise ConfigError(f"dataset: {cfg.dataset}: no text {what} gives a template ({counts}); {fix}")
    print(f"data: {len(train)} templates, {len(heldout)} held out" + f"; not used: {counts}" * bool(left), flush=True)
    return Templates(train, heldout, data.sha256)


def load_texts(cfg: DiffusionCfg, folder: Path) -> Sealed:
    """Return the texts of a run, read once and saved in `folder`/data. Errors as of `corpus.materialise`."""
    names = {field.name for field in fields(CorpusSettings)} - {"dataset_name"}
    settings = CorpusSettings(dataset_name=cfg.dataset, **{name: getattr(cfg, name) for name in names})
    try:
        return materialise(folder / "data", settings)
    except UserError as error:
        error.args = (str(error).replace("dataset_name", "dataset"),)
        raise


def _rows(found: list[str], cfg: DiffusionCfg, tokenizer, context: int, left: Counter[str]) -> list[Row]:
    """Return a row for each text that can be a template; count the others by reason in `left`."""
    rows, mask, unknown = list[Row](), tokenizer.mask_token_id, tokenizer.unk_token_id
    for text, ids in zip(found, text_ids(tokenizer, found), strict=True):
        unfit = unknown in ids[1:-1], len(ids) > context, len(ids) - 2 < max(1, cfg.denoising_steps)
        if any(unfit):
            left[tuple(FIXES)[unfit.index(True)]] += 1
            continue
        for place in masked_places(len(ids) - 2, cfg, text):
            ids[1 + place] = mask
        rows.append({"ids": ids, "source": shown(ids, tokenizer), "reference": text})
    return rows


def masked_places(length: int, cfg: DiffusionCfg, text: str) -> list[int]:
    """Return which of a text's `length` tokens are masked, from 0; they depend on seed and text alone."""
    drawn = random.Random(f"{cfg.seed}\n{text}")
    pattern = drawn.choices(("span", "random", "suffix"), (cfg.span_share, cfg.random_share, cfg.suffix_share))[0]
    count = max(1, cfg.denoising_steps, round(drawn.uniform(cfg.mask_low, cfg.mask_high) * length))
    if pattern == "random":
        return sorted(drawn.sample(range(length), count))
    start = length - count if pattern == "suffix" else drawn.randint(0, length - count)
    return list(range(start, start + count))


def _of_file(cfg: DiffusionCfg, tokenizer, context: int) -> Templates:
    """Return the distinct templates of template_file, those with the smallest seeded hashes held out."""
    lines = [row for row in tables.read(cfg.template_file, "template_file", kind="text") if row.cells["text"].strip()]
    every = [encode_template(row.cells["text"], tokenizer, row.where, context, cfg.denoising_steps) for row in lines]
    rows = [{"ids": list(ids), "source": shown(list(ids), tokenizer)} for ids in dict.fromkeys(map(tuple, every))]
    if len(rows) < 2:
        raise ConfigError(f"template_file: {cfg.template_file}: different templates: {len(rows)}; write at least 2")
    if len(rows) < len(every):
        print(f"template_file: duplicate templates that are not used: {len(every) - len(rows)}", flush=True)
    rows.sort(key=lambda row: hashlib.sha256(f"{cfg.seed}\n{row['source']}".encode()).digest())
    count = max(1, min(cfg.num_eval_samples, len(rows) // 4))
    sha256 = hashlib.sha256(Path(cfg.template_file).expanduser().read_bytes()).hexdigest()
    return Templates(rows[count:], rows[:count], sha256)
