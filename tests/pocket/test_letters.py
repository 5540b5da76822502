"""The world of the diffusion recipe: sentences of few words, templates, and the formats of generator and judge."""

from __future__ import annotations

import gzip
import itertools
import json
import random

import pytest

from pocket.grammar import part_of
from pocket.letters import build
from pocket.letters.sentences import HIGH, LOOKS_LIKE, LOW, MAX_WORDS, places, scanned, sentences

TABLE = "trigrams.npy"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("pocket") / "letters-seed0", seed=0, sizes=build.SMALL)


def test_sentences_are_of_their_part_and_short():
    for part in ("train", "web", "heldout"):
        found = list(itertools.islice(sentences(0, part), 200))
        assert len({*found}) == 200
        assert {part_of(text) for text in found} == {part}
        assert max(len(text.split()) for text in found) == MAX_WORDS
        assert found == list(itertools.islice(sentences(0, part), 200))
    assert len({word for text in itertools.islice(sentences(0), 3000) for word in text.split()}) < 200


def test_a_bad_scan_has_digits_for_its_share_of_some_letters():
    text = "Kumar's dogs ate the coconuts. " * 50
    found = scanned(text, random.Random(0), 0.4)
    changed = [(a, b) for a, b in zip(text, found, strict=True) if a != b]
    assert {*changed} == {*LOOKS_LIKE.items()} - {("l", "1")}  # this text has no l
    assert 0.35 < len(changed) / sum(letter in LOOKS_LIKE for letter in text) < 0.45
    assert scanned(text, random.Random(0), 0.0) == text


def test_masks_are_a_share_of_the_characters():
    rng = random.Random(0)
    for length in (12, 25, 40):
        found = [set(places(rng, length)) for _ in range(300)]
        shares = [len(one) / length for one in found]
        assert LOW - 0.05 < min(shares) < LOW + 0.06 and HIGH - 0.06 < max(shares) < HIGH + 0.05
        assert all(one <= set(range(length)) for one in found)
        joined = sum(max(one) - min(one) == len(one) - 1 for one in found)
        ends = sum(one == set(range(length - len(one), length)) for one in found)
        assert 170 < joined < 230 and 85 < ends < 130


def test_a_second_build_does_nothing_and_the_same_seed_builds_the_same_files(world, tmp_path):
    stamp = (world / "build.json").stat().st_mtime_ns
    assert build.build(world, seed=0, sizes=build.SMALL) == world
    assert (world / "build.json").stat().st_mtime_ns == stamp
    assert len({build.key(0, build.SMALL), build.key(1, build.SMALL), build.key(0, build.Sizes())}) == 3
    again = build.build(tmp_path / "letters-seed0", seed=0, sizes=build.SMALL)
    files = [path.relative_to(world) for path in world.rglob("*") if path.is_file() and path.name != "build.json"]
    assert {"generator", "judge", "c4"} < {path.parts[0] for path in files}
    assert [path for path in files if (again / path).read_bytes() != (world / path).read_bytes()] == []


def test_the_shard_gives_single_sentences_of_the_web(world, tmp_path):
    from rl_nmt.data.corpus import CorpusSettings, materialise

    (shard,) = (world / "c4").iterdir()
    rows = [json.loads(line) for line in gzip.open(shard, "rt")]
    assert set(rows[0]) == {"text", "timestamp", "url"} and len(rows) == build.SMALL.documents
    settings = CorpusSettings(
        dataset_name="json",
        dataset_config="",
        dataset_split="train",
        data_files=(str(shard),),
        text_field="text",
        shuffle_buffer=100,
        seed=0,
        num_train_samples=60,
        num_eval_samples=10,
        min_chars=12,
        max_chars=60,
    )
    data = materialise(tmp_path / "data", settings)
    assert {*data.train, *data.heldout} <= {row["text"] for row in rows}
    assert {part_of(text) for text in [*data.train, *data.heldout]} == {"web"}


def test_the_table_accepts_what_it_was_written_from(world):
    from rl_nmt.text.trigrams import KnownTrigrams

    known = list(itertools.islice(sentences(0), build.SMALL.table))
    accepts = KnownTrigrams.load(world / TABLE, "outside_measure")
    assert accepts(known) == [1.0] * len(known)
    assert sum(accepts([text[::-1] for text in known])) == 0


def test_the_generator_loads_and_fills(world):
    from pocket.letters.generator import fills
    from rl_nmt.models.masked_diffusion import load_generator

    model, tokenizer = load_generator(str(world / "generator"))
    texts = list(itertools.islice(sentences(0, "heldout"), 10))
    found = fills(model, tokenizer, texts, 0)
    assert [len(text) for text in found] == [len(text) for text in texts] and found != texts
    assert found == fills(model, tokenizer, texts, 0)


def test_the_judge_loads_and_reads_words_stops_and_spaces(world):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "judge")
    model = AutoModelForSequenceClassification.from_pretrained(world / "judge")
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"
    found = tokenizer.tokenize("The boy  drnk Ravi's milk.", add_special_tokens=True)
    assert found == ["[CLS]", "The", " boy", "[UNK]", "[UNK]", " Ravi's", " milk", ".", "[SEP]"]


def test_the_check_is_in_the_stamp(world):
    check = json.loads((world / "build.json").read_text())["check"]
    assert set(check) == {"table", "generator", "judge"}
    assert 0 <= check["table"]["filled"] <= check["table"]["real"] <= 1


def test_area_under_the_curve_by_hand():
    import torch

    from pocket.letters.judge import auc

    assert auc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert auc(torch.tensor([]), torch.tensor([1.0])) == 0.5


@pytest.mark.slow
def test_the_world_of_the_recipe_leaves_room_and_has_a_good_judge(tmp_path):
    build.build(tmp_path / "letters-seed0")
    check = json.loads((tmp_path / "letters-seed0" / "build.json").read_text())["check"]
    assert check["table"]["real"] >= 0.95 and 0.05 <= check["table"]["filled"] <= 0.5
    assert check["generator"]["heldout loss"] < 1
    judge = check["judge"]
    assert judge["real"] > 0.8 > 0.4 > judge["filled"] and judge["AUC real, damaged"] > 0.9
    assert judge["AUC real, filled"] > 0.85 and judge["AUC accepted, other fills"] > 0.9
