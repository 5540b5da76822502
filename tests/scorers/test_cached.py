"""rl_nmt.scorers.cached: the same answers, computed once, with real COMET and a scorer that counts."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections import Counter

import pytest
from tiny_models import PAIRS, build_comet

from rl_nmt.scorers.base import Scores, Segment, Span, ask
from rl_nmt.scorers.cached import Remembered
from rl_nmt.scorers.comet.scorer import load_comet


class Letters:
    """Score the number of different letters; mark each "x" as an error; record the segments."""

    name, range, higher_is_better = "letters", (0.0, 100.0), False

    def __init__(self, with_spans: bool = True):
        self.with_spans, self.device, self.asked, self.stats = with_spans, "cpu", [], {}

    def score(self, segments):
        self.asked.append([segment.mt for segment in segments])
        self.stats = {"rows": len(segments), "tokens": sum(len(s.mt) for s in segments)}
        values = [self.value(s) for s in segments]
        spans = [self.marks(s) for s in segments] if self.with_spans else None
        return Scores(values, spans)

    def value(self, segment):
        special = {"none": None, "nan": float("nan"), "inf": float("inf"), "half": 2.0}
        return special.get(segment.mt, float(abs(len(segment.src) - len(segment.mt)) + len(segment.ref or "")))

    def marks(self, segment):
        if segment.mt in ("none", "half"):
            return None
        return [Span(i, i + 1, "minor", 0.5, "x") for i, letter in enumerate(segment.mt) if letter == "x"]

    def signature(self):
        return {"identity": {"model": "letters"}, "environment": {"python": "3"}}

    def to(self, device):
        self.device = device
        return self

    def close(self):
        self.device = "closed"


def segments(*texts: str) -> list[Segment]:
    return [Segment("source", text) for text in texts]


def test_each_text_is_asked_for_once():
    scorer = Remembered(Letters())
    first = scorer.score(segments("ax", "b", "ax"))
    assert first == Scores([4.0, 5.0, 4.0], [[Span(1, 2, "minor", 0.5, "x")], [], [Span(1, 2, "minor", 0.5, "x")]])
    assert scorer.stats == {"rows": 3, "tokens": 3, "remembered": 0}  # a repeat in one call is not from the cache
    second = scorer.score(segments("b", "cc", "ax", "b"))
    assert second == Scores([5.0, 4.0, 4.0, 5.0], [[], [], [Span(1, 2, "minor", 0.5, "x")], []])
    assert scorer.stats == {"rows": 4, "tokens": 2, "remembered": 3}
    third = scorer.score(segments("ax", "b"))
    assert third == Scores([4.0, 5.0], [[Span(1, 2, "minor", 0.5, "x")], []])
    assert scorer.stats == {"rows": 2, "remembered": 2}  # the counts of another call would be misleading
    assert scorer.scorer.asked == [["ax", "b"], ["cc"]]


def test_source_and_reference_are_part_of_the_key():
    scorer = Remembered(Letters())
    same = [Segment("ab", "c"), Segment("abc", "c"), Segment("ab", "c", ""), Segment("ab", "c", "de")]
    assert scorer.score(same).values == [1.0, 2.0, 1.0, 3.0]
    assert scorer.scorer.asked == [["c"] * 4]


@pytest.mark.parametrize("bad", ["none", "nan", "inf", "half"])
def test_invalid_answers_are_not_cached(bad):
    scorer = Remembered(Letters())
    for _ in range(3):
        found = scorer.score(segments("a", bad))
        assert found.values[0] == 5.0 and str(found.values[1]) == str(scorer.scorer.value(segments(bad)[0]))
        assert found.spans == [[], scorer.scorer.marks(segments(bad)[0])]
    assert scorer.scorer.asked == [["a", bad], [bad], [bad]]


def test_an_answer_at_the_second_attempt_is_cached():
    inner = Letters()
    scorer = Remembered(inner)
    assert scorer.score(segments("none")) == Scores([None], [None])
    inner.value, inner.marks = lambda segment: 7.0, lambda segment: []
    assert [scorer.score(segments("none")) for _ in range(2)] == [Scores([7.0], [[]])] * 2
    assert len(inner.asked) == 2


def test_values_of_a_call_without_its_spans_are_not_cached():
    inner = Letters()
    scorer = Remembered(inner)
    scorer.score(segments("a"))
    inner.with_spans = False
    assert scorer.score(segments("bx", "a")) == Scores([4.0, 5.0], [None, []])
    inner.with_spans = True
    assert scorer.score(segments("bx")) == Scores([4.0], [[Span(1, 2, "minor", 0.5, "x")]])
    assert inner.asked == [["a"], ["bx"], ["bx"]]


def test_without_spans_there_are_none():
    scorer = Remembered(Letters(with_spans=False))
    for _ in range(2):
        assert scorer.score(segments("a", "b")) == Scores([5.0, 5.0], None)
    assert scorer.score([]) == Scores([], None) == Letters(with_spans=False).score([])
    assert Remembered(Letters()).score([]) == Letters().score([])


def test_the_callers_lists_are_its_own():
    scorer = Remembered(Letters())
    first = scorer.score(segments("x", "x"))
    first.spans[0].clear()
    first.values[1] = 99.0
    assert scorer.score(segments("x")) == Scores([5.0], [[Span(0, 1, "minor", 0.5, "x")]])
    assert first.spans[1] == [Span(0, 1, "minor", 0.5, "x")]


def test_the_least_recently_used_goes_first():
    scorer = Remembered(Letters(), size=2)
    for text in ("a", "b", "a", "c", "a", "b"):  # c drops b, since a was used later; then b drops c
        assert scorer.score(segments(text)).values == [5.0]
    assert scorer.scorer.asked == [["a"], ["b"], ["c"], ["b"]]
    many = [chr(97 + i) * (i + 1) for i in range(10)]
    assert scorer.score(segments(*many)).values == [
        float(abs(6 - len(text))) for text in many
    ]  # more than the cache holds


def test_random_calls_against_the_scorer_itself():
    rng, plain, scorer = random.Random(0), Letters(), Remembered(Letters(), size=15)
    texts = ["".join(rng.choices("abx", k=rng.randint(0, 3))) for _ in range(40)] + ["none", "half"]
    for _ in range(200):
        batch = segments(*rng.choices(texts, k=rng.randint(0, 6)))
        assert scorer.score(batch) == plain.score(batch)
        assert len(scorer.state_dict()["memory"]) <= 15
    asked = Counter(text for call in scorer.scorer.asked for text in call)
    assert sum(asked.values()) < 0.8 * sum(map(len, plain.asked))


def test_errors_pass_and_leave_nothing_behind(capsys):
    inner = Letters()

    def refuse(segment):
        if segment.mt == "bad":
            raise RuntimeError("refused")
        return 1.0

    inner.value = refuse
    scorer = Remembered(inner)
    with pytest.raises(RuntimeError, match="refused"):
        scorer.score(segments("a", "bad"))
    assert scorer.state_dict() == {"memory": []} and scorer.stats == {}
    assert ask("judge", scorer, segments("a", "bad", "b", "c")).values == [1.0, None, 1.0, 1.0]
    assert "judge: 1 of 4 outputs get no score (RuntimeError: refused)" in capsys.readouterr().err
    inner.score = lambda rows: Scores([1.0])
    with pytest.raises(ValueError, match="letters: 1 results for 2 segments"):
        scorer.score(segments("d", "e"))
    inner.score = lambda rows: Scores([1.0, 2.0], [[]])
    with pytest.raises(ValueError, match="for 2 segments"):
        scorer.score(segments("d", "e"))


def test_a_scorer_shared_by_processes_is_called_every_time():
    """The others wait for this process's call, even if it has no new segments."""
    inner = Letters()
    inner.collective = True
    scorer = Remembered(inner)
    assert [scorer.score(segments("a")).values for _ in range(2)] == [[5.0]] * 2
    assert scorer.collective and inner.asked == [["a"], []]


def test_other_attributes_are_the_scorers():
    scorer = Remembered(Letters())
    assert (scorer.name, scorer.range, scorer.higher_is_better) == ("letters", (0.0, 100.0), False)
    assert scorer.signature() == Letters().signature()
    scorer.to("cuda:1")
    assert scorer.scorer.device == "cuda:1"
    scorer.close()
    assert scorer.scorer.device == "closed"
    with pytest.raises(AttributeError):
        scorer.no_such_thing  # noqa: B018


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda scorer: pickle.loads(pickle.dumps(scorer))])
def test_copies_keep_the_cache(twin):
    scorer = Remembered(Letters())
    scorer.score(segments("ax"))
    again = twin(scorer)
    assert again.score(segments("ax")) == scorer.score(segments("ax")) and again.stats["remembered"] == 1


@pytest.mark.parametrize("with_spans", [True, False])
def test_a_cache_continues_in_another_process(with_spans):
    scorer, again = (Remembered(Letters(with_spans), size=3) for _ in range(2))
    value = 0.1 + 0.2
    scorer.scorer.value = lambda segment: value
    scorer.score([Segment("s", "ax"), Segment("s", "b", "r"), Segment("ü", "😀x")])
    scorer.score([Segment("s", "ax")])
    state = json.loads(json.dumps(scorer.state_dict()))
    again.score(segments("forgotten"))
    again.load_state_dict(state)
    assert again.state_dict() == state and [row[1] for row in state["memory"]] == ["b", "😀x", "ax"]  # oldest first
    texts = [Segment("s", "ax"), Segment("s", "b", "r"), Segment("ü", "😀x")]
    assert again.score(texts) == scorer.score(texts) and again.stats == {"rows": 3, "remembered": 3}
    small = Remembered(Letters(with_spans), size=1)
    small.load_state_dict(state)
    assert small.state_dict() == {"memory": [state["memory"][-1]]}


def test_real_comet_is_run_once_per_text(tmp_path):
    """XCOMET's values, spans and own counters: a text that was scored before is not encoded again."""
    folder = build_comet(tmp_path / "m", kind="xcomet_metric", layer_norm=False)
    plain = load_comet(folder)
    scorer = Remembered(load_comet(folder))
    assert scorer.signature() == plain.signature() and scorer.kind == plain.kind
    texts = [Segment(en, ta) for en, ta in PAIRS] + [Segment(PAIRS[0][0], ta) for _, ta in PAIRS[1:4]]
    first = scorer.score(texts[:10])
    assert scorer.stats["encoded"] == 10 and scorer.stats["remembered"] == 0
    second = scorer.score(texts)
    assert scorer.stats["encoded"] == 5 and scorer.stats["remembered"] == 10 and scorer.stats["rows"] == 15
    assert second.values[:10] == first.values and second.spans[:10] == first.spans
    expected = plain.score(texts)
    assert second.values == pytest.approx(expected.values, abs=1e-5)
    places = [[(s.start, s.end, s.severity) for s in row] for row in expected.spans]
    assert any(places) and [[(s.start, s.end, s.severity) for s in row] for row in second.spans] == places
