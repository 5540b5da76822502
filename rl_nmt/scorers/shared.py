"""One scorer, or one back-translator, for all processes of a machine: loaded once instead of once per process.

    scorer = Shared(lambda: load_metricx("google/metricx-24-hybrid-xl-v2p6", device="cuda:7"))
    translate = SharedTranslator(lambda: load_backtranslator(...))

The first process of a machine has the model; the others send it their items. Equal segments are scored once.

**Collective.** Every process of the machine must call equally often, also without segments. With one process, and
within `processes.from_main`, it is the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rl_nmt import distributed
from rl_nmt.scorers.base import Scorer, Scores, Segment, answers, describe, isolate, warn_lost

BackTranslator = Callable[[list[str]], list[str]]


class _OncePerMachine:
    """The model lives in one process; `_ask` is how all of them use it, `_on_owner` how they have something done."""

    def __init__(self, load: Callable[[], Any], told: Sequence[str]):
        self._model: Any = None
        self._group, ranks = distributed.machine_group() if distributed.count() > 1 else (None, [distributed.rank()])
        self._ranks = ranks
        self.owner = distributed.rank() == ranks[0]
        """Is the model in this process?"""
        self.stats: dict[str, Any] = {}
        """What the model tells about its last call, on every process."""
        self.marks = False  # did the last call give spans, to any process?

        def describe() -> dict[str, Any]:
            with distributed.outside_zero3():
                self._model = load()
            return {name: getattr(self._model, name) for name in told} | {"signature": self._model.signature()}

        self._told = self._on_owner(describe)

    @property
    def collective(self) -> bool:
        """Must every process of the machine call now, with nothing too? Not one by itself (processes.from_main)."""
        return self._group is not None and not distributed.alone()

    def signature(self) -> dict[str, dict]:
        """The model's own: where it runs makes no number."""
        return self._told["signature"]

    def to(self, device: str) -> None:
        """Move the model, where it is; the others say so in vain. Not collective."""
        if self.owner:
            self._model.to(device)

    def close(self) -> None:
        """End what the model holds, if it holds something. Not collective."""
        if self.owner and hasattr(self._model, "close"):
            self._model.close()

    def _on_owner(self, function: Callable[[], Any]) -> Any:
        """What `function` gives on the owner, to all; what it raises there, all raise. Collective."""
        result, error = None, None
        if self.owner:
            try:
                result = function()
            except Exception as raised:
                error = raised
        if self._group is None:
            told = error
        else:
            import torch.distributed as dist

            box = [(result, distributed.sendable(error))]
            dist.broadcast_object_list(box, src=self._ranks[0], group=self._group)
            result, told = box[0]
        if told is not None:
            raise error or told
        return result

    def _ask(self, items: list[Hashable]) -> list[tuple]:
        """(value, spans) of each item of this process; (None, None) where the model failed on it. Collective."""
        import torch.distributed as dist

        asked: list[list] = [[] for _ in self._ranks]
        dist.gather_object(items, asked if self.owner else None, dst=self._ranks[0], group=self._group)
        parts = self._answers(asked) if self.owner else [() for _ in self._ranks]
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, parts, src=self._ranks[0], group=self._group)
        found, self.marks, self.stats = mine[0]
        return found

    def _answers(self, asked: list[list]) -> list[tuple]:
        """For each process its answers and the model's stats; no exception may keep them waiting."""
        distinct = list(dict.fromkeys(item for items in asked for item in items))
        found, errors = isolate(lambda batch: answers(self._model, batch), distinct)
        if errors:
            lost = sum(value is None for value in found)
            warn_lost(self._told["name"], "score", lost, len(distinct), describe(errors[0]))
        known = dict(zip(distinct, (value or (None, None) for value in found), strict=True))
        marks = any(marked is not None for _, marked in known.values())
        stats = dict(getattr(self._model, "stats", {}))
        return [([known[item] for item in items], marks, stats) for items in asked]


class Shared(_OncePerMachine):
    """A `Scorer` that is loaded once per machine, by `load`, and answers all its processes.

    A segment on which the scorer fails, alone, has the value None, with a warning where the scorer is: an
    exception would make each process ask for the halves of its own batch (`rl_nmt.scorers.base.ask`), and they
    would no longer ask equally often. With one process it is the scorer itself and raises as that does.

    Raises, on every process alike, what `load` raises where it runs.
    """

    def __init__(self, load: Callable[[], Scorer]):
        super().__init__(load, ("name", "range", "higher_is_better"))
        self.name: str = self._told["name"]
        self.range: tuple[float, float] = self._told["range"]
        self.higher_is_better: bool = self._told["higher_is_better"]

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Raw values and spans of this process's segments, in order; see `Scorer.score`. Collective."""
        if not self.collective:
            scores = self._model.score(segments)
            self.stats = dict(getattr(self._model, "stats", {}))
            return scores
        found = self._ask(list(segments))
        return Scores([value for value, _ in found], [marked for _, marked in found] if self.marks else None)


class SharedTranslator(_OncePerMachine):
    """The same for a back-translator, which has a `signature()`: a list of texts in, as many texts out."""

    def __init__(self, load: Callable[[], BackTranslator]):
        super().__init__(load, ())
        self._told["name"] = "the shared back-translator"

    def __call__(self, texts: list[str]) -> list[str | None]:
        """One translation per text, in order; None where the model failed on it. Collective."""
        if not self.collective:
            translations = self._model(texts)
            self.stats = dict(getattr(self._model, "stats", {}))
            return translations
        return [text for text, _ in self._ask(list(texts))]
