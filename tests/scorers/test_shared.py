"""rl_nmt.scorers.shared: one model per machine for all its processes, in forked children connected by gloo."""

from __future__ import annotations

import os

import pytest
from faulty_scorer import Faulty
from process_trials import Processes

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import Scores, Segment, Span, ask
from rl_nmt.scorers.shared import Shared, SharedTranslator


class Counting(Faulty):
    """Faulty's scores and spans; records every batch."""

    def __init__(self, folder):
        super().__init__(folder)
        self.batches = []

    def score(self, segments):
        self.batches.append([segment.mt for segment in segments])
        if any(segment.mt == "bad" for segment in segments):
            raise ValueError("cannot score bad")
        self.stats = {"pid": float(os.getpid()), "segments": float(len(segments))}
        return Scores([float(len(s.mt)) for s in segments], [[Span(0, len(s.mt), "minor", 1.0)] for s in segments])


def segments(texts):
    return [Segment("source", text) for text in texts]


def span(text):
    return [Span(0, len(text), "minor", 1.0)]


# --- one process ---------------------------------------------------------------------------------------


def test_alone_it_is_the_scorer_itself(tmp_path):
    inner = Counting(tmp_path)
    shared = Shared(lambda: inner)
    assert (shared.name, shared.range, shared.higher_is_better) == ("faulty", (0.0, 100.0), True)
    assert shared.owner and not shared.collective and shared.signature() == inner.signature()
    assert shared.score(segments(["ab", "ab"])) == Scores([2.0, 2.0], [span("ab"), span("ab")])
    assert inner.batches == [["ab", "ab"]] and shared.stats == inner.stats
    with pytest.raises(ValueError, match="cannot score bad"):
        shared.score(segments(["bad"]))
    shared.to("elsewhere")
    assert inner.device == "elsewhere"
    with pytest.raises(ConfigError, match="nowhere is no device"):
        shared.to("nowhere")


def test_alone_errors_of_the_load_are_raised():
    def load():
        raise ConfigError("comet_qe_model: not there")

    with pytest.raises(ConfigError, match="comet_qe_model: not there"):
        Shared(load)


# --- several -------------------------------------------------------------------------------------------


def _score(folder, batches):
    """Return scores of one batch after another, the batches of the owner's scorer, and the number of loads."""
    loads = []

    def load():
        loads.append(Counting(folder))
        return loads[-1]

    shared = Shared(load)
    scores, stats = [], []
    for batch in batches[int(os.environ["RANK"])]:
        scores.append(shared.score(segments(batch)))
        stats.append(shared.stats)
    shared.to(f"asked for by {os.environ['RANK']}")
    return {
        "scores": scores,
        "stats": stats,
        "owner": shared.owner,
        "loads": len(loads),
        "pid": os.getpid(),
        "asked": [inner.batches for inner in loads],
        "about": (shared.name, shared.range, shared.signature()),
    }


def test_three_processes_of_one_machine_share_one_scorer(tmp_path):
    batches = [[["a", "bb", "a"], [], ["x"]], [["bb", "ccc"], ["dddd"], []], [[], ["dddd", "e"], []]]
    told = Processes(tmp_path / "group", [0, 1, 2], _score, tmp_path, batches).results()
    assert [each["loads"] for each in told] == [1, 0, 0] and [each["owner"] for each in told] == [True, False, False]
    assert told[0]["asked"] == [
        [["a", "bb", "ccc"], ["dddd", "e"], ["x"]]
    ]  # distinct segments, in the order of the processes
    for each, mine in zip(told, batches, strict=True):
        for scores, batch in zip(each["scores"], mine, strict=True):
            assert scores == Scores([float(len(t)) for t in batch], [span(t) for t in batch])
        assert each["about"] == ("faulty", (0.0, 100.0), {"identity": {"model": "a"}, "environment": {}})
        assert [s["segments"] for s in each["stats"]] == [3.0, 2.0, 1.0]
        assert {s["pid"] for s in each["stats"]} == {float(told[0]["pid"])}
    assert (tmp_path / "device").read_text() == "asked for by 0"  # the only process that has it


def test_each_machine_has_its_own(tmp_path):
    batches = [[["a"]], [["bb", "a"]], [["a", "ccc"]]]
    told = Processes(tmp_path / "group", [0, 1, 0], _score, tmp_path, batches).results()
    assert [each["loads"] for each in told] == [1, 0, 1]
    assert told[0]["asked"] == [[["a", "bb"]]] and told[2]["asked"] == [[["a", "ccc"]]]
    assert [each["scores"][0].values for each in told] == [[1.0], [2.0, 1.0], [1.0, 3.0]]


def _score_through_ask(folder, batches):
    shared = Shared(lambda: Counting(folder))
    mine = batches[int(os.environ["RANK"])]
    return [  # `ask` does not call without items
        ask("comet_qe_model", shared, segments(batch)).values if batch else shared.score([]).values for batch in mine
    ]


def test_a_segment_that_fails_costs_itself_alone(tmp_path):
    """Batches of unequal size, two with a segment that cannot be scored: once among others, once alone."""
    batches = [[["a", "bb", "ccc", "dddd"], ["a"], ["bad"], ["a"]], [["bad", "a"], ["bb"], [], ["e"]]]
    group = Processes(tmp_path / "group", [0, 1], _score_through_ask, tmp_path, batches)
    assert group.results() == [[[1.0, 2.0, 3.0, 4.0], [1.0], [None], [1.0]], [[None, 1.0], [2.0], [], [1.0]]]
    assert group.trials[0].err.read_text().splitlines() == [
        "warning: faulty: 1 of 5 outputs get no score (ValueError: cannot score bad)",
        "warning: faulty: 1 of 1 outputs get no score (ValueError: cannot score bad)",
    ]
    assert group.trials[1].err.read_text() == ""


def _score_for_all(folder):
    from rl_nmt import distributed

    shared = Shared(lambda: Counting(folder))
    first = shared.score(segments("a")).values, shared.collective
    by_main = distributed.from_main(lambda: (shared.score(segments(["bb"])).values, shared.collective))
    return first, by_main, shared.score(segments(["ccc"])).values


def test_the_main_process_may_call_alone_for_all(tmp_path):
    told = Processes(tmp_path / "group", [0, 1], _score_for_all, tmp_path).results(30)
    assert told == [(([1.0], True), ([2.0], False), [3.0])] * 2


def _load_badly():
    def load():
        raise ConfigError(f"comet_qe_model: no such folder, says {os.environ['RANK']}")

    Shared(load)


def test_a_load_that_fails_fails_everywhere_and_alike(tmp_path):
    ends = Processes(tmp_path / "group", [0, 1, 2], _load_badly).wait(30)
    assert [(status, error) for status, _, error in ends] == [
        (2, "error: comet_qe_model: no such folder, says 0\n")
    ] * 3


def _lose_the_owner(folder):
    from rl_nmt.distributed import together

    class Dying(Counting):
        def score(self, segments):
            os.kill(os.getpid(), 9)

    with together():
        Shared(lambda: Dying(folder)).score(segments("a"))


def test_the_others_do_not_hang_if_the_owner_is_killed(tmp_path):
    (owner, _, _), (other, _, error) = Processes(tmp_path / "group", [0, 1], _lose_the_owner, tmp_path).wait(30)
    assert (owner, other) == (137, 69) and "another process of this run has ended" in error


# --- real models ---------------------------------------------------------------------------------------


SENTENCES = [("The door is open.", "கதவு திறந்திருக்கிறது."), ("Rain.", "மழை."), ("Two dogs run.", "நாய்.")]


def _real(comet, nllb):
    from rl_nmt.backtranslation.translator import load_backtranslator
    from rl_nmt.scorers.comet.scorer import load_comet

    shared = Shared(lambda: load_comet(comet, device="cpu", argument="comet_qe_model", classes=("unified_metric",)))
    translate = SharedTranslator(
        lambda: load_backtranslator(
            nllb, source="tam_Taml", target="eng_Latn", backend="transformers", beams=1, device="cpu", dtype="float32"
        )
    )
    mine = SENTENCES[int(os.environ.get("RANK", "0")) :]
    values = shared.score([Segment(*pair) for pair in mine]).values
    return values, translate([tamil for _, tamil in mine]), translate.stats, shared.signature(), translate.signature()


def test_comet_and_nllb_give_two_processes_the_same_answers(tiny_comet_qe, tiny_nllb, tmp_path):
    values, texts, _, scorer, translator = _real(str(tiny_comet_qe), str(tiny_nllb))
    group = Processes(tmp_path / "group", [0, 1], _real, str(tiny_comet_qe), str(tiny_nllb))
    for told, first in zip(group.results(120), (0, 1), strict=True):
        assert told[0] == pytest.approx(values[first:], abs=1e-5) and len(set(told[0])) == len(told[0])
        assert told[1] == texts[first:]
        assert told[2]["unique"] == 3  # of five texts
        assert told[3:] == (scorer, translator)
