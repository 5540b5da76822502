"""Load the frozen models of the translation reward: scorers of cycle and quality, the back-translator."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rl_nmt.audit.cheats import honest_pairs
from rl_nmt.data import tables
from rl_nmt.errors import ConfigError
from rl_nmt.scorers.shared import Shared, SharedTranslator
from rl_nmt.text.languages import ENGLISH, Language
from rl_nmt.text.unicode import script_share

FEWEST = 16  # worked pairs: eight in the prompt, eight to set the scale


class Models(NamedTuple):
    """None: not needed. Without a back-translator, `cycle` scores (source, output) instead of the text read back."""

    backtranslator: Any
    cycle: Any
    qe: Any


def worked_pairs(own: Any, language: Language) -> list[tuple[str, str]]:
    """Return right (source, translation) pairs for the likelihood: of `worked_examples`, else those of the code.

    [] if no likelihood scores. Raises ConfigError, also for pairs that are too few or not in the language's script.
    """
    if "likelihood" not in (own.cycle, own.qe):
        return []
    if not own.worked_examples:
        return honest_pairs(None, language=language.code)[0]
    name = f"worked_examples: {own.worked_examples}"
    pairs = [(pair.source, pair.output) for pair in tables.read_pairs(own.worked_examples, "worked_examples")]
    if len(pairs) < FEWEST:
        raise ConfigError(f"{name} has {len(pairs)} pairs; give at least {FEWEST}")
    for number, (_, output) in enumerate(pairs, 1):
        if script_share(output, language) < 0.5:
            raise ConfigError(f"{name}: pair {number} is not in {language.name} script: {output[:60]!r}")
    return pairs


def load(own: Any, language: Language, devices: tuple[str, str], shared: bool, pairs: Sequence) -> Models:
    """Load the models that weights above 0 need.

    Args:
        own: RewardSettings; language: of the outputs; devices: of the scorers and of the back-translator.
        shared: one copy per machine for all its processes. Collective then.
        pairs: right (source, translation) pairs, for the worked examples and the scale of the likelihood.
    """
    from rl_nmt.scorers import comet, quality

    def scorer(argument: str, loader: Callable, **options: Any):
        options |= {"device": devices[0], "dtype": own.reward_dtype, "argument": argument}
        make = functools.partial(loader, getattr(own, argument), **options)
        return Shared(make) if shared else make()

    def likelihood(side: str):
        from rl_nmt.scorers.reconstruction import Worked, load_reconstruction

        worked = Worked((ENGLISH.name, language.name), pairs)
        return scorer("likelihood_model", load_reconstruction, worked=worked, side=side)

    # An offloaded model does not compute on the CPU: nothing is prepared for that at each move.
    linears = "torch" if own.reward_offload and devices[0] != "cpu" else "auto"
    backtranslator = cycle = qe = None
    if own.w_cycle and own.cycle == "likelihood":
        cycle = likelihood("source")
    elif own.w_cycle:
        from rl_nmt.backtranslation import load_backtranslator

        translate = functools.partial(
            load_backtranslator,
            own.backtranslation_model,
            source=language.nllb,
            target="eng_Latn",
            backend=own.backtranslation_backend,
            beams=own.backtranslation_beams,
            device=devices[1],
            dtype=own.dual_dtype,
        )
        backtranslator = SharedTranslator(translate) if shared else translate()
        cycle = scorer("comet_da_model", comet.load_comet, classes=("regression_metric",), linears=linears)
    if own.w_qe and own.qe == "likelihood":
        qe = likelihood("translation")
    elif own.w_qe:
        qe = scorer("comet_qe_model", quality.load_quality_estimation, linears=linears)
    return Models(backtranslator, cycle, qe)
