"""Tell what kind of translator a checkpoint is, and write its inputs: NLLB, M2M100, MADLAD-400 or a chat model.

Each class has its tokenizer; `identity`, what a signature says of it; `begin`, the token that every translation begins
with ("" for none); `encode`, which writes sentences as token ids; and `check`, which refuses a tokenizer that would
silently translate from or into another language.
"""

import difflib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.models.loading import load_tokenizer
from rl_nmt.text.languages import LANGUAGES, Language
from rl_nmt.text.prompts import chat_prompt, fill

SETTING = "backtranslation_model"
FAMILIES = "NLLB, M2M100, MADLAD-400 or a chat model"
CHAT_CHARACTERS = 2000  # of a sentence that a chat model reads: it fits into any context (ours)
INCOMPLETE = "tokenizer.json may be missing; fetch the model again"
# What MADLAD's tokenizer would take for a control token, or for the tag of another language, inside a text.
MADLAD_TOKENS = re.compile(r"<(?=(?:/?s|unk|pad|2\w+|extra_id_\d+)>)")

Rows = tuple[list[list[int]], int]  # token ids of each text; how many texts were cut


def open_family(folder: Path, source: str, target: str) -> "Tagged | Madlad | Chat":
    """Return the family of the model in `folder`, for translating from `source` into `target`, two of NLLB's tags.

    Raises ConfigError for another kind of model, a tokenizer that does not load, and a language without a code.
    """
    described = _described(folder)
    kind = described.get("model_type")  # a model that CTranslate2 has converted names none
    if kind not in ("m2m_100", "t5", None):
        if described.get("is_encoder_decoder"):
            named = (described.get("architectures") or [kind])[0]
            raise ConfigError(f"{SETTING}: {folder} is {named}; give {FAMILIES}")
        return Chat(folder, source, target)
    tokenizer = load_tokenizer(SETTING, folder)
    if kind == "t5" or (kind is None and "<2en>" in tokenizer.get_vocab()):
        return Madlad(tokenizer, source, target)
    has_codes = tokenizer.convert_tokens_to_ids("__en__") != tokenizer.unk_token_id
    return (M2M100 if has_codes else Nllb)(tokenizer, source, target)


def _described(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{SETTING}: {folder / 'config.json'} cannot be read: {error}") from error
    return described if isinstance(described, dict) else {}


def _row(tag: str, family: str) -> Language:
    """Return the row of the language table with this NLLB tag. Raises ConfigError for another one."""
    found = next((row for row in LANGUAGES.values() if row.nllb == tag), None)
    if found is None:
        raise ConfigError(f"{SETTING}: {family}'s code for {tag!r} is not known; give NLLB, or a language of the table")
    return found


def _code(tag: str, family: str) -> str:
    """Return the code of a language without its region."""
    return _row(tag, family).code.partition("_")[0]


class Tagged(ABC):
    """NLLB and M2M100: `[source tag] text </s>` in, the target's tag before each translation."""

    name: str

    def __init__(self, tokenizer: Any, source: str, target: str):
        self.tokenizer, self.source, self.begin = tokenizer, source, target
        self.identity: dict[str, Any] = {"source": source, "target": target}

    def encode(self, texts: Sequence[str], limit: int) -> Rows:
        """Return ids of at most `limit`; control tokens written in a text stay text."""
        rows = self.tokenizer(list(texts), split_special_tokens=True, verbose=False)["input_ids"] if texts else []
        return _cut(rows, limit, self.tokenizer.eos_token_id)

    @abstractmethod
    def check(self, vocabulary: int) -> None:
        """Refuse a tokenizer that does not fit; `vocabulary`: number of the model's token ids. Raises ConfigError."""


class Nllb(Tagged):
    """NLLB-200: tags of three letters and a script, tam_Taml."""

    name = "nllb"

    def check(self, vocabulary: int) -> None:
        check_tags(self.tokenizer, vocabulary, self.source, self.begin)


class M2M100(Tagged):
    """M2M100: codes of two or three letters between underscores, __ta__."""

    name = "m2m100"

    def __init__(self, tokenizer: Any, source: str, target: str):
        codes = [code if code != "fil" else "tl" for code in (_code(tag, "M2M100") for tag in (source, target))]
        super().__init__(tokenizer, *(f"__{code}__" for code in codes))
        tokenizer.split_special_tokens = True  # this slow tokenizer does not read it from its call
        self.identity = {"family": self.name, **dict(zip(("source", "target"), codes, strict=True))}
        self._codes = codes

    def check(self, vocabulary: int) -> None:
        tokens = {**self.tokenizer.get_added_vocab(), **getattr(self.tokenizer, "lang_token_to_id", {})}
        tags = [token for token in tokens if re.fullmatch(r"__[a-z]+__", token)]
        for tag in (self.source, self.begin):
            _require_tag(self.tokenizer, tag, tags)
        self.tokenizer.src_lang = self._codes[0]
        _require_inputs(self.tokenizer, self.source, vocabulary, "its tokenizer_config.json may be of another model")


class Madlad:
    """MADLAD-400, a T5: the target's tag before the source text, `<2en> text </s>`; it finds the source language."""

    name, begin = "madlad400", ""

    def __init__(self, tokenizer: Any, source: str, target: str):
        self.tokenizer, self.tag = tokenizer, f"<2{_code(target, 'MADLAD-400')}>"
        self.identity: dict[str, Any] = {"family": self.name, "source": source, "target": self.tag}

    def encode(self, texts: Sequence[str], limit: int) -> Rows:
        """Return ids of at most `limit`; control tokens and tags written in a text stay text."""
        tagged = [f"{self.tag} {MADLAD_TOKENS.sub('< ', text)}" for text in texts]
        rows = self.tokenizer(tagged, verbose=False)["input_ids"] if texts else []
        return _cut(rows, limit, self.tokenizer.eos_token_id)

    def check(self, vocabulary: int) -> None:
        """See `Tagged.check`."""
        _require_tag(self.tokenizer, self.tag, [word for word in self.tokenizer.get_vocab() if word.startswith("<2")])
        ids, end = self.tokenizer(f"{self.tag} 12 ab \ue000")["input_ids"], self.tokenizer.eos_token_id
        tag = self.tokenizer.convert_tokens_to_ids(self.tag)
        if tag not in ids[:2] or ids[-1] != end:
            raise ConfigError(f"{SETTING}: its tokenizer does not write {self.tag} text </s>: {INCOMPLETE}")
        if end in ids[:-1]:  # transformers 5 takes the unknown token of other T5 models
            raise ConfigError(f"{SETTING}: transformers 5 reads unknown characters as </s> here; use transformers 4")
        _require_words(self.tokenizer, [i for i in ids[:-1] if i != tag], vocabulary)


class Chat:
    """A causal chat model: one instruction per sentence, in its own chat format, answered greedily."""

    name, begin = "chat", ""

    def __init__(self, folder: Path, source: str, target: str):
        from rl_nmt.models import policy

        names = [_row(tag, "a chat model").name for tag in (source, target)]
        self.template = f"Translate this sentence from {names[0]} into {names[1]}. Answer with the translation only."
        self.template += "\n\n{source}"
        self.tokenizer = policy.load_tokenizer(str(folder), argument=SETTING)
        languages = dict(zip(("source", "target"), names, strict=True))
        self.identity: dict[str, Any] = {"family": self.name, **languages, "prompt": self.template, "beams": 1}

    def encode(self, texts: Sequence[str], limit: int) -> Rows:
        """Return ids of prompts around the first CHAT_CHARACTERS of each text."""
        from rl_nmt.models.generate import encode_prompts

        prompts = [chat_prompt(self.tokenizer, fill(self.template, text[:CHAT_CHARACTERS])) for text in texts]
        return encode_prompts(self.tokenizer, prompts), sum(len(text) > CHAT_CHARACTERS for text in texts)

    def check(self, vocabulary: int) -> None:
        """See `Tagged.check`. Gemma's tokenizer has one id more than its text models; prompts never contain it."""
        _require_words(self.tokenizer, self.tokenizer("12 ab")["input_ids"], len(self.tokenizer))


def _cut(rows: list[list[int]], limit: int, eos: int) -> Rows:
    cut = [row if len(row) <= limit else [*row[: limit - 1], eos] for row in rows]
    return cut, sum(len(row) > limit for row in rows)


def check_tags(tokenizer: Any, vocabulary: int, source: str, target: str) -> None:
    """Refuse a tokenizer of NLLB that would silently translate from or into another language.

    It gets `source` as its source language. NLLB's tags are consecutive, followed by `<mask>` and then by the tokens of
    a fine-tuned model. Raises ConfigError for a tag that is not a special token (`eng_latn`, `ta` silently become
    `<unk>`), `<mask>` elsewhere (transformers 5 may put it before the tags if tokenizer.json is missing), inputs that
    do not start with the source tag, a tokenizer without words, or more ids than the model has.
    """
    # Not all_special_tokens: add_special_tokens() replaces that list by default.
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    tags = [token for token in special if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", token)]
    for tag in (source, target):
        _require_tag(tokenizer, tag, tags)
    ids = set(tokenizer.convert_tokens_to_ids(tags))
    behind = next(i for i in range(min(ids), len(tokenizer) + 1) if i not in ids)
    if tokenizer.mask_token and tokenizer.mask_token_id != behind:
        raise ConfigError(
            f"{SETTING}: its language tags are shifted (<mask> has id {tokenizer.mask_token_id}, not "
            f"{behind}, the next one after the tags): {INCOMPLETE}"
        )
    tokenizer.src_lang = source
    _require_inputs(tokenizer, source, vocabulary, "set legacy_behaviour to false in its tokenizer_config.json")


def _require_tag(tokenizer: Any, tag: str, tags: list[str]) -> None:
    """Raise ConfigError, with the nearest of `tags`, unless `tag` is one of them and has an id."""
    if tag not in tags or tokenizer.convert_tokens_to_ids(tag) == tokenizer.unk_token_id:
        lacks = f"{SETTING}: its tokenizer has no language tag {tag!r}"
        for row in LANGUAGES.values():
            if tags and tag in (row.nllb, f"__{row.code}__"):
                raise ConfigError(f"{lacks}: it was not trained on {row.name}; give another translator, such as NLLB")
        near = difflib.get_close_matches(tag.lower(), [t.lower() for t in tags], n=1, cutoff=0.5)
        hint = next((f"; did you mean {t}?" for t in tags if near and t.lower() == near[0]), "")
        raise ConfigError(f"{lacks}{hint}")


def _require_inputs(tokenizer: Any, tag: str, vocabulary: int, fix: str) -> None:
    """Raise ConfigError unless inputs are `[tag] words </s>`."""
    first, *words, _ = tokenizer("12 ab")["input_ids"]
    if first != tokenizer.convert_tokens_to_ids(tag):
        raise ConfigError(f"{SETTING}: its tokenizer does not put {tag} before a text, unlike in its training; {fix}")
    _require_words(tokenizer, words, vocabulary)


def _require_words(tokenizer: Any, words: list[int], vocabulary: int) -> None:
    if set(words) <= {tokenizer.unk_token_id}:
        raise ConfigError(f"{SETTING}: its tokenizer has no vocabulary: {INCOMPLETE}")
    if len(tokenizer) > vocabulary:
        raise ConfigError(f"{SETTING}: its tokenizer has {len(tokenizer)} ids, but the model {vocabulary}")
