"""The twins of MetricX, XCOMET and the judge: known errors by hand, formats through the product's own loaders."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pocket import build as worlds
from pocket import fitting, formats, grammar
from pocket.corruptions import tamil_forms, tokens
from pocket.grammar import Pair
from pocket.morphology import realise
from pocket.twins import build, damage, graded, judge, meanings, metricx, xcomet
from pocket.twins.damage import Error, find_errors, points
from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet.scorer import load_comet
from rl_nmt.scorers.metricx import SCORE_ID, load_metricx
from rl_nmt.scorers.mqm.gemba import load_gemba_mqm

ROOT = Path(__file__).resolve().parents[2]
SMALL = build.Sizes(
    pairs=300,
    sampled_prompts=6,
    better_steps=2,
    batch=8,
    vocab=400,
    hidden=16,
    layers=1,
    metricx_steps=4,
    xcomet_steps=4,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(
        tmp_path_factory.mktemp("pocket") / "seed0", seed=0, sizes=replace(worlds.SMALL, policy_chrf=0.0)
    )


@pytest.fixture(scope="module")
def twins(world):
    return build.build(world.with_name("twins-seed0"), world, SMALL)


def sentences(n: int, part: str = "train") -> list[Pair]:
    return list(islice(grammar.pairs(3, part=part, max_words=7), n))


# ---------------------------------------------------------------------- known errors

EN, TA = "Two boys did not eat the big fish yesterday.", "நேற்று இரண்டு சிறுவர்கள் அந்தப் பெரிய மீனைச் சாப்பிடவில்லை."


@pytest.mark.parametrize(
    "change, wanted",  # change of the output → severity, category, marked words (or lost words of the source)
    [
        ((), []),
        (("பெரிய ", "சிறிய "), [("major", "accuracy/mistranslation", "சிறிய")]),
        (("மீனைச்", "மீனில்"), [("minor", "fluency/grammar", "மீனில்")]),
        (("இரண்டு", "மூன்று"), [("critical", "accuracy/mistranslation", "மூன்று")]),
        (("இரண்டு", "பல"), [("critical", "accuracy/mistranslation", "பல")]),
        (("சாப்பிடவில்லை", "சாப்பிட்டார்கள்"), [("critical", "accuracy/mistranslation", "சாப்பிட்டார்கள்")]),
        (("அந்தப்", "இந்தப்"), [("minor", "accuracy/mistranslation", "இந்தப்")]),
        (("பெரிய ", "big "), [("major", "accuracy/untranslated text", "big")]),
        (("பெரிய ", "பெரிபெரி "), [("major", "fluency/spelling", "பெரிபெரி")]),
        (("பெரிய ", "பெரிய சிவப்பு "), [("major", "accuracy/addition", "சிவப்பு")]),
        (("பெரிய ", ""), [("major", "accuracy/omission", "big")]),
        (("அந்தப் ", ""), [("minor", "accuracy/omission", "the")]),
        (("இரண்டு ", ""), [("critical", "accuracy/omission", "Two")]),
        (("நேற்று இரண்டு சிறுவர்கள்", "இரண்டு சிறுவர்கள் நேற்று"), [("minor", "fluency/word order", "நேற்று")]),
        ((".", "?"), [("minor", "fluency/punctuation", "?")]),
        ((".", ""), [("minor", "accuracy/omission", ".")]),
        (("அந்தப்", "அந்த"), []),  # a doubled consonant is spelling that depends on the next word
    ],
)
def test_errors_by_hand(change, wanted):
    output = TA.replace(*change) if change else TA
    assert not change or output != TA
    found = find_errors(EN, output, TA)
    shown = [(e.severity, e.category, e.source if e.start is None else output[e.start : e.end]) for e in found]
    assert shown == wanted


def test_a_determiner_is_found_in_the_source_however_it_is_spelt():
    assert find_errors("Meena had an apple.", "மீனாவிடம் ஆப்பிள் இருந்தது.", "மீனாவிடம் ஓர் ஆப்பிள் இருந்தது.") == [
        Error("minor", "accuracy/omission", source="an")
    ]


def test_points_add_up_to_at_most_25():
    one = {s: Error(s, "x") for s in ("minor", "major", "critical")}
    assert points([]) == 0 and points([one["minor"], one["major"], one["critical"]]) == 16
    assert points([one["critical"]] * 3) == 25


def test_a_reference_has_no_errors_but_another_sentence_has():
    pairs = sentences(300)
    assert all(find_errors(p.english, p.tamil, p.tamil) == [] for p in pairs)
    for one, two in pairwise(pairs):
        assert (one.tamil == two.tamil) == (find_errors(one.english, two.tamil, one.tamil) == [])


def test_a_replaced_word_is_the_one_that_is_marked():
    """Known by construction: one word becomes another of its category in the same inflection."""
    rng, tried = random.Random(0), 0
    for pair in sentences(400):
        words, mark = tokens(pair.tamil)
        at = rng.randrange(len(words))
        other = tamil_forms().same_slot(words[at], rng)
        if other is None or other in words or tamil_forms().analyses[other][1] in damage.COUNTS:
            continue
        tried += 1
        output = realise([*words[:at], other, *words[at + 1 :]]) + mark
        (error,) = find_errors(pair.english, output, pair.tamil)
        assert output[: error.start].count(" ") == at and " " not in output[error.start : error.end]
        assert tokens(output[error.start : error.end] + ".")[0][0].rstrip("^") == other.rstrip("^") or other == "ஒரு"
    assert tried > 150


def cheapest(mine: tuple[str, ...], theirs: tuple[str, ...]) -> int:
    """Cost of the best alignment, by trying all."""

    @cache
    def rest(i: int, j: int) -> int:
        ways = []
        if i < len(mine) and j < len(theirs):
            ways.append(damage.distance(mine[i], theirs[j]) + rest(i + 1, j + 1))
        if i < len(mine):
            ways.append(damage.GAP + rest(i + 1, j))
        if j < len(theirs):
            ways.append(damage.GAP + rest(i, j + 1))
        return min(ways, default=0)

    return rest(0, 0)


def test_alignment_is_complete_in_order_and_cheapest():
    rng, known = random.Random(1), list(tamil_forms().analyses)[::200]
    for _ in range(300):
        mine, theirs = (tuple(rng.choices(known, k=rng.randint(0, 7))) for _ in range(2))
        pairs = damage.align(mine, theirs)
        assert [i for i, _ in pairs if i is not None] == list(range(len(mine)))
        assert [j for _, j in pairs if j is not None] == list(range(len(theirs)))
        cost = sum(damage.GAP if i is None or j is None else damage.distance(mine[i], theirs[j]) for i, j in pairs)
        assert cost == cheapest(mine, theirs)


@pytest.mark.parametrize("output", ["", " ", ".", "?!", "a\n\nb", "🙂", "வந்தான். வந்தான். வந்தான்.", "…", TA * 3])
def test_odd_outputs_have_places_within_them(output):
    for error in find_errors(EN, output, TA):
        if error.start is None:
            assert error.source and error.source in EN
        else:
            assert 0 <= error.start < error.end <= len(output) and output[error.start : error.end].strip()


# ---------------------------------------------------------------------- rows and their labels


def test_rows_have_their_known_errors():
    (row,) = graded.grade([Pair(EN, TA)], [TA.replace("பெரிய", "சிறிய")])
    assert (row.src, row.ref, len(row.errors)) == (EN, TA, 1) and 0.3 < row.quality < 1
    assert graded.grade([Pair(EN, TA)], [TA])[0].quality == 1
    assert metricx.goal(graded.grade([Pair(EN, TA)], [TA])[0]) == 0


def test_damage_is_of_all_kinds():
    rng, pairs = random.Random(0), sentences(200)
    lost = [points(find_errors(p.english, graded.damaged(p, rng), p.tamil)) for p in pairs]
    assert 0.05 < np.mean(np.array(lost) == 0) < 0.6 and max(lost) == 25


def test_batches_have_the_size_and_little_to_pad():
    rng = random.Random(0)
    lengths = [rng.randint(5, 60) for _ in range(500)]
    drawn = list(islice(fitting.batches(lengths, 16, rng), 64))
    assert {len(batch) for batch in drawn} == {16}
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in drawn])
    assert spread < 15  # of 55
    assert len({i for batch in drawn for i in batch}) > 350  # every row is used


def test_labels_of_missing_places_do_not_count():
    logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0], [9.0, 9.0]]])  # (1, 3, 2): the last token has no label at all
    assert fitting.cross_entropy(logits, torch.tensor([[0, -1]])).item() == pytest.approx(np.log(2))
    assert fitting.padded([[1, 2], [3]], -1).tolist() == [[1, 2], [3, -1]]


def test_words_and_their_translations_have_one_number():
    english, tamil = meanings.of_english("Ravi ate two mangoes."), meanings.of_tamil("ரவி இரண்டு மாம்பழங்களை உண்டான்.")
    named = {name: number for number, name in enumerate(["Ravi", "two"])}
    by_name = {name: meanings.numbers()[name] for name in named}
    assert [n for *_, n in english if n in by_name.values()] == [n for *_, n in tamil if n in by_name.values()]
    assert english[0][:2] == (0, 4) and meanings.of_tamil("பெரிபெரி வந்தான்.")[0] == (0, 8, 0)
    assert meanings.per_token([(0, 2), (2, 4), (4, 5)], [(0, 3, 7)]) == [7, 7, -1]
    assert max(meanings.numbers().values()) < meanings.count()


def test_labels_of_tokens_follow_the_words(twins):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(twins / "metricx")
    output = TA.replace("இரண்டு", "மூன்று").replace("பெரிய ", "")
    (row,) = graded.grade([Pair(EN, TA)], [output])
    for with_reference in (False, True):
        made = metricx.encode(tokenizer, row, with_reference)
        text = f"source: {EN} candidate: {output}" + (f" reference: {TA}" if with_reference else "")
        ids = tokenizer(text)
        assert made.ids == ids["input_ids"][:-1] and len(made.labels) == len(made.entries) == len(made.ids)
        words = [text[slice(*ids.word_to_chars(w))] if w is not None else "" for w in ids.word_ids()[:-1]]
        labelled = {}
        for word, label in zip(words, made.labels, strict=True):
            labelled.setdefault(word.strip(), set()).add(label)
        assert labelled["மூன்று"] == {3} and labelled["big"] == {2} and labelled["fish"] == {0}
        assert labelled["source:"] == labelled["candidate:"] == {-1}
        if with_reference:
            assert labelled["reference:"] == labelled["இரண்டு"] == {-1}


# ---------------------------------------------------------------------- the models


def test_a_second_build_does_nothing_and_another_size_builds_again(world, twins):
    stamp = (twins / "build.json").stat().st_mtime_ns
    assert build.build(twins, world, SMALL) == twins
    assert (twins / "build.json").stat().st_mtime_ns == stamp
    assert build.key(world, SMALL) != build.key(world, build.Sizes())


def test_the_figures_are_kept(twins):
    check = json.loads((twins / "build.json").read_text())["check"]
    assert set(check) == {"known errors", "metricx", "xcomet"}
    assert set(check["xcomet"]["words"]) == {
        "precision",
        "recall",
        "f1",
        "mcc",
        "wrong",
        "f1_of_all",
        "severity",
    }


def test_metricx_is_read_by_the_product_as_by_its_own_class(twins):
    """The oracle is transformers' full-logits route over 250,112 words."""
    from transformers import AutoTokenizer, MT5ForConditionalGeneration

    folder = twins / "metricx"
    model = MT5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()  # saved in bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():  # four steps of fitting leave scores near zero
        model.lm_head.weight[SCORE_ID] *= 20
    model.save_pretrained(folder.with_name("metricx_wide"))
    shutil.copy(folder / "config.json", folder.with_name("metricx_wide"))  # transformers 5 would call it tied
    tokenizer.save_pretrained(folder.with_name("metricx_wide"))
    pairs = sentences(6)
    rows = [Segment(p.english, q.tamil) for p in pairs for q in pairs] + [Segment(EN, TA, TA)]
    got = load_metricx(folder.with_name("metricx_wide")).score(rows).values
    for row, value in zip(rows, got, strict=True):
        text = f"source: {row.src} candidate: {row.mt}" + (f" reference: {row.ref}" if row.ref else "")
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :-1]
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]]), use_cache=False).logits
        assert logits.shape == (1, 1, metricx.WORDS)
        assert value == pytest.approx(logits[0, 0, SCORE_ID].clamp(0, 25).item(), abs=1e-4)
    assert all(v is not None for v in load_metricx(folder).score(rows).values)


def test_metricx_takes_little_disk_space(twins):
    weights = (twins / "metricx" / "model.safetensors").stat()
    assert weights.st_size > 2 * metricx.WORDS * SMALL.hidden * 2  # both matrices of the published width, two bytes
    assert weights.st_blocks * 512 < weights.st_size / 5  # if the file system supports sparse files


def test_the_saved_metricx_is_the_fitted_one(tmp_path, twins):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(twins / "metricx")
    rows = graded.grade([Pair(EN, TA)] * 2, [TA, TA.replace("பெரிய ", "")])
    torch.manual_seed(0)
    twin = metricx.Twin(tokenizer, SMALL)
    torch.nn.init.normal_(twin.row)
    torch.nn.init.normal_(twin.mt5.shared.weight)
    metricx.save_metricx(twin, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = load_metricx(tmp_path).score([Segment(row.src, row.mt) for row in rows]).values
    for row, value in zip(rows, scores, strict=True):
        ids = torch.tensor([metricx.encode(tokenizer, row, False).ids])
        with torch.no_grad():
            hidden = twin.mt5.encoder(input_ids=ids).last_hidden_state
            step = twin.mt5.decoder(input_ids=torch.zeros(1, 1, dtype=torch.long), encoder_hidden_states=hidden)
            known = metricx.SPREAD * float(step.last_hidden_state[0, 0] @ twin.row)
        assert value == pytest.approx(min(25.0, max(0.0, known)), abs=0.5)  # weights on disk are bfloat16


def test_fitting_a_few_rows_teaches_metricx_their_points(twins):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(twins / "metricx")
    rng = random.Random(0)
    pairs = sentences(24)
    rows = graded.grade(pairs, [graded.damaged(pair, rng) for pair in pairs])
    torch.manual_seed(0)
    twin, batch = metricx.Twin(tokenizer, SMALL), [metricx.encode(tokenizer, row, False) for row in rows]
    goals = torch.tensor([metricx.goal(row) for row in rows])
    before = sum(twin.losses(batch, goals)).item()
    fitting.fit(twin, lambda _done: sum(twin.losses(batch, goals)), 60, 1e-2)
    assert sum(twin.losses(batch, goals)).item() < 0.6 * before


def test_xcomet_gives_scores_and_spans_with_and_without_a_reference(twins):
    scorer = load_comet(str(twins / "xcomet"), classes=("xcomet_metric",))
    rows = [Segment(p.english, p.tamil) for p in sentences(12)]
    for given in (rows, [Segment(r.src, r.mt, r.mt) for r in rows]):
        scores = scorer.score(given)
        assert all(value is not None for value in scores.values)
        for spans, row in zip(scores.spans, given, strict=True):
            # As in COMET, a span may be empty: that of a marked <s> alone.
            assert all(0 <= s.start <= s.end <= len(row.mt) and s.severity in xcomet.LABELS for s in spans)


def new_xcomet(folder: Path):
    texts = [text for pair in sentences(200) for text in (pair.english, pair.tamil)]
    return xcomet.new_xcomet(folder, formats.xlmr_tokenizer(texts, 300), SMALL)


def test_word_labels_are_the_spans(tmp_path):
    model, hparams = new_xcomet(tmp_path)
    assert hparams["class_identifier"] == "xcomet_metric" and "pool" not in hparams
    (row,) = graded.grade([Pair(EN, TA)], [TA.replace("இரண்டு", "மூன்று").replace("மீனைச்", "மீனில்")])
    ids = model.encoder.tokenizer(row.mt, return_offsets_mapping=True)
    for label, (start, end) in zip(xcomet.word_labels(model, row), ids["offset_mapping"], strict=True):
        part = row.mt[start:end]
        place = next((w for w in damage.words(row.mt) if start < w.end and w.start < end and part), None)
        word = row.mt[place.start : place.end] if place else ""
        assert label == {"மூன்று": 3, "மீனில்": 1}.get(word, 0)


def test_entries_are_those_of_the_words_in_the_joint_sequence(tmp_path):
    model, _ = new_xcomet(tmp_path)
    (row,) = graded.grade([Pair("Ravi came.", "ரவி வந்தான்.")], ["ரவி வந்தான்."])
    ((ids,),) = model.sequences([Segment(row.src, row.mt)])
    entries = xcomet.word_entries(model, row)
    tokens = model.encoder.tokenizer.convert_ids_to_tokens(ids)
    assert len(entries) == len(tokens)
    ravi, come = meanings.numbers()["Ravi"], meanings.numbers()["come"]
    assert set(entries) == {-1, ravi, come}
    assert all(entry == -1 for entry, token in zip(entries, tokens, strict=True) if token in ("<s>", "</s>", "."))
    assert [entry for entry, _ in groupby(entry for entry in entries if entry > 0)] == [ravi, come, ravi, come]


def test_agreement_of_words_by_hand():
    """Four words: two wrong, one of them marked, and one right word marked as well."""
    row = graded.Graded("x", "a b c d", "y", (Error("major", "m", 0, 1), Error("minor", "m", 2, 3)), 0.5)
    found = xcomet.word_agreement([[Span(0, 1, "minor", 0.9), Span(4, 7, "major", 0.9)]], [row])
    # known wrong: a, b; marked: a, c, d
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.5 and found["f1"] == pytest.approx(0.4)
    assert found["wrong"] == 0.5 and found["f1_of_all"] == pytest.approx(2 / 3) and found["severity"] == 0.0
    assert found["mcc"] == pytest.approx((1 * 0 - 2 * 1) / np.sqrt(3 * 2 * 2 * 1))


# ---------------------------------------------------------------------- the judge

QUICK = {"timeout": 2.0, "deadline": 8.0, "retries": 0, "breaker": 1000}


def heldout(world: Path) -> list[dict]:
    return [json.loads(line) for line in (world / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_judge_marks_what_it_knows(world, twins, form):
    rows = heldout(world)
    pairs = [Pair(row["english"], row["tamil"]) for row in rows]
    rng = random.Random(0)
    outputs = [graded.damaged(pair, rng) for pair in pairs]
    with judge.serve(twins) as server:
        scorer = load_gemba_mqm(server.url, "judge", form=form, **QUICK)
        perfect = scorer.score([Segment(p.english, p.tamil) for p in pairs])
        scores = scorer.score([Segment(p.english, mt) for p, mt in zip(pairs, outputs, strict=True)])
    assert perfect.values == [0.0] * len(pairs)
    assert None not in scores.values
    for pair, output, value, spans in zip(pairs, outputs, scores.values, scores.spans, strict=True):
        known = find_errors(pair.english, output, pair.tamil)
        worst = sorted(({"critical": 25, "major": 5, "minor": 1}[e.severity] for e in known), reverse=True)[:5]
        assert value == -min(25, sum(worst))
        placed = {(e.start, e.end, e.severity) for e in known if e.start is not None}
        assert {(s.start, s.end, s.severity) for s in spans} <= placed
        if form == "json":  # repeated words need the words before them, which the text form does not have
            once = {p for p in placed if output.count(output[p[0] : p[1]]) == 1}
            assert once <= {(s.start, s.end, s.severity) for s in spans}


def test_the_judge_cannot_mark_an_unknown_source(world, twins):
    english, tamil = heldout(world)[0].values()
    with judge.serve(twins) as server:
        scorer = load_gemba_mqm(server.url, "judge", **QUICK)
        assert scorer.score([Segment("The moon is made of cheese.", tamil)]).values == [None]
        assert scorer.stats["failed/not_the_form"] == 1
        assert scorer.score([Segment(f"  {english.upper()}  ", tamil)]).values == [0.0]
        both = [Segment(f"{english} {english}", f"{tamil} {tamil}"), Segment(f"{english} Who?", tamil)]
        assert scorer.score(both).values == [0.0, None]


def test_the_judge_knows_what_a_run_reads(world, twins, tmp_path):
    from rl_nmt.data import corpus

    settings = corpus.CorpusSettings(
        dataset_name=str(world / "c4"),
        num_train_samples=20,
        num_eval_samples=5,
        shuffle_buffer=10,
        min_chars=12,
        max_chars=60,
    )
    data = corpus.materialise(tmp_path / "data", settings)
    marks = judge.known_errors(twins)
    assert all(marks(text, "வந்தான்.") for text in data.train + data.heldout)


def test_it_fails_on_request(world, twins):
    english, tamil = heldout(world)[0].values()
    rows = [Segment(english, f"{tamil} {n}") for n in range(6)]
    with judge.serve(twins, "content_null", every=2, after=2) as server:
        scorer = load_gemba_mqm(server.url, "judge", check=False, concurrency=1, **QUICK)
        values = [scorer.score([row]).values[0] for row in rows]
    assert [value is None for value in values] == [False, False, True, False, True, False]
    mode = judge.failing("all", after=1)
    assert [mode(n) for n in range(len(judge.FAILURES) + 1)] == ["plain", *judge.FAILURES]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fail": "status_53"}, "did you mean status_503"),
        ({"fail": "zzz"}, "use all, or one of: "),
        ({"fail": "hang", "every": 0}, "fail_every is 0"),
        ({"after": -1}, "fail_after is -1"),
        ({"port": 99999}, "port: 99999 cannot be used"),
    ],
)
def test_bad_requests_to_fail(twins, options, message):
    with pytest.raises(ConfigError, match=message):
        judge.serve(twins, **options)


def test_a_world_without_twins_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"python -m pocket\.twins\.build"):
        judge.serve(tmp_path)


def test_a_taken_port_is_named(twins):
    with judge.serve(twins) as server, pytest.raises(ConfigError, match="0 takes a free one"):
        judge.serve(twins, port=int(server.url.split(":")[2].split("/")[0]))


def test_the_command_prints_its_address_first_and_judges(world, twins):
    english, tamil = heldout(world)[1].values()
    command = [sys.executable, "-m", "pocket.twins.judge", "--world", str(twins), "--text_only"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as served:
        try:
            address = served.stdout.readline().strip()
            scorer = load_gemba_mqm(address, "judge", **QUICK)
            assert scorer.score([Segment(english, tamil)]).values == [0.0]
        finally:
            served.terminate()


def test_the_judge_needs_no_torch():
    code = "import sys, pocket.twins.judge; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_docstring_examples_run():
    import doctest

    assert doctest.testmod(damage).attempted >= 1 and doctest.testmod(damage).failed == 0
