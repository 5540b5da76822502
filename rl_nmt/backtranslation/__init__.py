"""Back-translation, such as Tamil to English, with an NLLB-format model."""

from rl_nmt.backtranslation.translator import load_backtranslator, require_engine

__all__ = ["load_backtranslator", "require_engine"]
