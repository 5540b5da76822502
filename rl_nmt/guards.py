"""Gates: which outputs are no translation at all, and why. Pure functions over text, no model.

A gate is not a judge of quality. It names outputs that no score may lift above a real translation:
the reward gives them 0.0 whatever the neural scorers would say, and calls no model for them.
"""

from __future__ import annotations

from rl_nmt.text import Language, is_blank, script_share

MIN_SCRIPT_SHARE = 0.5  # below it most letters are foreign: not a sentence of the language (ours)


def gate(output: str, language: Language) -> str | None:
    """Return the reason why `output` is no translation into `language`, or None when it passes.

    `output` is cleaned text (rl_nmt.text.clean_for_scoring). Reasons: "empty" (nothing visible) and
    "script" (fewer than half of the letters belong to the language's script; an output without any
    letter counts as that too), "loop" (a word three times in a row; reduplication says it twice).

    >>> from rl_nmt.text import TAMIL
    >>> gate("நான் வந்தேன்.", TAMIL) is None
    True
    >>> gate("I came.", TAMIL)
    'script'
    >>> gate("", TAMIL)
    'empty'
    >>> gate("மெல்ல மெல்ல வந்தான்.", TAMIL), gate("ஒரு ஒரு ஒரு வீடு.", TAMIL)
    (None, 'loop')
    """
    if is_blank(output):
        return "empty"
    if script_share(output, language) < MIN_SCRIPT_SHARE:
        return "script"
    words = output.casefold().split()
    if any(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False)):
        return "loop"
    return None
