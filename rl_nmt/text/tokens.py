"""Split a text into tokens, and mark those that a translation may keep unchanged. No torch.

A token is a word of one script, a number, or something that is not translated: URL, e-mail address, placeholder,
code. Names, acronyms and units, which a translation may keep, are guessed from the source's capitals.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from operator import itemgetter

from rl_nmt.text.languages import FILE_ENDINGS, POSSESSIVES, QUOTE_MARKS, Language
from rl_nmt.text.unicode import clean_for_scoring, within

LITERAL = ("url", "email", "placeholder", "code")  # kinds that are kept letter by letter

_PLACEHOLDER = re.compile(
    r"(\{\{?[^{}\s]{0,60}\}\}?|\$\{[^{}\s]{0,60}\}|(?<![0-9])%(?:\([A-Za-z_]\w{0,40}\))?[sdif](?![A-Za-z])"
    r"|</?[A-Za-z][A-Za-z0-9]{0,20}(?: [^<>]{0,200})?/?>|&[a-z]{2,8};|&#[0-9]{2,6};)"
)
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,6}")
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.(?=[!-~]{2}))[!-~]{0,1900}", re.IGNORECASE)
_FILE = re.compile(rf"[\w+-][\w.+-]{{0,80}}\.(?:{'|'.join(FILE_ENDINGS)})|\.[a-z][a-z0-9]{{1,4}}", re.I | re.A)
_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,12}(?:/[!-~]{0,500})?")
_EDGES = "\"'“”‘’«»()[]<>,;:!?…。"
_MAX_LITERAL = 2000  # a longer run without a space is not an address


@dataclass(frozen=True, slots=True)
class Token:
    """`text` as written (NFKC), `key` for comparison (no case, no accents), `kind`: word, number or LITERAL.

    `script` is the first word of the Unicode names of its letters ("TAMIL", "LATIN", "" without letters);
    `initial`: opens a sentence; `apart`: follows a comma, bracket or other sign that names do not contain.
    """

    text: str
    key: str
    kind: str
    script: str
    initial: bool
    apart: bool = False


def tokenize(s: str, language: Language) -> list[Token]:
    """Split `s` (cleaned here) into tokens, in order; punctuation and symbols are left out.

    Words are split at hyphens, apostrophes at their end, digits, and where the script changes ("NATO-வின்" and
    "NATOவின்" give the same two). `language` decides which full stops do not end a sentence.

    >>> from rl_nmt.text.languages import ENGLISH
    >>> [(t.text, t.kind) for t in tokenize("Mail a@b.org 2 NATOவின் {x}!", ENGLISH)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('Mail', 'word'), ('a@b.org', 'email'), ('2', 'number'), ('NATO', 'word'), ('வின்', 'word'),
     ('{x}', 'placeholder')]
    """
    tokens: list[Token] = []
    initial, opening, apart = True, language.end_marks + QUOTE_MARKS + ":;([•", False
    for chunk in _chunks(s):
        head, kind, runs = _parts(chunk) if len(chunk) < _LONG else _parts.__wrapped__(chunk)
        if kind:
            tokens.append(Token(head, fold(head), kind, "", initial))
            initial, apart = initial and kind == "placeholder", True
        for text, key, script in runs:
            if script == "SYMBOL":
                apart = apart or not _IN_NAMES.issuperset(text)
                ends = text[-1] in opening or text[0] in language.end_marks
                last = tokens[-1] if tokens and text == "." else None
                letter = last and last.kind == "word" and len(last.text) == 1
                initial = initial or (ends and not (letter or (last and last.key in language.abbreviations)))
                continue
            kind = "number" if script == "" else "word"
            tokens.append(Token(text, key, kind, script, initial, apart))
            initial = apart = False
    return tokens


_IN_NAMES = frozenset(".-'’&")
_LONG = 64  # characters from which on a chunk is not cached


@lru_cache(maxsize=1 << 15)
def _parts(chunk: str) -> tuple[str, str, tuple[tuple[str, str, str], ...]]:
    """Return a chunk's literal head, the head's kind, and the rest as runs of one script: (text, key, script)."""
    head, kind = _literal_head(chunk)
    rest = chunk[len(head) :] if kind else chunk
    return head, kind, tuple((text, "" if script == "SYMBOL" else fold(text), script) for text, script in _runs(rest))


def _chunks(s: str) -> Iterator[str]:
    """Yield the pieces between spaces of the cleaned text (NFKC), each placeholder whole."""
    pieces = _PLACEHOLDER.split(unicodedata.normalize("NFKC", clean_for_scoring(s)))
    for i, piece in enumerate(pieces):  # every second one is a placeholder
        yield from [piece] if i % 2 else piece.split()


def without_literals(s: str) -> str:
    """Return the text (cleaned here) with URLs, addresses, placeholders and code taken out.

    >>> without_literals("Mail a2@b.org {x1} 3 times")
    'Mail 3 times'
    """
    chunks = [(chunk, *_literal_head(chunk)) for chunk in _chunks(s)]
    return " ".join(filter(None, (chunk[len(head) :] if kind else chunk for chunk, head, kind in chunks)))


def _literal_head(chunk: str) -> tuple[str, str]:
    """Return a chunk's literal part and its kind; an ending in another script may follow."""
    kind = _literal(chunk)
    if kind or chunk.isascii() or not chunk[0].isascii():
        return chunk, kind
    head = chunk[: next(i for i, char in enumerate(chunk) if not char.isascii())].rstrip("-")
    return head, _literal(head)


def _literal(chunk: str) -> str:
    if len(chunk) > _MAX_LITERAL or chunk.isalpha():
        return ""
    if _PLACEHOLDER.fullmatch(chunk):
        return "placeholder"
    core = chunk.strip(_EDGES).rstrip(".")
    if "@" in core and _EMAIL.fullmatch(core):
        return "email"
    if _URL.fullmatch(core) or (core[:1].isalnum() and _DOMAIN.fullmatch(core) and _looks_like_domain(core)):
        return "url"
    return "code" if core.isascii() and core and (_FILE.fullmatch(core) or _is_code(core)) else ""


def _looks_like_domain(core: str) -> bool:
    """`weather.com` and `a.org/x`, but not `U.S`, `7.55am`, `e.g` or a missing space (`end.Then`)."""
    host, _, path = core.partition("/")
    *_, name, top = host.split(".")
    return min(len(name), len(top)) >= 2 and not host[0].isdigit() and (bool(path) or top.lower() in _TOP_LEVEL)


_TOP_LEVEL = frozenset("com org net edu gov info in uk eu io ai dev app tv me lk sg us ca au de fr".split())


def _is_code(core: str) -> bool:
    """`snake_case`, `f(x)`, `--flag`, `path/to.py`, `#tag`, `@handle`: only sure signs, so not `camelCase`."""
    tag = core[0] in "#@" and core[1:].replace("_", "").isalnum() and len(core) > 2
    flag = core.startswith("--") and len(core) > 3 and core[2].isalpha()
    return tag or flag or "_" in core.strip("_") or any(sign in core for sign in ("()", "::", "->", "=="))


def _runs(chunk: str) -> Iterator[tuple[str, str]]:
    """Yield maximal runs of one script ("" for digits, SYMBOL for the rest) in a chunk without spaces."""
    found = [SCRIPTS[char] for char in chunk]
    if None not in found and len(set(found)) == 1:  # most chunks
        yield chunk, found[0]
        return
    scripts: list[str] = []
    for i, (char, script) in enumerate(zip(chunk, found, strict=True)):
        before = scripts[-1] if scripts else ""
        if script is None:  # a mark or joiner belongs to the character before it
            script = before or "SYMBOL"
        elif char in "'’" and before not in ("", "SYMBOL") and i + 1 < len(chunk):
            script = before if found[i + 1] == before else "SYMBOL"
        scripts.append(script)
    for script, run in groupby(zip(scripts, chunk, strict=True), itemgetter(0)):
        yield "".join(char for _, char in run), script


class _Scripts(dict[str, str | None]):
    """First word of a letter's Unicode name, "" for a digit, SYMBOL for the rest, None for scriptless marks."""

    def __missing__(self, char: str) -> str | None:
        category, script = unicodedata.category(char), "SYMBOL"
        if category == "Nd":
            script = ""
        elif category[0] in "LM":
            script = unicodedata.name(char, "UNKNOWN").split()[0]
            if category[0] == "M" and script in ("COMBINING", "VARIATION", "VEDIC"):
                script = None
        elif char in "\u200c\u200d":
            script = None
        self[char] = script
        return script


SCRIPTS = _Scripts()


def fold(s: str) -> str:
    """Return `s` for comparison: NFKC, case folded, without accents on Latin letters and the possessive 's.

    >>> fold("Zárate’s")
    'zarate'
    """
    s = unicodedata.normalize("NFKC", s).casefold().replace("’", "'")
    if not s.isascii():
        s = "".join(c for c in unicodedata.normalize("NFD", s) if not "\u0300" <= c <= "\u036f")
        s = unicodedata.normalize("NFC", s)
    for ending in POSSESSIVES:
        s = s.removesuffix(ending)
    return s


def kept(tokens: list[Token], language: Language) -> list[bool]:
    """Return for each token of a source whether a translation may keep it unchanged.

    It may keep numbers and LITERAL kinds; words with a capital beyond their first letter (NASA, iPhone); words with a
    capital inside a sentence, or at its start when a capitalised word follows or the same word has one elsewhere; small
    words of a title or between two of these ("Marks and Spencer", "The Lord of the Rings"); a short word right after a
    number ("10 kph"); words outside the language's script. In a text in capitals or title case, capitals are ignored.
    """
    capitals_tell = not _titled(tokens, language)
    inside = {t.key for t in tokens if capitals_tell and _capital(t, language) and not t.initial}
    flags = [_stays(t, language, capitals_tell, inside) for t in tokens]
    for i, (before, after) in enumerate(pairwise(tokens)):
        if not flags[i] and before.initial and flags[i + 1] and capitals_tell and not after.apart:
            flags[i] = _capital(before, language) and after.text[:1].isupper()
        if before.kind == "number" and after.kind == "word" and len(after.text) <= 4 and after.text.islower():
            flags[i + 1] = flags[i + 1] or after.key not in language.function_words
    names = [
        flag and token.kind == "word" and token.text[:1].isupper() for token, flag in zip(tokens, flags, strict=True)
    ]
    for i in range(1, len(tokens) - 1):
        left = names[i - 1] or (i > 1 and names[i - 2] and flags[i - 1])  # "of the" connects two words, too
        right = names[i + 1] or (tokens[i + 1].key in language.connectors and names[i + 2 : i + 3] == [True])
        title = capitals_tell and tokens[i].text[:1].isupper() and not tokens[i].initial and names[i + 1]  # "The Lord"
        flags[i] = flags[i] or (tokens[i].key in language.connectors and left and right) or title
    return flags


def excused(tokens: list[Token], flags: list[bool], output: list[Token], language: Language) -> list[bool]:
    """Return `flags`, as from `kept`, with further tokens that may stay if an output has them in the same letters.

    These are a program of the row and the word after it ("git commit"), a word before a noun such as command, the two
    words of a species (Panthera tigris), and a capitalised word that opens the text, perhaps a brand, unless the next
    word is copied too: then it is running text.
    """
    said, keys = {t.text for t in output}, {t.key for t in output}
    more = list(flags)
    for i, token in enumerate(tokens):
        if token.kind != "word" or token.text not in said or is_small(token, language):
            continue
        before, after = (tokens[j].key if 0 <= j < len(tokens) else "" for j in (i - 1, i + 1))
        alone = i == 0 and token.text[:1].isupper() and (after not in keys or flags[i + 1])
        command = after in language.command_nouns or not {token.key, before}.isdisjoint(language.programs)
        more[i] = more[i] or alone or command
        genus = tokens[i - 1] if i and tokens[i - 1].text in said and _capital(tokens[i - 1], language) else None
        if genus and token.text.islower() and token.key.endswith(language.species):
            more[i - 1] = more[i] = True
    return more


def _stays(token: Token, language: Language, capitals_tell: bool, inside: set[str]) -> bool:
    if token.kind != "word" or not own(token, language):
        return True
    if not capitals_tell or is_small(token, language):
        return False
    brand = not token.text[1:].islower() and any(map(str.isupper, token.text[1:]))  # NASA, iPhone, McDonald
    return brand or token.key in inside


def _capital(token: Token, language: Language) -> bool:
    return token.kind == "word" and token.text[:1].isupper() and not is_small(token, language)


def is_small(token: Token, language: Language) -> bool:
    """Whether a word is a function word: "us", but not US."""
    return token.key in language.function_words and not (token.key in language.acronyms and token.text.isupper())


def _titled(tokens: list[Token], language: Language) -> bool:
    """Whether (nearly) all words that need no capital have one: a headline, or capitals throughout."""
    words = [t for t in tokens if t.kind == "word" and len(t.text) > 1]
    if len(words) > 1 and all(t.text.isupper() for t in words):
        return True
    if len(tokens) in (2, 3) and len(words) == len(tokens) and all(_capital(t, language) for t in words):
        return not any(t.text[1:2].isupper() for t in words)  # "Purchase Successful!"
    small = any(t.key in language.function_words and not t.initial for t in words)  # they need a capital nowhere else
    if len(words) > 2 and small and all(t.text[0].isupper() for t in words):
        return True
    content = [t for t in words if t.key not in language.function_words]
    return len(content) >= 4 and sum(not t.text[0].isupper() for t in content) <= len(content) // 10


def own(token: Token, language: Language) -> bool:
    """Whether the token's first letter belongs to the language's script."""
    return within(ord(token.text[0]), language.ranges)
