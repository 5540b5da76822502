"""Build honest pairs and cheats for the launch gate of translation. No model, no torch.

A cheat is an output that a reward may score well but that no reader would take for a translation. *Hard* families could
not be a translation at all. *Soft* ones are in the language and may even be fluent, but say something else or less.
Families: cheats.yaml and families.py. A language with a file and a module of letters in TONGUES has all of them and
shipped pairs; any other has those that need none of its words (copies, chat, loops, cuts, other sentences), made of the
user's references.
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
from rl_nmt.data.tables import IN_SCRIPT
from rl_nmt.errors import ConfigError
from rl_nmt.text.languages import SOURCE, Language, read_words
from rl_nmt.text.languages import language as find_language
from rl_nmt.text.unicode import clean_for_scoring, script_share

Family = Callable[[Case], str | None]
_HERE = Path(__file__).parent
SHIPPED, REFERENCES = "pairs that come with the code", "evaluation references"
FEWEST = 8  # references that the launch gate needs in a language without shipped pairs (ours)
# Hand-checked English–Tamil pairs (ours): 72 sentences of 4 to 25 words.
HONEST_FILE = _HERE.parent / "data" / "honest_en_ta.jsonl"


def _family(name: str, cells: dict[str, Any]) -> Family:
    def from_template(case: Case) -> str:
        texts = cells["text"] if "text" in cells else getattr(case.tongue, cells["text_of"])
        return case.rng.choice(texts).format(**case.slots)

    make = from_template if "is" in cells else getattr(families, name)
    words, source_words = int(cells.get("words", 0)), int(cells.get("source_words", 0))
    needs_words = "needs" in cells

    def made(case: Case) -> str | None:
        enough = len(case.words) >= words and len(case.source.split()) >= source_words
        return make(case) if enough and (case.tongue.letters or not needs_words) else None

    made.__doc__ = cells.get("is", make.__doc__)
    return made


_SHIPPED_ROWS = [json.loads(line) for line in HONEST_FILE.read_text(encoding="utf-8").splitlines()]
_AFFIRMED = {row["reference"]: row["affirmed"] for row in _SHIPPED_ROWS if "affirmed" in row}
TONGUES = {"ta": Tongue(**read_words(_HERE / "cheats_ta.yaml"), letters=transliteration, affirmed=_AFFIRMED)}
_TABLE = read_words(_HERE / "cheats.yaml")
MILDER = {name for name, cells in _TABLE["hard"].items() if "elsewhere" in (cells or {})}
HARD, SOFT = ({name: _family(name, cells or {}) for name, cells in _TABLE[kind].items()} for kind in ("hard", "soft"))


def build_suite(pairs: Sequence[Pair], language: str = "ta", seed: int = 0, source: str = "en") -> list[Cheat]:
    """Apply every family to every pair, family by family; equal input and seed give equal output.

    `pairs` are (source, honest translation), `language` and `source` codes of the table. A cheat that equals the honest
    text is left out, and a soft one that equals it after cleaning: it would be a translation. The cheats of a family do
    not depend on the other families. Raises ConfigError for an unknown code and for a blank side.
    """
    tongue = _tongue(language, source)
    for number, (text, honest) in enumerate(pairs, 1):
        if not text.strip() or not honest.strip():
            raise ConfigError(f"pairs: pair {number} has a blank source or translation: {text!r}, {honest!r}")
    common = frozenset(word for text, _ in pairs for word in WORD.findall(text) if word.islower())
    filled = [slots(*pair, tongue) for pair in pairs]
    cheats = []
    for name, family in (HARD | SOFT).items():
        hard = name in HARD and (tongue.letters is not None or name not in MILDER)
        for index, (text, honest) in enumerate(pairs):
            rng = random.Random(f"{seed}\n{name}\n{text}\n{honest}")
            cheat = family(Case(text, honest, pairs, common, tongue, filled[index], rng))
            if cheat is None or cheat == honest:
                continue
            if hard or clean_for_scoring(cheat) != clean_for_scoring(honest):
                cheats.append(Cheat(name, hard, index, cheat))
    return cheats


def _known(target: str, source: str) -> Tongue | None:
    return TONGUES.get(target) if source == SOURCE.code else None


def _tongue(target: str, source: str) -> Tongue:
    row, ours = find_language(target), find_language(source)
    return _known(target, source) or Tongue(row.code, row.name, ours.code)


def honest_pairs(
    rows: Sequence[Row] | None, seed: int = 0, count: int = MAX_PAIRS, language: str = "ta", source: str = "en"
) -> tuple[list[Pair], str]:
    """Return up to `count` (source, translation) pairs for the gate, and a phrase for where they come from.

    `rows` are evaluation rows {"source", "reference"?}; those with a reference in the language's own script are
    used, chosen by a seeded hash whatever their order. Without any, the shipped pairs are used: [] without a `Tongue`.
    """
    target, known = find_language(language), _known(language, source)
    found = [r for r in rows or () if r.get("reference") and script_share(r["reference"], target) >= IN_SCRIPT]
    chosen = choose(found or (_SHIPPED_ROWS if known else []), count, seed)
    only = "" if known else f"; only cheats that need no words of {target.name}"
    origin = f"{REFERENCES}{only}" if found else SHIPPED if known else ""
    return [(r["source"], r["reference"]) for r in chosen], origin


def too_few(pairs: Sequence[Pair], target: Language, source: Language = SOURCE) -> str:
    """Return why these honest pairs are not enough for a launch gate; "" if they are."""
    if _known(target.code, source.code) or len(pairs) >= FEWEST:
        return ""
    return f"{len(pairs)} {REFERENCES} in {target.name} script to make cheats of; give at least {FEWEST}"


def require_translation_launch(
    reward: Reward, rows: Sequence[Row], bound: float, seed: int = 0, language: str = "ta", source: str = "en"
) -> dict[str, Any]:
    """Run the launch gate on these rows, or shipped pairs, with the cheats of these languages; see `require_launch`.

    `bound`: mean share of wins that soft cheats may have. Raises RewardRefused.
    """
    pairs, origin = honest_pairs(rows, seed, language=language, source=source)
    return require_launch(
        reward, pairs, partial(build_suite, language=language, seed=seed, source=source), bound, origin
    )
