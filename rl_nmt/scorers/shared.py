"""Share one scorer or back-translator between all processes of a machine, so that it is loaded only once.

    scorer = Shared(lambda: load_metricx("google/metricx-24-hybrid-xl-v2p6", device="cuda:7"))
    translate = SharedTranslator(lambda: load_backtranslator(...))

The first process of a machine has the model; the others send it their items. Equal segments are scored once.

**Collective.** Every process of the machine must make the same number of calls, even without segments. With one
process, and within `distributed.from_main`, calls go straight to the model.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rl_nmt import distributed
from rl_nmt.errors import describe
from rl_nmt.scorers.base import Scores, Segment, answers, isolate, warn_lost


class _OncePerMachine:
    """Load the model in one process; the others use it through `_ask`. An error of `load` is raised in all of them."""

    def __init__(self, load: Callable[[], Any]):
        self._model: Any = None
        self._group, self._ranks = (
            distributed.machine_group() if distributed.count() > 1 else (None, [distributed.rank()])
        )
        self.owner = distributed.rank() == self._ranks[0]  # is the model in this process?
        self.stats: dict[str, Any] = {}  # of the model's last call, on every process
        self._marks = False  # did the last call give spans, to any process?
        about: list[Any] = []
        error: Exception | None = None
        if self.owner:
            try:
                with distributed.outside_zero3():
                    self._model = load()
                about = [getattr(self._model, name, None) for name in ("name", "range", "higher_is_better")]
                about.append(self._model.signature())
            except Exception as raised:
                error = raised
        about, elsewhere = self._from_owner((about, distributed.sendable(error)))
        if (problem := error or elsewhere) is not None:
            raise problem
        self.name, self.range, self.higher_is_better, self._signature = about

    @property
    def collective(self) -> bool:
        """Whether every process of the machine must call now, even without items; False in `distributed.from_main`."""
        return self._group is not None and not distributed.alone()

    def signature(self) -> dict[str, dict]:
        """Return the model's own signature: the process that it runs in does not affect the score."""
        return self._signature

    def to(self, device: str) -> None:
        """Move the model; does nothing in processes without it. Not collective."""
        if self.owner:
            self._model.to(device)

    def _alone(self, items: Any) -> Any:
        """Call the model directly, for this process only."""
        call = getattr(self._model, "score", self._model)
        answer = call(items)
        self.stats = dict(getattr(self._model, "stats", {}))
        return answer

    def _from_owner(self, value: Any) -> Any:
        """Return the owner's `value` in every process. Collective."""
        if self._group is None:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=self._ranks[0], group=self._group)
        return box[0]

    def _ask(self, items: list[Hashable]) -> list[tuple]:
        """Return (value, spans) of each item of this process; (None, None) where the model failed. Collective."""
        import torch.distributed as dist

        asked: list[list] = [[] for _ in self._ranks]
        dist.gather_object(items, asked if self.owner else None, dst=self._ranks[0], group=self._group)
        known, self._marks, self.stats = self._from_owner(self._answers(asked) if self.owner else None)
        return [known[item] for item in items]

    def _answers(self, asked: list[list]) -> tuple[dict, bool, dict]:
        """Return item → (value, spans), whether there are spans, and the stats; raising would hang the others."""
        distinct = list(dict.fromkeys(item for items in asked for item in items))
        found, errors = isolate(lambda batch: answers(self._model, batch), distinct)
        if errors:
            warn_lost(self.name, "score", found.count(None), len(distinct), describe(errors[0]))
        known = dict(zip(distinct, (value or (None, None) for value in found), strict=True))
        marks = any(marked is not None for _, marked in known.values())
        return known, marks, dict(getattr(self._model, "stats", {}))


class Shared(_OncePerMachine):
    """A `Scorer` that is loaded once per machine, by `load`, and used by all its processes.

    A segment on which the scorer fails has the value None, with a warning in the process that has the scorer. An
    exception would make each process retry the halves of its own batch (`rl_nmt.scorers.base.ask`), and the
    processes would no longer make the same number of calls. With one process, the scorer's exceptions are raised.
    """

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return raw values and spans of this process's segments, in order; see `Scorer.score`. Collective."""
        if not self.collective:
            return self._alone(segments)
        found = self._ask(list(segments))
        return Scores([value for value, _ in found], [marked for _, marked in found] if self._marks else None)


class SharedTranslator(_OncePerMachine):
    """The same for a back-translator with a `signature()`: takes a list of texts and returns as many."""

    def __init__(self, load: Callable[[], Any]):
        super().__init__(load)
        self.name = "the shared back-translator"

    def __call__(self, texts: list[str]) -> list[str | None]:
        """Return one translation per text, in order; None where the model failed on it. Collective."""
        if not self.collective:
            return self._alone(texts)
        return [text for text, _ in self._ask(list(texts))]
