"""Refuse a judge that fills which are not language can win. No torch until it is called.

Cheats keep a held-out template's given tokens and fill its masks. *Hard* families: one letter, blanks, random letters
(with subword tokens: tokens). *Soft* ones: the text's own tokens in another order, a word repeated.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from recipes.diffusion.reward import SETTING, JudgeReward
from rl_nmt.audit.launch_gate import MAX_PAIRS, Cheat, require_launch
from rl_nmt.data.eval_sets import choose
from rl_nmt.errors import RewardRefused
from rl_nmt.text.templates import text_ids

HARD = ("same character", "blanks", "random letters")
MAX_SOFT_WIN_SHARE = 0.2  # mean share of comparisons that soft families may win (ours)
MIN_MASKS = 5  # of a template that is compared: a few random letters may fit by chance (ours)
NO_REFERENCE = f"no held-out row has a reference and at least {MIN_MASKS} masks"


def cheats(rows: Sequence[dict[str, Any]], tokenizer, seed: int) -> list[Cheat]:
    """Return the cheats of rows {"ids", a template as a list, "source", as shown, "reference"}, never a reference."""
    from rl_nmt.models.masked_diffusion import banned_ids

    never, references = {*banned_ids(tokenizer)}, text_ids(tokenizer, [row["reference"] for row in rows])
    counts = Counter(token for ids in references for token in ids if token not in never).most_common()
    letters = [t for t, _ in counts if any(map(str.isalpha, tokenizer.decode([t])))] or [t for t, _ in counts]
    blanks = [token for token in text_ids(tokenizer, [" "])[0] if token not in never]  # some tokenizers have none
    frequent = Counter(word for row in rows for word in row["reference"].split()).most_common(1)[0][0]
    found = []
    for i, (row, ids) in enumerate(zip(rows, references, strict=True)):
        places = [place for place, token in enumerate(row["ids"]) if token == tokenizer.mask_token_id]
        count, own, shown = len(places), [ids[place] for place in places], row["source"].split()
        rng = random.Random(f"{seed}\n{row['source']}\n{row['reference']}")
        word = rng.choice([word for word in row["reference"].split() if word in shown] or [frequent])
        fills = {
            "same character": letters[:1] * count,
            "blanks": (blanks * count)[:count],
            "random letters": rng.choices(letters, k=count),
            "shuffled": rng.sample(own, count),
            "repeated word": text_ids(tokenizer, [" ".join([word] * count)])[0][1:-1][:count],
        }
        for family, fill in fills.items():
            written = dict(zip(places, fill, strict=False))
            text = tokenizer.decode([written.get(*each) for each in enumerate(row["ids"])], skip_special_tokens=True)
            if fill and fill != own and text != row["reference"]:
                found.append(Cheat(family, family in HARD, i, text))
    return found


def require_honest_judge(reward: JudgeReward, rows: Sequence[dict[str, Any]], seed: int, tokenizer) -> dict[str, Any]:
    """Run the launch gate on up to MAX_PAIRS held-out rows with a reference, and return its verdict.

    Rows as in `cheats`; "passed" is None where none can be compared. Raises RewardRefused.
    """
    usable = [row for row in rows if row.get("reference") and row["ids"].count(tokenizer.mask_token_id) >= MIN_MASKS]
    if not usable:
        print(f"launch gate: not run: {NO_REFERENCE}", flush=True)
        return {"passed": None, "reasons": [NO_REFERENCE]}
    chosen = choose(usable, MAX_PAIRS, seed)
    pairs = [(row["source"], row["reference"]) for row in chosen]
    try:
        return require_launch(reward, pairs, lambda _: cheats(chosen, tokenizer, seed), MAX_SOFT_WIN_SHARE, "held out")
    except RewardRefused as error:
        why = "the launch gate refuses it (table above); fit or give another judge, or add --skip_launch_gate"
        raise RewardRefused(f"{SETTING}: {reward.source}: {why}") from error
