"""Strings: languages, Unicode, tokens, numbers, sounds, prompts. No model, no torch."""

from rl_nmt.text.languages import LANGUAGES, TAMIL, language
from rl_nmt.text.pair import TextPair

__all__ = ["LANGUAGES", "TAMIL", "TextPair", "language"]
