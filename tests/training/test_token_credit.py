"""rl_nmt.training.token_credit against bytes counted by hand, TRL's decoding and plain arithmetic."""

from __future__ import annotations

import math
import random
import statistics
import threading
import unicodedata
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import PAIRS

from pocket import formats
from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import Span
from rl_nmt.text.unicode import clean_for_scoring
from rl_nmt.training.token_credit import (
    SpanCredit,
    TokenOffsets,
    judged_rewards,
    project,
    stack_rows,
    token_advantages,
    token_rewards,
)

NAN = float("nan")
ALPHABET = (
    [chr(i) for i in range(0xB80, 0xC00) if unicodedata.category(chr(i)) != "Cn"]
    + list("abcXYZ 019.,!?-<>\n\t")
    + list("🙂🙃🇮🇳👩🏽‍🚀漢字кошкаé")
    + ["e\u0301", "ெ\u0bbe", "ே\u0bbe", "\u200d", "\u200c", "\ufffd", "👨‍👩‍👧", "க்ஷ", "ஸ்ரீ"]
)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """The policy's tokenizer format: SentencePiece BPE with byte fallback."""
    texts = [text for pair in PAIRS for text in pair]
    return formats.gemma_tokenizer(tmp_path_factory.mktemp("gemma"), texts, vocab_size=400)


@pytest.fixture(scope="module")
def byte_level():
    """The format of Qwen and GPT-2: BPE over bytes, whose tokens may begin and end inside a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([ta for _, ta in PAIRS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def strings(n: int, seed: int) -> list[str]:
    """Tamil, emoji and mixed strings, decomposed vowels and joiners among them."""
    rng = random.Random(seed)
    tamil = [chr(i) for i in range(0xB85, 0xBCE) if unicodedata.category(chr(i)) != "Cn"]
    pools = (ALPHABET, tamil, ALPHABET[-20:], [word for _, ta in PAIRS for word in ta.split()] + [" "])
    return ["".join(rng.choices(rng.choice(pools), k=rng.randint(1, 24))) for _ in range(n)]


def by_bytes(pieces: list[bytes], text: str) -> list[tuple[int, int]]:
    """The oracle: characters that own the bytes of each piece, from nothing but UTF-8."""
    owner = [i for i, char in enumerate(text) for _ in char.encode()]
    assert b"".join(pieces) == text.encode()
    ranges, at = [], 0
    for piece in pieces:
        mine = owner[at : at + len(piece)]
        ranges.append((mine[0], mine[-1] + 1))
        at += len(piece)
    return ranges


def gemma_pieces(tokenizer, ids) -> list[bytes]:
    pieces = []
    for token in tokenizer.convert_ids_to_tokens(ids):
        is_byte = len(token) == 6 and token.startswith("<0x")
        pieces.append(bytes([int(token[3:5], 16)]) if is_byte else token.replace("▁", " ").encode())
    return pieces


def byte_level_pieces(tokenizer, ids) -> list[bytes]:
    """The table of GPT-2 written out: printable bytes stand for themselves, the others from U+0100 on."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in kept}
    table |= {chr(0x100 + n): b for n, b in enumerate(b for b in range(256) if b not in kept)}
    return [bytes(table[c] for c in token) for token in tokenizer.convert_ids_to_tokens(ids)]


# ---------------------------------------------------------------------- offsets


def test_every_token_of_10000_strings_has_exactly_its_characters(gemma):
    offsets, tokens, shared = TokenOffsets(gemma), 0, 0
    for text in strings(10_000, seed=1):
        ids = gemma(text, add_special_tokens=False).input_ids
        decoded, ranges = offsets(ids)
        assert decoded == text
        assert ranges == by_bytes(gemma_pieces(gemma, ids), text), text
        # Checked again without the oracle: no gap, nothing lost, and overlap on single characters only.
        assert ranges[0][0] == 0 and ranges[-1][1] == len(text)
        for (a, b), (c, d) in pairwise(ranges):
            assert c == b or (a, b) == (c, d) == (a, a + 1)
            shared += c != b
        tokens += len(ids)
    assert tokens > 100_000 and shared > 10_000  # byte fallback was really met


def test_tokens_that_end_inside_characters(byte_level):
    offsets, inside = TokenOffsets(byte_level), 0
    for text in strings(2_000, seed=2):
        text = text.replace("\ufffd", "")  # decodes like a broken character: the next test
        ids = byte_level(text, add_special_tokens=False).input_ids
        if not ids:
            continue
        decoded, ranges = offsets(ids)
        assert decoded == text
        assert ranges == by_bytes(byte_level_pieces(byte_level, ids), text), text
        inside += sum(c != b for (_, b), (c, _) in pairwise(ranges))
    assert inside > 1_000


@pytest.mark.parametrize("kind", ["gemma", "byte_level"])
def test_any_ids_a_policy_may_sample_are_covered(kind, request):
    """Broken bytes, special tokens in the middle: still TRL's text, still a cover in order."""
    tokenizer = request.getfixturevalue(kind)
    offsets, rng = TokenOffsets(tokenizer), random.Random(3)
    special = set(tokenizer.all_special_ids)
    for _ in range(800):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randint(1, 30))]
        if rng.random() < 0.3:
            ids.insert(rng.randrange(len(ids)), rng.choice(sorted(special)))
        text, ranges = offsets(ids)
        assert text == tokenizer.batch_decode([ids], skip_special_tokens=True)[0]  # as TRL decodes
        assert len(ranges) == len(ids)
        end = 0
        for token, (a, b) in zip(ids, ranges, strict=True):
            assert a <= b and end - 1 <= a <= end <= max(b, end) and not (token in special and a != b)
            end = max(end, b)
        assert end == len(text)


def test_tensors_empty_completions_and_special_tokens(gemma):
    offsets = TokenOffsets(gemma)
    ids = gemma("நன்றி", add_special_tokens=False).input_ids
    turn = gemma.convert_tokens_to_ids("<end_of_turn>")
    text, ranges = offsets(torch.tensor([2, *ids, turn, 1]))
    assert text == "நன்றி"
    assert ranges[0] == (0, 0) and ranges[-2:] == [(5, 5), (5, 5)]
    assert offsets([]) == ("", []) and offsets([1]) == ("", [(0, 0)])


def test_a_decoder_that_looks_at_neighbours():
    """Llama's and T5's decoder drops the space of the first word only: no single token tells its own text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"▁the": 0, "▁door": 1, "▁opens": 2, "▁அவள்": 3}, unk_token="▁the"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    text, ranges = TokenOffsets(PreTrainedTokenizerFast(tokenizer_object=tokenizer))([0, 1, 3, 2])
    assert text == "the door அவள் opens"
    assert ranges == [(0, 3), (3, 8), (8, 13), (13, 19)]


def test_linear_in_the_number_of_tokens(gemma):
    calls = 0
    decode = gemma.decode

    class Counting:
        all_special_ids, added_tokens_decoder = gemma.all_special_ids, gemma.added_tokens_decoder

        @staticmethod
        def decode(ids, **options):
            nonlocal calls
            calls += len(ids)
            return decode(ids, **options)

    ids = gemma(" ".join(ta for _, ta in PAIRS) * 6, add_special_tokens=False).input_ids
    offsets = TokenOffsets(Counting())
    offsets(ids)
    calls = 0
    offsets(ids)
    assert calls < 3 * len(ids)  # plain prefix decoding would decode len(ids)² / 2


# ---------------------------------------------------------------------- cleaned and raw text


def cut(text: str, span: Span) -> str:
    return text[span.start : span.end]


@pytest.mark.parametrize(
    "raw, part, expected",
    [
        ("கெ\u0bbeடு", "கொ", "கெ\u0bbe"),  # a decomposed vowel: two code points became one
        ("  அவள்\n\nவந்தாள் ", "வந்தாள்", "வந்தாள்"),
        ("cafe\u0301 open", "café", "cafe\u0301"),
        ("a\u200bb c", "ab", "a\u200bb"),  # characters inside belong to the span
        ("🙂 நன்றி\u200d!", "!", "!"),
        ("<bos>box <eos>sold", "box", "box"),  # not the b of the control token
        ("no change", "change", "change"),
    ],
)
def test_spans_follow_cleaning_back(raw, part, expected):
    mt = clean_for_scoring(raw)
    start = mt.index(part)
    (span,) = project([Span(start, start + len(part), "major", 0.5, "x")], mt, raw)
    assert cut(raw, span) == expected
    assert (span.severity, span.confidence, span.category) == ("major", 0.5, "x")


def test_marks_in_another_order_are_the_same_letter():
    raw, mt = "q\u0307\u0323!", unicodedata.normalize("NFC", "q\u0307\u0323!")
    assert raw != mt
    assert cut(raw, project([Span(0, 3, "minor", 1.0)], mt, raw)[0]) == "q\u0307\u0323"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=30).map("".join), st.data())
def test_a_projected_span_cleans_to_what_the_judge_marked(raw, data):
    mt = clean_for_scoring(raw)
    if not mt:
        return
    start = data.draw(st.integers(0, len(mt) - 1))
    end = data.draw(st.integers(start + 1, len(mt)))
    (span,) = project([Span(start, end, "minor", 1.0)], mt, raw)
    letters = [c for c in unicodedata.normalize("NFD", mt[start:end]) if c.isalnum()]
    found = [c for c in unicodedata.normalize("NFD", cut(raw, span)) if c.isalnum()]
    assert found == letters and span.end > span.start


def test_spans_outside_the_text_are_refused():
    for start, end in [(-1, 2), (0, 4), (3, 1)]:
        with pytest.raises(ValueError, match="outside"):
            project([Span(start, end, "minor", 1.0)], "abc", "abc")
    assert project([Span(2, 2, "minor", 1.0)], "abc", "abc") == []  # covers nothing, so it touches no token
    with pytest.raises(ValueError, match="not the completion"):
        project([Span(0, 2, "minor", 1.0)], "அவள்", "she came")


# ---------------------------------------------------------------------- rewards of tokens

RANGES = [(0, 4), (4, 6), (6, 7), (7, 7)]  # the last a special token


@pytest.mark.parametrize(
    "spans, options, expected",
    [
        ([], {}, [0, 0, 0, 0]),
        ([(0, 7, "minor", 0.5)], {}, [-1, -1, -1, 0]),
        ([(3, 5, "major", 0.5)], {}, [-5, -5, 0, 0]),
        ([(3, 5, "major", 0.5)], {"overlap": "majority"}, [0, -5, 0, 0]),
        ([(2, 4, "major", 0.5)], {"overlap": "majority"}, [-5, 0, 0, 0]),
        ([(3, 5, "critical", 0.5)], {"use_confidence": True}, [-5, -5, 0, 0]),
        ([(0, 4, "minor", 1), (2, 5, "critical", 1)], {}, [-11, -10, 0, 0]),
        ([(0, 4, "minor", 1), (2, 5, "critical", 1)], {"combine": "min"}, [-10, -10, 0, 0]),
        ([(0, 4, "minor", 1), (2, 5, "critical", 1)], {"combine": "max"}, [-1, -10, 0, 0]),
        ([(6, 7, "minor", 1)], {"scale": 0.25, "weights": {"minor": -2.0}}, [0, 0, -0.5, 0]),
    ],
)
def test_spans_become_token_rewards(spans, options, expected):
    assert token_rewards(RANGES, [Span(*s) for s in spans], SpanCredit(**options)) == expected


def test_a_severity_without_a_weight_stops():
    with pytest.raises(ConfigError, match=r"^weights: .*'fatal'"):
        token_rewards(RANGES, [Span(0, 1, "fatal", 1.0)], SpanCredit())


def test_an_error_reaches_exactly_its_tokens(gemma):
    """From a raw completion with a decomposed vowel and an emoji to the tokens of the wrong word."""
    raw = "அவள் 🙂 கெ\u0bbeடுத்தாள்."
    ids = [*gemma(raw, add_special_tokens=False).input_ids, 1]
    mt = clean_for_scoring(raw)
    start = mt.index("🙂")
    rewards = judged_rewards(*TokenOffsets(gemma)(ids), mt, [Span(start, start + 1, "major", 1.0)], SpanCredit())
    hit = [token for token, reward in zip(gemma.convert_ids_to_tokens(ids), rewards, strict=True) if reward]
    assert hit == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"] and set(rewards) == {0.0, -5.0} and rewards[-1] == 0


def test_not_judged_is_not_without_error(gemma):
    offsets, ids = TokenOffsets(gemma), gemma("abc", add_special_tokens=False).input_ids
    for spans in (None, [Span(0, 9, "minor", 1.0)]):
        assert all(math.isnan(r) for r in judged_rewards(*offsets(ids), "abc", spans, SpanCredit()))
    assert judged_rewards(*offsets(ids), "abc", [], SpanCredit()) == [0.0] * len(ids)


def test_rows_are_stacked_and_never_cut():
    like = torch.zeros(2, 3)
    assert stack_rows([[1.0], [1, 2, 3]], like).tolist() == [[1, 0, 0], [1, 2, 3]]
    assert stack_rows([], torch.zeros(0, 3)).shape == (0, 3)
    for rows in ([[1.0]], [[1.0] * 4, []]):
        with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
            stack_rows(rows, like)


# ---------------------------------------------------------------------- advantages

SEQUENCE = torch.tensor([1.0, -2.0, 0.5])
TOKENS = torch.tensor([[0.0, -5.0, 0.0, 0.0], [-1.0, 0.0, 9.0, 9.0], [0.0, 0.0, -10.0, 9.0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
RAW = [1, -4, 1, 1, -3, -2, 0.5, 0.5, -9.5]  # by hand, in reading order of the mask


def test_advantages_by_hand():
    mean, std = statistics.fmean(RAW), statistics.pstdev(RAW)
    got = token_advantages(SEQUENCE, TOKENS, MASK)
    assert got.shape == (3, 4) and got.dtype == torch.float32
    assert got[MASK.bool()].tolist() == pytest.approx([(x - mean) / (std + 1e-8) for x in RAW], abs=1e-6)
    assert not got[~MASK.bool()].any()
    plain = token_advantages(SEQUENCE, TOKENS, MASK, normalise=False)
    assert plain[MASK.bool()].tolist() == RAW


def test_the_group_term_comes_before_normalisation():
    group = torch.tensor([1.0, -1.0, 0.0])
    raw = [x + 2 * z for x, z in zip(RAW, [1] * 4 + [-1] * 2 + [0] * 3, strict=True)]
    got = token_advantages(SEQUENCE, TOKENS, MASK, group=group, group_coefficient=2.0)
    mean, std = statistics.fmean(raw), statistics.pstdev(raw)
    assert got[MASK.bool()].tolist() == pytest.approx([(x - mean) / std for x in raw], abs=1e-6)
    assert torch.equal(token_advantages(SEQUENCE, TOKENS, MASK, group=group), token_advantages(SEQUENCE, TOKENS, MASK))


def test_nothing_added_leaves_the_trainers_advantages_bit_for_bit():
    advantages = torch.randn(5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 0, 5])[:, None]
    got = token_advantages(advantages, torch.zeros(5, 7), mask, normalise=False)
    assert torch.equal(got, advantages[:, None] * mask)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_missing_score_counts_nowhere(bad):
    kept = token_advantages(SEQUENCE[[0, 2]], TOKENS[[0, 2]], MASK[[0, 2]])
    sequence = SEQUENCE.clone()
    sequence[1] = bad
    got = token_advantages(sequence, TOKENS, MASK)
    assert torch.allclose(got[[0, 2]], kept, atol=1e-6) and not got[1].any()
    tokens = TOKENS.clone()
    tokens[1, 0] = bad  # one token not judged: the row is out; outside the mask nothing is looked at
    tokens[2, 3] = bad
    got = token_advantages(SEQUENCE, tokens, MASK)
    assert torch.allclose(got[[0, 2]], kept, atol=1e-6) and not got[1].any()


def test_no_spread_and_no_tokens_give_no_gradient():
    same = token_advantages(torch.full((3,), 0.1), torch.zeros(3, 4), MASK)
    assert same.abs().max() < 1e-6
    assert not token_advantages(SEQUENCE, TOKENS, torch.zeros(3, 4)).any()
    assert not token_advantages(torch.full((3,), NAN), TOKENS, MASK).any()


def test_two_processes_normalise_as_one():
    """Each half on its own thread, with a gather that waits for the other, as a collective does."""
    both, box, results = threading.Barrier(2), [None, None], [None, None]
    parts = [[0, 1], [2]]

    def process(rank: int) -> None:
        def gather(moments: torch.Tensor) -> torch.Tensor:
            box[rank] = moments
            both.wait(10)
            return torch.cat(box)

        rows = parts[rank]
        results[rank] = token_advantages(SEQUENCE[rows], TOKENS[rows], MASK[rows], gather=gather)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert torch.allclose(torch.cat(results), token_advantages(SEQUENCE, TOKENS, MASK), atol=1e-6)


def test_a_process_without_valid_tokens_still_takes_part():
    calls = []
    token_advantages(
        torch.tensor([NAN]), torch.zeros(1, 2), torch.ones(1, 2), gather=lambda m: calls.append(m.shape) or m
    )
    assert calls == [(1, 3)]


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match="sequence has shape"):
        token_advantages(SEQUENCE[:2], TOKENS, MASK)
    with pytest.raises(ValueError, match="tokens has shape"):
        token_advantages(SEQUENCE, TOKENS[:, :3], MASK)
    with pytest.raises(ValueError, match="group has shape"):
        token_advantages(SEQUENCE, TOKENS, MASK, group=TOKENS)
