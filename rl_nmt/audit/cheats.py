"""Cheats: outputs that a reward may like and that no reader would take for the translation.

*Hard* families could not be a translation at all. *Soft* ones are in the language and may even be fluent, but say
something else or less. Families: cheats.yaml and families.py; what differs from language to language: one file and
one module of letters each, in TONGUES. No model, no torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from rl_nmt.audit import families, transliteration
from rl_nmt.audit.families import Case, Tongue
from rl_nmt.audit.launch_gate import Cheat, Pair
from rl_nmt.audit.transliteration import WORD
from rl_nmt.errors import ConfigError
from rl_nmt.text.languages import read_words
from rl_nmt.text.unicode import clean_for_scoring

Family = Callable[[Case], str | None]
HERE = Path(__file__).parent


def _tongue(code: str, letters: ModuleType) -> Tongue:
    cells = read_words(HERE / f"cheats_{code}.yaml")
    return Tongue(**{**cells, "pointing": frozenset(cells["pointing"])}, letters=letters)


def _family(name: str, cells: dict | str) -> Family:
    if not cells:
        return getattr(families, name)

    def made(case: Case) -> str:
        words = {"source": case.source, "honest": case.honest, "language": case.tongue.name}
        return case.rng.choice(cells["text"]).format(**words)

    made.__doc__ = cells["is"]
    return made


TONGUES = {"ta": _tongue("ta", transliteration)}
_TABLE = read_words(HERE / "cheats.yaml")
HARD, SOFT = ({name: _family(name, cells) for name, cells in _TABLE[kind].items()} for kind in ("hard", "soft"))


def build_suite(pairs: Sequence[Pair], language: str = "ta", seed: int = 0) -> list[Cheat]:
    """Every family applied to every pair, family by family; equal input and seed give equal output.

    `pairs` are (source, honest translation). A cheat that equals the honest text character by character is
    left out. Soft cheats that equal it once cleaned are left out too: they would be translations. What a
    family makes of a pair does not depend on the other families.
    Raises ConfigError for a language without a `Tongue` and for a blank side.
    """
    if language not in TONGUES:
        raise ConfigError(f"language: no cheats are known for {language!r}; there are cheats for {', '.join(TONGUES)}")
    return list(_cheats(tuple(pairs), TONGUES[language], seed))


def _cheats(pairs: tuple[Pair, ...], tongue: Tongue, seed: int) -> Iterator[Cheat]:
    for number, (source, honest) in enumerate(pairs, 1):
        if not source.strip() or not honest.strip():
            raise ConfigError(f"pairs: pair {number} has a blank side: {source!r}, {honest!r}")
    common = frozenset(word for source, _ in pairs for word in WORD.findall(source) if word.islower())
    for hard, found in ((True, HARD), (False, SOFT)):
        for name, family in found.items():
            for index, (source, honest) in enumerate(pairs):
                rng = random.Random(f"{seed}\n{name}\n{source}\n{honest}")
                text = family(Case(source, honest, pairs, common, tongue, rng))
                if text is None or text == honest:
                    continue
                if hard or clean_for_scoring(text) != clean_for_scoring(honest):
                    yield Cheat(name, hard, index, text)
