"""Back-translation, such as Tamil to English, with any frozen translator."""

from rl_nmt.backtranslation.translator import load_backtranslator, require_engine, require_languages

__all__ = ["load_backtranslator", "require_engine", "require_languages"]
