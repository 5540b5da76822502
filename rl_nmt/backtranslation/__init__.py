"""Tamil to English through an NLLB-format model."""

from rl_nmt.backtranslation.translator import load_backtranslator

__all__ = ["load_backtranslator"]
