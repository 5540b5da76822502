"""Pair a source with one output; each side is cleaned and tokenised once, on first use. No torch."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from rl_nmt.text.languages import SOURCE, Language
from rl_nmt.text.tokens import Token, excused, kept, tokenize
from rl_nmt.text.unicode import Clean, one_line, without_invisible


@dataclass(frozen=True)
class TextPair:
    """A source and one output for it, both as given, and the rows of their languages.

    `visible_*` keeps line breaks and control tokens, which gates look for; `clean_*` is `clean_for_scoring` of it and
    `*_tokens` are the tokens of that; `kept` marks the source tokens that any translation may keep, `excused`
    those that this output may keep.

    >>> from rl_nmt.text.languages import TAMIL
    >>> pair = TextPair("Ravi <bos> came.", " ரவி\\nவந்தார்.", TAMIL)
    >>> pair.clean_source, pair.clean_output, [token.text for token in pair.output_tokens]
    ('Ravi came.', 'ரவி வந்தார்.', ['ரவி', 'வந்தார்'])
    """

    source: str
    output: str
    language: Language
    source_language: Language = SOURCE

    @classmethod
    def of(cls, *given: Any) -> Self:
        """Return the given TextPair, or make one of source, output, language and optionally source_language."""
        return given[0] if isinstance(given[0], cls) else cls(*given)

    @cached_property
    def visible_source(self) -> str:
        return without_invisible(self.source)

    @cached_property
    def visible_output(self) -> str:
        return without_invisible(self.output)

    @cached_property
    def clean_source(self) -> Clean:
        return Clean(one_line(self.visible_source))

    @cached_property
    def clean_output(self) -> Clean:
        return Clean(one_line(self.visible_output))

    @cached_property
    def source_tokens(self) -> list[Token]:
        return tokenize(self.clean_source, self.source_language)

    @cached_property
    def output_tokens(self) -> list[Token]:
        return tokenize(self.clean_output, self.language)

    @cached_property
    def kept(self) -> list[bool]:
        return kept(self.source_tokens, self.source_language)

    @cached_property
    def excused(self) -> list[bool]:
        return excused(self.source_tokens, self.kept, self.output_tokens, self.source_language)
