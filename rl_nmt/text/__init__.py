"""Strings: languages, Unicode, tokens, numbers, sounds, prompts. No model, no torch."""

from rl_nmt.text.languages import LANGUAGES, TAMIL, language

__all__ = ["LANGUAGES", "TAMIL", "language"]
