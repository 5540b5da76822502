"""rl_nmt.backtranslation.translator against plain transformers one text at a time, and CTranslate2 against both."""

from __future__ import annotations

import json
import random
import shutil
import sys

import pytest
import torch
from tiny_models import PAIRS, build_nllb

from rl_nmt.backtranslation import beam_search
from rl_nmt.backtranslation.beam_search import top_log_probs
from rl_nmt.backtranslation.translator import length_cap, load_backtranslator
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.batching import TokenBudget

KNOWN = dict((ta, en) for en, ta in PAIRS)


@pytest.fixture(scope="module")
def translator(tiny_nllb):
    return load_backtranslator(tiny_nllb)


@pytest.fixture(scope="module")
def ct2(tiny_nllb):
    return load_backtranslator(tiny_nllb, backend="ctranslate2")


def _noisy(folder, relative: float):
    """A taught model with Gaussian noise on its matrices: outputs vary from text to text, beams compete."""
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(build_nllb(folder))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * relative)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unsure_nllb(tmp_path_factory):
    """Noise 0.2 of each matrix's spread."""
    return _noisy(tmp_path_factory.mktemp("unsure"), 0.2)


@pytest.fixture(scope="module")
def confused_nllb(tmp_path_factory):
    """Noise 0.4: loops, half sentences, translations that run into their cap."""
    return _noisy(tmp_path_factory.mktemp("confused"), 0.4)


def scrambled(count: int, seed: int = 1) -> list[str]:
    """Sentences of mixed lengths that the model has not seen, so that beams really compete."""
    words = sorted({word for ta in KNOWN for word in ta.rstrip(".?").split()})
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(count)]


def one_at_a_time(folder, texts, beams=4, cap=256):
    """The oracle: the code of the NLLB card, a batch of one, no padding; only the cap is ours."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="tam_Taml")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    outputs = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        tokens = model.generate(
            **inputs,
            forced_bos_token_id=tokenizer.convert_tokens_to_ids("eng_Latn"),
            num_beams=beams,
            early_stopping=True,
            do_sample=False,
            max_new_tokens=length_cap(inputs.input_ids.shape[1], cap),
        )
        outputs.append(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    return outputs


def test_it_translates_what_it_was_taught(translator):
    texts = list(KNOWN)
    assert translator(texts) == [KNOWN[text] for text in texts]


@pytest.mark.parametrize("beams, cap", [(1, 256), (4, 256), (3, 9), (1, 5)])
def test_equal_to_generating_one_text_at_a_time(confused_nllb, beams, cap):
    texts = [*KNOWN, *scrambled(60)]
    expected = one_at_a_time(confused_nllb, texts, beams, cap)
    assert len(set(expected)) > 15  # otherwise the comparison would mean little
    model = load_backtranslator(confused_nllb, beams=beams, max_new_tokens=cap)
    assert model(texts) == expected
    cut = model.stats["hit_cap"]
    assert cut < len(texts) and (cut or cap == 256)  # some end by themselves; a low cap cuts others


def test_linears_in_their_own_layout_change_nothing(confused_nllb, monkeypatch):
    texts = [*KNOWN, *scrambled(30)]
    fast = load_backtranslator(confused_nllb)
    monkeypatch.setattr(beam_search, "prepacked_works", lambda: False)
    plain = load_backtranslator(confused_nllb)
    kinds = [sum(isinstance(m, torch.nn.Linear) for m in model.engine.model.modules()) for model in (fast, plain)]
    assert kinds[1] > 30 and (kinds[0] == 0) == fast.engine.packed and not plain.engine.packed
    expected = plain(texts)
    assert fast(texts) == expected
    fast.engine.to("meta")  # as on the way to another device
    layers = [m for m in fast.engine.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == kinds[1] and not fast.engine.packed


def test_a_packed_linear_gives_its_weight_back():
    layer = torch.nn.Linear(40, 24)
    again = beam_search._PackedLinear(layer).plain()
    assert torch.equal(again.weight, layer.weight) and torch.equal(again.bias, layer.bias)
    assert not again.weight.requires_grad


def test_nothing_is_computed_needlessly(confused_nllb, monkeypatch):
    """Counters instead of a clock: each distinct sentence once, little padding, finished texts leave."""
    model = load_backtranslator(confused_nllb, max_new_tokens=200)
    rng = random.Random(2)
    words = [word for text in KNOWN for word in text.rstrip(".?").split()]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(32)]
    encoded, decoded = [], []
    encoder = model.engine.model.get_encoder()
    real, step = encoder.forward, beam_search._Decoder.step
    monkeypatch.setattr(encoder, "forward", lambda **kw: encoded.append(kw["attention_mask"]) or real(**kw))
    monkeypatch.setattr(beam_search._Decoder, "step", lambda self, ids: decoded.append(ids.shape) or step(self, ids))
    model(texts + texts[:9])
    assert sum(len(mask) for mask in encoded) == len(texts)
    real_tokens, positions = sum(int(mask.sum()) for mask in encoded), sum(mask.numel() for mask in encoded)
    assert (model.stats["tokens"], model.stats["padded"]) == (real_tokens, positions - real_tokens)
    assert positions - real_tokens <= 0.12 * positions
    alone = []
    for text in texts:
        before = len(decoded)
        model([text])
        alone += decoded[before:]
    together = sum(n * k for n, k in decoded[: len(decoded) - len(alone)])
    needed = sum(n * k for n, k in alone)
    assert together <= 1.1 * needed


def both_backends(folder, beams):
    texts = [*KNOWN, *scrambled(60), "<s> hello </s>", "?!"]
    ours = load_backtranslator(folder, beams=beams)
    other = load_backtranslator(folder, beams=beams, backend="ctranslate2")
    return ours(texts), other(texts), ours.stats, other.stats


@pytest.mark.parametrize("model, beams", [("tiny_nllb", 4), ("unsure_nllb", 4), ("confused_nllb", 1)])
def test_ctranslate2_equals_transformers(request, model, beams):
    ours, other, our_stats, other_stats = both_backends(request.getfixturevalue(model), beams)
    assert len(set(ours)) > 10
    assert other == ours
    for stats in (our_stats, other_stats):
        assert stats.pop("seconds") > 0 and stats.pop("padded") >= 0
    assert other_stats == our_stats


def test_ctranslate2_beams_of_a_confused_model_are_nearly_equal(confused_nllb):
    """The known limit: hypotheses have the same scores in both, but different ones are kept as finished."""
    ours, other, _, _ = both_backends(confused_nllb, 4)
    assert sum(a != b for a, b in zip(ours, other, strict=True)) <= 0.1 * len(ours)


@pytest.mark.parametrize("vocabulary", [7, 3000, 20_001, 256_206])
def test_the_best_tokens_are_those_of_a_full_sort(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(5, vocabulary, generator=generator)
    logits[1, -3:] = torch.tensor([9.0, 11.0, 10.0])  # after the last whole chunk
    logits[2, 2:5] = torch.tensor([8.0, 7.0, 9.0])  # in one chunk
    logits[3] = 0.5  # all equal
    values, ids = top_log_probs(logits, 5)
    wanted = torch.log(torch.softmax(logits.double(), dim=1))
    torch.testing.assert_close(values.double(), wanted.sort(descending=True).values[:, :5], atol=1e-5, rtol=0)
    torch.testing.assert_close(wanted.gather(1, ids), values.double(), atol=1e-5, rtol=0)
    assert all(len(set(row)) == 5 for row in ids.tolist())


@pytest.mark.parametrize("backend", ["translator", "ct2"])
def test_batch_mates_order_and_budget_change_nothing(tiny_nllb, request, backend):
    model = request.getfixturevalue(backend)
    texts = scrambled(24, seed=3)
    expected = dict(zip(texts, model(texts), strict=True))
    shuffled = random.Random(0).sample(texts, len(texts))
    assert model(shuffled + shuffled[:5]) == [expected[text] for text in shuffled + shuffled[:5]]
    assert [model([text])[0] for text in texts[:6]] == [expected[text] for text in texts[:6]]
    model.budget, before = TokenBudget(40), model.budget
    assert model(texts) == [expected[text] for text in texts]
    model.budget = before


def test_search_settings_of_the_checkpoint_are_not_used(tiny_nllb, translator, tmp_path):
    folder = shutil.copytree(tiny_nllb, tmp_path / "model", ignore=shutil.ignore_patterns("ct2-*"))
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1}))
    assert load_backtranslator(folder)(list(KNOWN)) == translator(list(KNOWN))


def test_order_duplicates_blanks_and_statistics(translator):
    first, second = list(KNOWN)[:2]
    texts = [second, "", first, "  \n", second, "\u200b\ufeff", first, f"{first} {second}"]
    joined = f"{KNOWN[first]} {KNOWN[second]}"
    assert translator(texts) == [KNOWN[second], "", KNOWN[first], "", KNOWN[second], "", KNOWN[first], joined]
    stats = dict(translator.stats)
    assert stats.pop("seconds") >= 0
    tokens = sum(len(translator.tokenizer(text)["input_ids"]) for text in (first, second))
    assert stats == {
        "texts": 8,
        "unique": 3,
        "sentences": 2,
        "blank": 3,
        "truncated": 0,
        "hit_cap": 0,
        "tokens": tokens,
        "padded": 0,
    }


def test_blank_text_is_never_sent(tiny_nllb):
    model = load_backtranslator(tiny_nllb)
    model.engine.generate = None  # calling it would raise
    assert model(["", " ", "\n\t", "<pad>"]) == [""] * 4
    assert model([]) == []
    assert model.stats["blank"] == 0 and model.stats["unique"] == 0


def test_a_paragraph_loses_no_sentence(translator):
    texts = list(KNOWN)[:6]
    paragraph = texts[0] + " " + texts[1] + "\n" + texts[2] + "  " + " ".join(texts[3:])
    assert translator([paragraph]) == [" ".join(KNOWN[text] for text in texts)]


def test_control_tokens_in_a_text_stay_text(translator):
    tokenizer = translator.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    rows, _ = translator.family.encode(["a </s> b", "<s>", "eng_Latn hin_Deva", "<mask> <pad>"], 99)
    for row in rows:
        assert row[0] == tokenizer.convert_tokens_to_ids("tam_Taml") and row[-1] == tokenizer.eos_token_id
        assert not special & set(row[1:-1])
    honoured = tokenizer("a </s> b")["input_ids"]  # shows the problem itself, so that this test cannot pass by luck
    assert tokenizer.eos_token_id in honoured[1:-1]


@pytest.mark.parametrize("backend", ["translator", "ct2"])
def test_hostile_text_gives_a_string(request, backend):
    model = request.getfixturevalue(backend)
    texts = [
        "\ud800 broken",
        "nul \x00 byte",
        "ந" * 3000,
        "🙂🙃",
        "‮abc",
        "க்" * 40,
        "{}",
        "a" * 500,
        "..." * 50,
    ]
    outputs = model(texts)
    assert len(outputs) == len(texts) and all(isinstance(text, str) for text in outputs)
    assert model.stats["truncated"] >= 1


def test_a_cut_translation_is_counted(tiny_nllb):
    for backend in ("transformers", "ctranslate2"):
        model = load_backtranslator(tiny_nllb, backend=backend, max_new_tokens=3)
        outputs = model(list(KNOWN)[:3])
        assert model.stats["hit_cap"] == 3
        assert all(len(out) < len(KNOWN[text]) for text, out in zip(KNOWN, outputs, strict=False))


def test_the_callers_state_does_not_change(translator):
    weight = torch.ones(2, requires_grad=True)
    before, state = torch.get_float32_matmul_precision(), torch.get_rng_state()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.enable_grad():
            translator(scrambled(4))
            (weight * 2).sum().backward()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert weight.grad.tolist() == [2.0, 2.0]
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_does_not_change_the_random_state(tiny_nllb):
    state = torch.get_rng_state()
    load_backtranslator(tiny_nllb)
    load_backtranslator(tiny_nllb, backend="ctranslate2")
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_takes_ctranslate2_where_it_works(tiny_nllb, ct2, capfd):
    model = load_backtranslator(tiny_nllb, backend="auto")
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "auto takes ctranslate2" in told and "cpu" in told
    assert model.signature() == ct2.signature()
    assert model([PAIRS[0][1]]) == [PAIRS[0][0]]


def test_auto_falls_back_and_says_why(tiny_nllb, translator, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    model = load_backtranslator(tiny_nllb, backend="auto")
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "auto takes transformers: ctranslate2 is not installed" in told
    assert model.signature()["identity"] == translator.signature()["identity"]
    with pytest.raises(ConfigError, match=r"dual_dtype: int8 .*ctranslate2 is not installed"):
        load_backtranslator(tiny_nllb, backend="auto", dtype="int8")


def test_auto_keeps_the_precision_it_was_given(tiny_nllb, capfd):
    """If CTranslate2 has no bfloat16 here, transformers is used, not CTranslate2 in another type."""
    import ctranslate2

    model = load_backtranslator(tiny_nllb, backend="auto", dtype="bfloat16")
    able = "bfloat16" in ctranslate2.get_supported_compute_types("cpu")
    assert model.engine.backend == ("ctranslate2" if able else "transformers")
    assert model.signature()["identity"]["dtype"] == "bfloat16"
    assert sum(a == b for a, b in zip(model(list(KNOWN)), KNOWN.values(), strict=True)) >= 10


def test_signature_names_what_changes_the_text(tiny_nllb, translator, ct2, tmp_path):
    same = load_backtranslator(tiny_nllb).signature()
    assert translator.signature() == same
    assert set(same["environment"]) == {"transformers", "ctranslate2", "torch"}
    others = [
        ct2,
        load_backtranslator(tiny_nllb, beams=2),
        load_backtranslator(tiny_nllb, dtype="bfloat16"),
        load_backtranslator(build_nllb(tmp_path / tiny_nllb.name, steps=1)),
    ]
    identities = [other.signature()["identity"] for other in others]
    assert all(identity != same["identity"] for identity in identities)
    changed = [k for k, v in identities[-1].items() if v != same["identity"][k]]
    assert changed == ["weights"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target": "eng_latn"}, "eng_Latn"),
        ({"source": "ta"}, "language tag 'ta'"),
        ({"target": "<mask>"}, "language tag '<mask>'"),
        ({"backend": "marian"}, "backtranslation_backend: 'marian'"),
        ({"dtype": "int8"}, "dual_dtype: int8 .*backtranslation_backend"),
        ({"dtype": "float16"}, "dual_dtype: float16 .*backtranslation_backend"),
        ({"dtype": "float16", "backend": "ctranslate2"}, "cpu in float16: .*dual_device"),
        ({"dtype": "float16", "backend": "auto"}, "dual_dtype: float16 .*ctranslate2"),
        ({"dtype": "float64"}, "dual_dtype: 'float64'"),
        ({"device": "gpu"}, "dual_device: 'gpu'"),
        ({"device": "cuda:99"}, "dual_device: cuda:99"),
    ],
)
def test_bad_settings(tiny_nllb, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_backtranslator(tiny_nllb, **options)
    assert "\n" not in str(error.value)


def test_wrong_folders(tiny_nllb, tiny_gemma, tmp_path):
    with pytest.raises(ConfigError, match=r"backtranslation_model: .*/nothing"):
        load_backtranslator(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_backtranslator(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copyfile(tiny_gemma / name, tmp_path / name)
    with pytest.raises(ConfigError, match=r"backtranslation_model: .* does not load"):
        load_backtranslator(tmp_path)  # a chat model without weights
    with pytest.raises(ConfigError, match=r"/config.json is a file"):
        load_backtranslator(tiny_nllb / "config.json")
    with pytest.raises(MissingService, match="some/model"):
        load_backtranslator("some/model")  # tests run with HF_HUB_OFFLINE


def test_another_kind_of_translation_model_is_refused(tiny_nllb, tmp_path):
    from transformers import BartConfig, BartForConditionalGeneration

    folder = shutil.copytree(tiny_nllb, tmp_path / "model", ignore=shutil.ignore_patterns("ct2-*", "*.safetensors"))
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    BartForConditionalGeneration(BartConfig(vocab_size=600, **sizes)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"BartForConditionalGeneration.*M2M100"):
        load_backtranslator(folder)


def test_missing_weights_are_refused(tiny_nllb, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_nllb, tmp_path / "model", ignore=shutil.ignore_patterns("ct2-*"))
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "encoder.layers.1" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=gone.replace(".", r"\.")):
        load_backtranslator(folder)


@pytest.mark.parametrize("tokens, cap", [(1, 48), (2, 48), (16, 48), (17, 80), (64, 144), (65, 256), (9999, 256)])
def test_length_cap(tokens, cap):
    assert length_cap(tokens, 256) == cap
