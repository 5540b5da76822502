"""rl_nmt.scorers.base: invalid answers, and batches halved until the bad item is alone."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from rl_nmt.scorers import base
from rl_nmt.scorers.base import Scores, Segment, Span, ask, isolate


class Unit:
    """A scorer with `model`'s answers."""

    def __init__(self, model, limits=(0.0, 1.0)):
        self.model, self.range = model, limits

    def score(self, batch):
        return Scores(self.model(batch))


def values_of(name, model, items, limits=(0.0, 1.0)):
    return ask(name, Unit(model, limits), items).values


def test_docstrings():
    assert doctest.testmod(base).failed == 0


@pytest.mark.parametrize("value", [0.5, 0, 1, -0.03, 1.04, -1.0, 2.0, np.float32(0.25), torch.tensor(0.75)])
def test_numbers_are_kept_as_floats(value, capsys):
    (kept,) = values_of("comet_da_model", lambda batch: [value], ["a"])
    assert type(kept) is float and kept == float(value) and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        1e30,
        2.01,
        -1.01,
        "0.5",
        b"0.5",
        True,
        False,
        np.bool_(True),
        [0.5],
        {},
        object(),
        torch.tensor([0.1, 0.2]),
        np.float32("nan"),
        10**400,
        1j,
    ],
)
def test_an_invalid_score_is_none_and_reported(value, capsys):
    assert values_of("comet_da_model", lambda batch: [0.5, value, 0.25], ["a", "b", "c"]) == [0.5, None, 0.25]
    assert "warning: comet_da_model: 1 of 3 outputs get no score (invalid: " in capsys.readouterr().err


def test_none_is_an_answer_and_no_warning(capsys):
    assert values_of("x", lambda batch: [None, 0.5], ["a", "b"]) == [None, 0.5]
    assert capsys.readouterr().err == ""


def test_the_range_is_the_scorers_own():
    assert values_of("x", lambda batch: [24.0, 60.0], ["a", "b"], (0.0, 25.0)) == [24.0, None]  # MetricX


def test_a_translators_answers_are_texts():
    found = ask("x", lambda batch: ["one", None, 3.0, True, ""], list("abcde"))
    assert found.values == ["one", None, None, None, ""] and found.spans == [None] * 5


class Model:
    """Return each item's number; fail on batches with a bad item; count calls and items."""

    def __init__(self, bad):
        self.bad, self.calls, self.done = set(bad), 0, []

    def __call__(self, batch):
        self.calls += 1
        if self.bad & set(batch):
            raise RuntimeError("the card fell off the bus")
        self.done += batch
        return [i / 1000 for i in batch]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 64, 100])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_bad_item_costs_itself_and_few_calls(count, where, capsys):
    bad = int(where * (count - 1))
    model = Model([bad])
    values = values_of("comet_qe_model", model, list(range(count)))
    assert values == [None if i == bad else i / 1000 for i in range(count)]
    assert model.calls <= 1 + 2 * (count - 1).bit_length()
    assert sorted(model.done) == [i for i in range(count) if i != bad]  # each good one once
    assert f"comet_qe_model: 1 of {count} outputs get no score (RuntimeError: the card" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [(0, 63), (0, 1), (31, 32), (5, 40)])
def test_two_bad_items_cost_themselves(bad):
    model = Model(bad)
    assert [i for i, v in enumerate(isolate(model, list(range(64)))[0]) if v is None] == list(bad)


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_a_model_that_always_fails_is_not_called_forever(count):
    model = Model(range(count))
    values, errors = isolate(model, list(range(count)))
    assert values == [None] * count and model.calls <= 1 + 4 * (count - 1).bit_length() and errors
    assert all(error.__traceback__ is None for error in errors)


def test_a_wrong_number_of_answers_is_invalid(capsys):
    for answers in ([0.1], [0.1] * 5, []):
        assert values_of("x", lambda batch, a=answers: a if len(batch) > 1 else [], ["a", "b", "c"]) == [None] * 3
    assert "results for" in capsys.readouterr().err


def test_no_items_are_no_call():
    model = Model([])
    assert values_of("x", model, []) == [] and model.calls == 0


class Marker:
    """A scorer with given answers per translation; an exception among them is raised."""

    range, higher_is_better, name = (0.0, 25.0), False, "marker"

    def __init__(self, answers, collective=False):
        self.answers, self.calls = answers, 0
        if collective:
            self.collective = True

    def score(self, segments):
        self.calls += 1
        found = [self.answers[s.mt] for s in segments]
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        return Scores([value for value, _ in found], [spans for _, spans in found])


def test_spans_come_with_their_values_and_a_bad_segment_costs_itself(capsys):
    good = [Span(0, 2, "major", 0.9)]
    scorer = Marker({"abc": (1.0, good), "d": (float("nan"), []), "boom": RuntimeError("no"), "ef": (2.0, [])})
    found = ask("reward.xcomet", scorer, [Segment("s", mt) for mt in ("abc", "d", "boom", "ef")])
    assert found == Scores([1.0, None, None, 2.0], [good, None, None, []])
    assert "warning: reward.xcomet: 2 of 4 outputs get no score (RuntimeError: no)" in capsys.readouterr().err


@pytest.mark.parametrize("span", [Span(0, 4, "major", 0.5), Span(-1, 2, "major", 0.5), Span(0, 1, "major", 1.5)])
def test_spans_outside_their_text_are_not_used(span, capsys):
    scorer = Marker({"abc": (1.0, [span]), "de": (2.0, [])})
    assert ask("x", scorer, [Segment("s", "abc"), Segment("s", "de")]) == Scores([1.0, 2.0], [None, []])
    assert "warning: x: 1 of 2 outputs get no spans (outside their text)" in capsys.readouterr().err


def test_a_scorer_without_spans_gives_none():
    class Plain(Marker):
        def score(self, segments):
            return Scores([1.0] * len(segments))

    assert ask("x", Plain({}), [Segment("s", "a")] * 2) == Scores([1.0, 1.0], [None, None])


def test_a_collective_scorer_is_called_exactly_once():
    scorer = Marker({}, collective=True)
    assert ask("x", scorer, []) == Scores([], []) and scorer.calls == 1
    assert ask("x", Marker({}), []) == Scores([], [])


def test_a_model_that_several_processes_share_is_called_exactly_once():
    """Also without items; and not again for halves, since the other processes would not call."""

    class Shared:
        collective, range = True, (0.0, 1.0)

        def __init__(self):
            self.calls = []

        def score(self, batch):
            self.calls.append(list(batch))
            return Scores([None if item == "bad" else 0.5 for item in batch])

    shared = Shared()
    assert ask("x", shared, []).values == [] and ask("x", shared, ["a", "bad"]).values == [0.5, None]
    assert shared.calls == [[], ["a", "bad"]]
    with pytest.raises(ValueError, match="0 results for 1 items"):
        ask("x", type("Odd", (Shared,), {"score": lambda self, batch: Scores([])})(), ["a"])
