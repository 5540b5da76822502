"""Name, check and load the frozen models of the translation reward: scorers of cycle and quality, back-translator."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rl_nmt.audit.cheats import honest_pairs
from rl_nmt.data import tables
from rl_nmt.errors import ConfigError
from rl_nmt.guards.language import FILE, gate_identity, is_checked, require_identifier
from rl_nmt.hub import COMET, ModelUse, scorer_file
from rl_nmt.scorers.shared import Shared, SharedTranslator
from rl_nmt.text.languages import ENGLISH, Language

FEWEST = 16  # worked pairs: eight in the prompt, eight to set the scale


def used(own: Any, start: str = "") -> list[ModelUse]:
    """See `RewardSettings.reward_models_used`; `own`: RewardSettings."""
    da = ModelUse("comet_da_model", own.comet_da_model, COMET, "comet_da")
    translator = ModelUse("backtranslation_model", own.backtranslation_model, part="translator")
    qe = ModelUse("comet_qe_model", own.comet_qe_model, scorer_file(own.comet_qe_model), "comet_qe")
    likelihood = ModelUse("likelihood_model", own.likelihood_model or start, part="likelihood")
    wanted = {"cycle": [da, translator] if own.cycle == "backtranslation" else [likelihood]}
    wanted["qe"] = [qe] if own.qe == "model" else [likelihood]
    found = [model for part, models in wanted.items() if getattr(own, f"w_{part}") for model in models]
    if own.guards == "on" and is_checked(own.language, own.language_identifier):
        found.append(ModelUse("language_identifier", own.language_identifier, FILE, "language identifier"))
    return [model for place, model in enumerate(found) if model.name and model not in found[:place]]


def devices(own: Any, explain: bool = False) -> tuple[str, str]:
    """See `RewardSettings.require_devices`; `own`: RewardSettings."""
    from rl_nmt.backtranslation import require_engine
    from rl_nmt.models.loading import choose_device, torch_dtype

    reward, dual = (choose_device(getattr(own, name), name, explain) for name in ("reward_device", "dual_device"))
    if own.reward_dtype != "auto":
        torch_dtype("reward_dtype", own.reward_dtype, reward)
    if own.w_cycle and own.cycle == "backtranslation":
        require_engine(own.backtranslation_backend, dual, own.dual_dtype, own.reward_offload)
    return reward, dual


def require(own: Any) -> None:
    """Refuse, in seconds, devices, precisions, and models that lack the language. Raises UserError.

    Of the back-translator only the tokenizer is loaded. Models that are not on this machine are asked when the reward
    loads them.
    """
    devices(own)
    if own.guards == "on":
        require_identifier(own.language, own.language_identifier)
    if own.w_cycle and own.cycle == "backtranslation":
        from rl_nmt.backtranslation import require_languages

        require_languages(own.backtranslation_model, own.language.nllb, ENGLISH.nllb)


class Models(NamedTuple):
    """None: not needed. Without a back-translator, `cycle` scores (source, output) instead of the text read back."""

    backtranslator: Any
    cycle: Any
    qe: Any


def worked_pairs(own: Any, language: Language) -> list[tuple[str, str]]:
    """Return right (source, translation) pairs for the likelihood: of `worked_examples`, else those of the code.

    [] if no likelihood with a weight scores. Raises ConfigError, also for pairs that are too few or not in the
    language's script.
    """
    if not any(getattr(own, f"w_{part}") and getattr(own, part) == "likelihood" for part in ("cycle", "qe")):
        return []
    if not own.worked_examples:
        pairs, _ = honest_pairs(None, language=language.code)
        if not pairs:
            what = f"the code has no pairs in {language.name} for the value likelihood"
            raise ConfigError(f"worked_examples is empty, and {what}; give a file of at least {FEWEST} right pairs")
        return pairs
    read = tables.read_pairs(own.worked_examples, "worked_examples", language=language, strict=True)
    if len(read) < FEWEST:
        raise ConfigError(f"worked_examples: {own.worked_examples} has {len(read)} pairs; give at least {FEWEST}")
    return [(pair.source, pair.output) for pair in read]


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
        if not own.likelihood_model:
            raise ConfigError("likelihood_model is empty; name the causal language model that scores")
        from rl_nmt.scorers.reconstruction import Worked, load_reconstruction

        worked = Worked((ENGLISH.name, language.name), pairs)
        return scorer("likelihood_model", load_reconstruction, worked=worked, side=side)

    if own.guards == "on":
        gate_identity(language, own.language_identifier)  # loads its model, which would else fail at the first output
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
            target=ENGLISH.nllb,
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
