"""Gemma 3 under transformers 4: name the decoder where TRL 1.16 looks for it. Imports torch only when called."""

import sys
from importlib.metadata import version

_MODULE = "transformers.models.gemma3.modeling_gemma3"  # imported by transformers when a Gemma 3 model is loaded


def repair_gemma3() -> None:
    """Let TRL train `Gemma3ForCausalLM` under transformers 4.57: call it once, before the trainer is built.

    That transformers gives the class a base_model_prefix that no instance has as an attribute. `base_model` is then the
    whole model, but TRL's log-probabilities need the decoder, and the first loss fails with "'CausalLMOutputWithPast'
    object has no attribute 'last_hidden_state'". It does nothing under transformers 5, which has no such fault.
    """
    from transformers import Gemma3ForCausalLM

    if _faulty(Gemma3ForCausalLM):
        name_decoder(Gemma3ForCausalLM)


def name_decoder(model_class: type) -> None:
    """Make `base_model` of a causal model its decoder.

    It changes the class: a corrected prefix would break loading of multimodal checkpoints, and a change of one instance
    would not cover the reference model that TRL builds.
    """
    model_class.base_model = property(lambda self: self.model)  # type: ignore[attr-defined]


def unrepaired_gemma3() -> str | None:
    """Return a warning when this process has loaded Gemma 3 and TRL would fail on it, else None."""
    module = sys.modules.get(_MODULE)
    if module is None or not _faulty(module.Gemma3ForCausalLM):
        return None
    return (
        f"Gemma3ForCausalLM in transformers {version('transformers')}: TRL's loss will fail with \"'CausalLMOutputWith"
        "Past' object has no attribute 'last_hidden_state'\"; call rl_nmt.models.repair_gemma3() before the trainer is "
        "built"
    )


def _faulty(model_class: type) -> bool:
    return getattr(model_class, "base_model_prefix", "") == "language_model" and "base_model" not in vars(model_class)
