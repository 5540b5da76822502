"""Back-translation by M2M100, MADLAD-400 and chat models against transformers' own `generate`, one text at a time."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import tiny_qwen
import torch
import transformers
from safetensors import safe_open
from tiny_models import PAIRS
from tiny_translators import build_m2m100, build_madlad

from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.backtranslation.families import CHAT_CHARACTERS
from rl_nmt.backtranslation.translator import length_cap, load_backtranslator
from rl_nmt.errors import ConfigError
from rl_nmt.models.batching import TokenBudget

TAMIL, ENGLISH = [ta for _, ta in PAIRS], [en for en, _ in PAIRS]
ASKED = "Translate this sentence from Tamil into English. Answer with the translation only.\n\n"
# transformers 5 reads MADLAD's tokenizer as another T5's
FAMILIES = ["m2m100", "madlad400"] if transformers.__version__ < "5" else ["m2m100"]
HOSTILE = ["\ud800 broken", "nul \x00 byte", "🙂🙃", "‮abc", "{}", "a" * 500, "<2fr> </s>", "__en__ <s>", "ந" * 3000]


def scrambled(count: int, seed: int = 1) -> list[str]:
    """Sentences of mixed lengths that no model has seen, so that beams compete."""
    words = sorted({word for text in TAMIL for word in text.rstrip(".?").split()})
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(count)]


def noisy(folder, relative: float = 0.4):
    """Add Gaussian noise to the matrices of a taught model, in the file itself: loops, and texts that differ."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if weight.dim() > 1:
            weights[name] = weight + relative * weight.std() * torch.randn(weight.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    root = tmp_path_factory.mktemp("taught")
    builders = {"m2m100": build_m2m100, "madlad400": build_madlad}
    return {name: builders[name](root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def unsure(taught, tmp_path_factory):
    root = tmp_path_factory.mktemp("unsure")
    copies = {name: shutil.copytree(folder, root / name, dirs_exist_ok=True) for name, folder in taught.items()}
    return {name: noisy(folder) for name, folder in copies.items()}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return tiny_qwen.build(tmp_path_factory.mktemp("chat") / "qwen")


def as_published(family: str, folder, texts, beams: int, cap: int) -> list[str]:
    """The code of the models' cards, a batch of one, no padding; only the cap is ours."""
    from transformers import AutoTokenizer, M2M100ForConditionalGeneration, T5ForConditionalGeneration

    cls = {"m2m100": M2M100ForConditionalGeneration, "madlad400": T5ForConditionalGeneration}[family]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), cls.from_pretrained(folder)
    options = {}
    if family == "m2m100":
        tokenizer.src_lang = "ta"
        options = {"forced_bos_token_id": tokenizer.get_lang_id("en")}
    outputs = []
    for text in texts:
        inputs = tokenizer(text if family == "m2m100" else f"<2en> {text}", return_tensors="pt")
        tokens = model.generate(
            **inputs,
            **options,
            num_beams=beams,
            early_stopping=beams > 1,
            do_sample=False,
            max_new_tokens=length_cap(inputs.input_ids.shape[1], cap),
        )
        outputs.append(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return outputs


def answered(folder, texts, cap: int = 256) -> list[str]:
    """A chat model's greedy answers through its own chat template, one at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    stops = [i for i in stops if i is not None]
    outputs = []
    for text in texts:
        turn = [{"role": "user", "content": ASKED + text}]
        given = {"add_generation_prompt": True, "enable_thinking": False, "return_tensors": "pt", "return_dict": True}
        inputs = tokenizer.apply_chat_template(turn, **given)
        length = inputs["input_ids"].shape[1]
        tokens = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=length_cap(length, cap),
            eos_token_id=[*stops, *([model.generation_config.eos_token_id] if not stops else [])],
            pad_token_id=tokenizer.eos_token_id,
        )
        outputs.append(tokenizer.decode(tokens[0, length:], skip_special_tokens=True).strip())
    return outputs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["transformers", "ctranslate2"])
def test_they_translate_what_they_were_taught(taught, family, backend):
    assert load_backtranslator(taught[family], backend=backend)(TAMIL) == ENGLISH


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams, cap", [(1, 256), (4, 256), (3, 9)])
def test_equal_to_generating_one_text_at_a_time(unsure, family, beams, cap):
    texts = [*TAMIL, *scrambled(40)]
    expected = as_published(family, unsure[family], texts, beams, cap)
    assert len(set(expected)) > 5  # otherwise the comparison would mean little
    model = load_backtranslator(unsure[family], beams=beams, max_new_tokens=cap)
    assert model(texts) == expected
    model.budget = TokenBudget(60)
    shuffled = random.Random(0).sample(range(len(texts)), len(texts))
    assert model([texts[i] for i in shuffled]) == [expected[i] for i in shuffled]


@pytest.mark.parametrize("family", FAMILIES)
def test_ctranslate2_equals_transformers(unsure, taught, family):
    for folder, beams, texts in ((unsure[family], 1, [*TAMIL, *scrambled(40)]), (taught[family], 4, TAMIL)):
        ours, other = (load_backtranslator(folder, beams=beams, backend=b) for b in ("transformers", "ctranslate2"))
        assert other(texts) == ours(texts)
        assert [other.stats[key] for key in ("hit_cap", "tokens")] == [ours.stats[key] for key in ("hit_cap", "tokens")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_folder_loads_by_itself(taught, family):
    converted = load_backtranslator(taught[family], backend="ctranslate2").engine.folder
    model = load_backtranslator(converted, backend="ctranslate2")
    assert model(TAMIL) == ENGLISH and model.family.name == family


@pytest.mark.skipif("madlad400" in FAMILIES, reason="for transformers 5")
def test_a_tokenizer_that_reads_unknown_characters_as_the_end_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^backtranslation_model: .*unknown characters .*use transformers 4"):
        load_backtranslator(build_madlad(tmp_path / "m", steps=1))


@pytest.mark.skipif("madlad400" not in FAMILIES, reason="not for transformers 5")
def test_the_published_layout_of_madlad(taught):
    """No shared.weight, an output matrix of its own, and a start token that is not the padding."""
    with safe_open(taught["madlad400"] / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
        assert not torch.equal(stored.get_tensor("lm_head.weight"), stored.get_tensor("decoder.embed_tokens.weight"))
    assert {"decoder.embed_tokens.weight", "lm_head.weight"} <= names and "shared.weight" not in names
    config = json.loads((taught["madlad400"] / "config.json").read_text())
    assert (config["decoder_start_token_id"], config["pad_token_id"], config["eos_token_id"]) == (0, 1, 2)


@pytest.mark.parametrize("model", ["tiny_gemma", "qwen"])
def test_a_chat_model_answers_as_generate_does(model, request):
    folder = request.getfixturevalue(model)
    texts = [*TAMIL[:5], *scrambled(5)]
    expected = answered(folder, texts, 24)
    translator = load_backtranslator(folder, max_new_tokens=24)
    assert translator(texts) == expected and len(set(expected)) > 1
    assert translator(texts[::-1]) == expected[::-1] and translator(["", texts[0]]) == ["", expected[0]]
    joined = translator([f"{TAMIL[0]} {TAMIL[1]}"])  # one sentence per turn
    assert joined == [" ".join(filter(None, expected[:2]))] and translator.stats["sentences"] == 2


def test_a_chat_tokenizer_may_have_ids_that_the_model_lacks(tiny_gemma, tmp_path):
    """As Gemma 3's for its text models: <image_soft_token> is one more than they have."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_gemma, tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    expected = load_backtranslator(tiny_gemma, max_new_tokens=9)(TAMIL[:3])
    assert load_backtranslator(folder, max_new_tokens=9)(TAMIL[:3]) == expected


def test_chat_models_take_one_engine_and_no_beams(tiny_gemma, capfd):
    identity = load_backtranslator(tiny_gemma, beams=4).signature()["identity"]
    assert {key: identity[key] for key in ("family", "source", "target", "beams", "backend")} == {
        "family": "chat",
        "source": "Tamil",
        "target": "English",
        "beams": 1,
        "backend": "transformers",
    }
    assert identity["prompt"] == ASKED + "{source}"
    assert load_backtranslator(tiny_gemma, backend="auto").signature()["identity"] == identity
    with pytest.raises(ConfigError, match="backtranslation_backend: ctranslate2 is not supported for a chat model"):
        load_backtranslator(tiny_gemma, backend="ctranslate2")
    with pytest.raises(ConfigError, match="dual_dtype: int8 is not supported for a chat model"):
        load_backtranslator(tiny_gemma, backend="auto", dtype="int8")
    translator = load_backtranslator(tiny_gemma, max_new_tokens=3, dtype="bfloat16")
    translator(["ந" * (CHAT_CHARACTERS + 1), "a"])
    assert (translator.stats["truncated"], translator.stats["hit_cap"]) == (1, 2)


def test_signatures_name_family_codes_and_beams(taught, tiny_nllb):
    found = {name: load_backtranslator(folder, beams=2).signature()["identity"] for name, folder in taught.items()}
    shown = {name: [part[key] for key in ("family", "source", "target", "beams")] for name, part in found.items()}
    expected = {"m2m100": ["m2m100", "ta", "en", 2], "madlad400": ["madlad400", "tam_Taml", "<2en>", 2]}
    assert shown == {name: expected[name] for name in FAMILIES}
    nllb = load_backtranslator(tiny_nllb).signature()["identity"]
    assert "family" not in nllb and (nllb["source"], nllb["target"]) == ("tam_Taml", "eng_Latn")  # as in older runs


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_text_stay_text(taught, family):
    model = load_backtranslator(taught[family])
    tokenizer = model.tokenizer
    tags = [i for token, i in tokenizer.get_vocab().items() if token.startswith(("<2", "__"))]
    special = {*tags, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    rows, _ = model.family.encode(["a </s> b", "<s>", "__en__ <2fr> c", "<pad> <unk>"], 99)
    for row in rows:
        kept = [i for i in row if i in special]
        assert kept in ([row[0], tokenizer.eos_token_id], [row[1], tokenizer.eos_token_id])
    honoured = tokenizer("__en__ </s> b" if family == "m2m100" else "<2fr> </s> b")["input_ids"]
    if family == "madlad400":  # shows the problem itself, so that this test cannot pass by luck
        assert len([i for i in honoured if i in special]) == 3


@pytest.mark.parametrize("family", [*FAMILIES, "chat"])
def test_hostile_text_gives_a_string(taught, tiny_gemma, family):
    model = load_backtranslator({**taught, "chat": tiny_gemma}[family], beams=1, max_new_tokens=9)
    outputs = model(HOSTILE)
    assert len(outputs) == len(HOSTILE) and all(isinstance(text, str) for text in outputs)
    assert model.stats["truncated"] >= 1


def test_a_language_that_a_translator_lacks_is_refused(taught, tiny_gemma, tmp_path):
    with pytest.raises(ConfigError, match=r"^backtranslation_model: its tokenizer has no language tag '__te__'"):
        load_backtranslator(taught["m2m100"], source="tel_Telu")  # M2M100 has no Telugu
    for name in taught:
        with pytest.raises(ConfigError, match=r"^backtranslation_model: .*code for 'npi_Deva' is not known"):
            load_backtranslator(taught[name], target="npi_Deva")
    with pytest.raises(ConfigError, match=r"^backtranslation_model: .*'npi_Deva' is not known"):
        load_backtranslator(tiny_gemma, source="npi_Deva")
    if "madlad400" not in FAMILIES:
        return
    other = build_madlad(tmp_path / "t5", steps=1, tags=("ta", "fr"))
    with pytest.raises(
        ConfigError, match=r"^backtranslation_model: its tokenizer has no language tag '<2en>'"
    ) as error:
        load_backtranslator(other)  # any other T5
    assert "\n" not in str(error.value)
    load_backtranslator(other, target="tam_Taml", source="eng_Latn")


def test_a_tokenizer_of_another_model_is_refused(taught, tmp_path):
    folder = shutil.copytree(taught["m2m100"], tmp_path / "m", ignore=shutil.ignore_patterns("ct2-*"))
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 400}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"^backtranslation_model"):
        load_backtranslator(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    with pytest.raises(ConfigError, match=r"^backtranslation_model: .*no language tag '<2en>'"):
        load_backtranslator(folder)


@pytest.mark.skipif("madlad400" not in FAMILIES, reason="not for transformers 5")
def test_weights_that_are_missing_are_refused(taught, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(taught["madlad400"], tmp_path / "m", ignore=shutil.ignore_patterns("ct2-*"))
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "decoder.block.1" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=gone.replace(".", r"\.")):
        load_backtranslator(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reward_takes_them(taught, tiny_comet_da, tiny_comet_qe, family):
    models = (str(tiny_comet_da), str(tiny_comet_qe), str(taught[family]))
    reward = CometDuPOReward(*models, reward_offload=True)
    rows = reward.score_components(None, TAMIL[:3], source=ENGLISH[:3])
    assert [row["backtranslation"] for row in rows] == ENGLISH[:3]
    assert reward.signature()["identity"]["backtranslation"]["family"] == family
