"""Text rules without a model or torch: languages, Unicode, tokens, numbers, sounds, prompts."""

from rl_nmt.text.languages import LANGUAGES, TAMIL, language
from rl_nmt.text.pair import TextPair

__all__ = ["LANGUAGES", "TAMIL", "TextPair", "language"]
