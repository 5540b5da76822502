"""Cache a scorer's answers: a converging policy repeats its outputs, and an evaluation repeats its sources."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from rl_nmt.files import is_number
from rl_nmt.models.batching import distinct
from rl_nmt.scorers.base import Scorer, Scores, Segment, Span

Answer = tuple[float, tuple[Span, ...] | None]


class Remembered:
    """`scorer` with a cache of (src, mt, ref) → value and spans. A `Scorer`; other attributes are the scorer's own.

    Only valid answers are cached: a segment that got None, a number that is not finite, or no spans from a scorer
    that gives some, is scored again. The least recently used entries are dropped first. A scorer that several
    processes share (`collective`) is called exactly once per call, even without new segments.

    `stats`: the scorer's own for the segments scored in this call, plus `rows` (all segments of the call) and
    `remembered` (those answered from the cache). A call answered from the cache alone has only these two.

    `size`: segments kept, at least 1; a sentence takes about a kilobyte of memory, half of one in `state_dict`.
    """

    def __init__(self, scorer: Scorer, size: int = 100_000):
        self.scorer, self.size = scorer, size
        self._memory: OrderedDict[Segment, Answer] = OrderedDict()
        self._marks = False  # has the scorer given spans?
        self.stats: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "scorer":  # an unpickled copy has no attributes yet
            raise AttributeError(name)
        return getattr(self.scorer, name)

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return the scorer's values and spans in order, spans in new lists; it scores each new segment once.

        Raises what the scorer raises, and ValueError for a wrong number of answers; such a call adds nothing to the
        cache.
        """
        rows, index = distinct(segments)
        answers: list[Any] = [self._memory.get(row) for row in rows]
        new = [i for i, answer in enumerate(answers) if answer is None]
        known = len(index) - sum(answers[i] is None for i in index)
        self.stats = {}
        call = new or not rows or getattr(self.scorer, "collective", False)  # every process must call a shared scorer
        asked = self.scorer.score([rows[i] for i in new]) if call else Scores([])
        if len(asked.values) != len(new) or (asked.spans is not None and len(asked.spans) != len(new)):
            raise ValueError(f"{self.name}: {len(asked.values)} results for {len(new)} segments")
        self._marks |= asked.spans is not None
        for i, value, marked in zip(new, asked.values, asked.spans or [None] * len(new), strict=True):
            answers[i] = value, marked
            if is_number(value) and (marked is not None or not self._marks):
                self._memory[rows[i]] = value, None if marked is None else tuple(marked)
        for row in rows:  # now the most recently used
            if row in self._memory:
                self._memory.move_to_end(row)
        while len(self._memory) > self.size:
            self._memory.popitem(last=False)
        inner = getattr(self.scorer, "stats", {}) if new else {}
        self.stats = {**inner, "rows": len(index), "remembered": known}
        found = [answers[i] for i in index]
        spans = [None if marked is None else list(marked) for _, marked in found]
        without = asked.spans is None and not any(marked is not None for marked in spans)
        return Scores([value for value, _ in found], None if without else spans)

    def state_dict(self) -> dict[str, Any]:
        """Return the cache as JSON data, the least recently used first; floats survive exactly."""
        # Part of every checkpoint: the last bits of a score may depend on its batch, so a resumed run repeats an
        # uninterrupted one bit for bit only with the same cache.
        return {
            "memory": [
                [row.src, row.mt, row.ref, value, None if spans is None else list(map(list, spans))]
                for row, (value, spans) in self._memory.items()
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the cache by the one from `state_dict`."""
        self._memory.clear()
        for src, mt, ref, value, spans in state["memory"][-self.size :]:
            marked = None if spans is None else tuple(Span(*fields) for fields in spans)
            self._marks |= marked is not None
            self._memory[Segment(src, mt, ref)] = (value, marked)
