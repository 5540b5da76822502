"""Build honest pairs and cheats for the launch gate of translation. No model, no torch.

A cheat is an output that a reward may score well but that no reader would take for a translation. *Hard* families could
not be a translation at all. *Soft* ones are in the language and may even be fluent, but say something else or less.
Families: cheats.yaml and families.py; each language has a file and a module of letters in TONGUES.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rl_nmt.audit import families, transliteration
from rl_nmt.audit.families import Case, Tongue, slots
from rl_nmt.audit.launch_gate import MAX_PAIRS, Cheat, Pair, Reward, require_launch
from rl_nmt.audit.transliteration import WORD
from rl_nmt.data.eval_sets import Row, choose
from rl_nmt.errors import ConfigError
from rl_nmt.text.languages import LANGUAGES, read_words
from rl_nmt.text.unicode import clean_for_scoring, script_share

Family = Callable[[Case], str | None]
_HERE = Path(__file__).parent
SHIPPED = "pairs that come with the code"
# Hand-checked English–Tamil pairs (ours): 72 sentences of 4 to 25 words.
HONEST_FILE = _HERE.parent / "data" / "honest_en_ta.jsonl"


def _family(name: str, cells: dict[str, Any]) -> Family:
    def from_template(case: Case) -> str:
        texts = cells["text"] if "text" in cells else getattr(case.tongue, cells["text_of"])
        return case.rng.choice(texts).format(**case.slots)

    make = from_template if "is" in cells else getattr(families, name)
    words, source_words = int(cells.get("words", 0)), int(cells.get("source_words", 0))

    def made(case: Case) -> str | None:
        enough = len(case.words) >= words and len(case.source.split()) >= source_words
        return make(case) if enough else None

    made.__doc__ = cells.get("is", make.__doc__)
    return made


_SHIPPED_ROWS = [json.loads(line) for line in HONEST_FILE.read_text(encoding="utf-8").splitlines()]
_AFFIRMED = {row["reference"]: row["affirmed"] for row in _SHIPPED_ROWS if "affirmed" in row}
TONGUES = {"ta": Tongue(**read_words(_HERE / "cheats_ta.yaml"), letters=transliteration, affirmed=_AFFIRMED)}
_TABLE = read_words(_HERE / "cheats.yaml")
HARD, SOFT = ({name: _family(name, cells or {}) for name, cells in _TABLE[kind].items()} for kind in ("hard", "soft"))


def build_suite(pairs: Sequence[Pair], language: str = "ta", seed: int = 0) -> list[Cheat]:
    """Apply every family to every pair, family by family; equal input and seed give equal output.

    `pairs` are (source, honest translation). A cheat that equals the honest text is left out, and a soft one that
    equals it after cleaning: it would be a translation. The cheats of a family do not depend on the other
    families. Raises ConfigError for a language without a `Tongue` and for a blank side.
    """
    if language not in TONGUES:
        raise ConfigError(f"language: {language!r} has no cheats; use one of {', '.join(TONGUES)}")
    for number, (source, honest) in enumerate(pairs, 1):
        if not source.strip() or not honest.strip():
            raise ConfigError(f"pairs: pair {number} has a blank source or translation: {source!r}, {honest!r}")
    tongue = TONGUES[language]
    common = frozenset(word for source, _ in pairs for word in WORD.findall(source) if word.islower())
    filled = [slots(source, honest, tongue) for source, honest in pairs]
    cheats = []
    for name, family in (HARD | SOFT).items():
        hard = name in HARD
        for index, (source, honest) in enumerate(pairs):
            rng = random.Random(f"{seed}\n{name}\n{source}\n{honest}")
            text = family(Case(source, honest, pairs, common, tongue, filled[index], rng))
            if text is None or text == honest:
                continue
            if hard or clean_for_scoring(text) != clean_for_scoring(honest):
                cheats.append(Cheat(name, hard, index, text))
    return cheats


def honest_pairs(
    rows: Sequence[Row] | None, seed: int = 0, count: int = MAX_PAIRS, language: str = "ta"
) -> tuple[list[Pair], str]:
    """Return up to `count` (source, translation) pairs for the gate, and a phrase for where they come from.

    `rows` are evaluation rows {"source", "reference"?}; those with a reference in the language's own script are
    used, chosen by a seeded hash whatever their order. Without any, the shipped pairs are used.
    """
    tongue = LANGUAGES[language]
    found = [r for r in rows or () if r.get("reference") and script_share(r["reference"], tongue) >= 0.5]
    chosen = choose(found or _SHIPPED_ROWS, count, seed)
    return [(r["source"], r["reference"]) for r in chosen], "evaluation references" if found else SHIPPED


def require_translation_launch(
    reward: Reward, rows: list[dict[str, str]], bound: float, seed: int = 0, language: str = "ta"
) -> dict[str, Any]:
    """Run the launch gate on these rows, or shipped pairs, with the cheats of `language`; see `require_launch`.

    `bound`: mean share of wins that soft cheats may have. Raises RewardRefused.
    """
    pairs, origin = honest_pairs(rows, seed, language=language)
    return require_launch(reward, pairs, partial(build_suite, language=language, seed=seed), bound, origin)
