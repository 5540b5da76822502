"""Gemma 3 under transformers 4: name the decoder where TRL 1.16 looks for it."""


def repair_gemma3() -> None:
    """Let TRL train `Gemma3ForCausalLM` under transformers 4.57: call it once, before the trainer is built.

    That transformers gives the class a base_model_prefix that no instance has as an attribute. `base_model` is then the
    whole model, but TRL's log-probabilities need the decoder, and the first loss fails with "'CausalLMOutputWithPast'
    object has no attribute 'last_hidden_state'". It does nothing under transformers 5, which has no such fault.
    """
    from transformers import Gemma3ForCausalLM

    if Gemma3ForCausalLM.base_model_prefix == "language_model":
        name_decoder(Gemma3ForCausalLM)


def name_decoder(model_class: type) -> None:
    """Make `base_model` of a causal model its decoder.

    It changes the class: a corrected prefix would break loading of multimodal checkpoints, and a change of one instance
    would not cover the reference model that TRL builds.
    """
    model_class.base_model = property(lambda self: self.model)  # type: ignore[attr-defined]
