"""The tokenizer of a back-translator: its language tags, and what a fine-tuned model added to it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_models import PAIRS

from rl_nmt.backtranslation.families import check_tags
from rl_nmt.backtranslation.translator import load_backtranslator
from rl_nmt.errors import ConfigError


@pytest.fixture(scope="module")
def translator(tiny_nllb):
    return load_backtranslator(tiny_nllb)


def test_a_folder_without_its_tokenizer_is_refused(tiny_nllb, tmp_path):
    folder = shutil.copytree(tiny_nllb, tmp_path / "model", ignore=shutil.ignore_patterns("ct2-*"))
    for name in ("tokenizer.json", "sentencepiece.bpe.model"):
        (folder / name).unlink()
    # transformers 5 creates an empty tokenizer instead, whose tags are wrong.
    with pytest.raises(ConfigError, match=r"its tokenizer does not load|tokenizer\.json"):
        load_backtranslator(folder)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tiny_nllb):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_nllb, src_lang="tam_Taml")
    check_tags(tokenizer, len(tokenizer), "tam_Taml", "eng_Latn")
    with pytest.raises(ConfigError, match=r"504 ids, .*503"):
        check_tags(tokenizer, len(tokenizer) - 1, "tam_Taml", "eng_Latn")


def _copy_of(model, folder):
    return shutil.copytree(model, folder, ignore=shutil.ignore_patterns("ct2-*"))


@pytest.mark.parametrize("backend", ["transformers", "ctranslate2"])
@pytest.mark.parametrize(
    "added, special",
    [(["கணினி"], False), (["கணினி", "மென்பொருள்", "tyv_Cyrl"], False), (["tyv_Cyrl"], True), (["<formal>"], True)],
)
def test_a_fine_tuned_model_with_more_tokens_translates_as_before(
    translator, tiny_nllb, tmp_path, backend, added, special
):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = _copy_of(tiny_nllb, tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    if special:  # by default this replaces the list of special tokens, tags included
        tokenizer.add_special_tokens({"additional_special_tokens": added})
    else:
        tokenizer.add_tokens(added)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        model.get_input_embeddings().weight[-len(added) :] = 0  # such a token is never the best
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    texts = [tamil for _, tamil in PAIRS]
    assert load_backtranslator(folder, backend=backend)(texts) == translator(texts)


class Moved:
    """A tokenizer whose added tokens have other ids, as a conversion without tokenizer.json makes it."""

    def __init__(self, tokenizer, change):
        self._tokenizer, self._change = tokenizer, change

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)

    def __call__(self, text):
        ids = self._tokenizer(text)["input_ids"]
        return {"input_ids": [self._change(i) for i in ids]}

    @property
    def mask_token_id(self):
        return self._change(self._tokenizer.mask_token_id)

    def convert_tokens_to_ids(self, tokens):
        ids = self._tokenizer.convert_tokens_to_ids(tokens)
        return self._change(ids) if isinstance(tokens, str) else [self._change(i) for i in ids]


def test_a_tokenizer_whose_tags_are_shifted_is_refused(tiny_nllb):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_nllb, src_lang="tam_Taml")
    mask = tokenizer.mask_token_id
    first = tokenizer.convert_tokens_to_ids("ace_Arab")
    check_tags(Moved(tokenizer, lambda i: i), 600, "tam_Taml", "eng_Latn")
    with pytest.raises(ConfigError, match="shifted"):  # <mask> first, every tag one id higher
        check_tags(Moved(tokenizer, lambda i: first if i == mask else i + (i >= first)), 600, "tam_Taml", "eng_Latn")
    with pytest.raises(ConfigError, match="shifted"):  # a gap after the tags
        check_tags(Moved(tokenizer, lambda i: i + (i == mask)), 600, "tam_Taml", "eng_Latn")


def test_a_source_tag_after_the_text_is_refused(tiny_nllb, tmp_path):
    folder = _copy_of(tiny_nllb, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    options = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(options | {"legacy_behaviour": True}), encoding="utf-8")
    with pytest.raises(ConfigError, match="legacy_behaviour") as error:
        load_backtranslator(folder)
    assert "tam_Taml" in str(error.value)
    path.write_text(json.dumps(options | {"legacy_behaviour": False}), encoding="utf-8")
    load_backtranslator(folder)


def test_a_tokenizer_without_words_is_refused(tiny_nllb):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_nllb, src_lang="tam_Taml")
    tag, end = tokenizer.convert_tokens_to_ids("tam_Taml"), tokenizer.eos_token_id
    empty = Moved(tokenizer, lambda i: i if i in (tag, end) or i > 280 else tokenizer.unk_token_id)
    with pytest.raises(ConfigError, match="no vocabulary"):
        check_tags(empty, 600, "tam_Taml", "eng_Latn")
