"""A cache of a scorer's answers: a converging policy repeats its outputs, and an evaluation repeats its sources."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.models.batching import distinct
from rl_nmt.scorers.base import Scorer, Scores, Segment, Span

Answer = tuple[float, tuple[Span, ...] | None]


class Remembered:
    """`scorer` with a cache of (src, mt, ref) → value and spans. A `Scorer`; all else is the scorer's own.

    Only valid answers are kept: a segment that got None, a number that is not finite, or no spans from a scorer that
    gives some, is scored again. The least recently used go first. A scorer that several processes share
    (`collective`) is called once per call, also without new segments.

    `stats`: the scorer's own of this call, over the segments it really scored, with `rows` of the whole call and
    `remembered`, those of them answered from the cache. A call answered from the cache alone has these two only.

    The last bits of a value may depend on its batch. A resumed run therefore repeats every bit only with the same
    cache: `state_dict` and `load_state_dict` carry it.

    Args:
        scorer: any `Scorer`.
        size: segments kept, at least 1; a sentence takes about a kilobyte of memory, half of one in `state_dict`.

    Raises ConfigError for another size.
    """

    def __init__(self, scorer: Scorer, size: int = 100_000):
        if size < 1:
            raise ConfigError(f"size: {size} segments cannot be remembered; give at least 1, or use the scorer alone")
        self.scorer, self.size = scorer, size
        self._memory: OrderedDict[Segment, Answer] = OrderedDict()
        self._marks = False  # has the scorer given spans?
        self.stats: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "scorer" not in self.__dict__:  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.scorer, name)

    def score(self, segments: Sequence[Segment]) -> Scores:
        """The scorer's values and spans, order kept, spans in new lists; it sees each new segment once.

        Raises what the scorer raises, and ValueError for another number of answers; nothing of such a call is kept.
        """
        rows, index = distinct(segments)
        known = [self._memory.get(row) for row in rows]
        new = [i for i, answer in enumerate(known) if answer is None]
        self.stats = {}
        call = new or not rows or getattr(self.scorer, "collective", False)  # that one waits for every process's call
        asked = self.scorer.score([rows[i] for i in new]) if call else Scores([])
        if len(asked.values) != len(new) or (asked.spans is not None and len(asked.spans) != len(new)):
            raise ValueError(f"{self.name}: {len(asked.values)} results for {len(new)} segments")
        values = [None if answer is None else answer[0] for answer in known]
        spans = [None if answer is None or answer[1] is None else answer[1] for answer in known]
        found: list[list[Span] | None] = [None] * len(new) if asked.spans is None else asked.spans
        self._marks |= asked.spans is not None
        for i, value, marked in zip(new, asked.values, found, strict=True):
            values[i], spans[i] = value, marked
            if marked is not None or not self._marks:
                self._keep(rows[i], value, marked)
        self._refresh(rows)
        inner = dict(getattr(self.scorer, "stats", {})) if new else {}
        self.stats = {**inner, "rows": len(index), "remembered": sum(known[i] is not None for i in index)}
        if asked.spans is None and all(marked is None for marked in spans):
            return Scores([values[i] for i in index])
        return Scores([values[i] for i in index], [None if spans[i] is None else list(spans[i]) for i in index])

    def to(self, device: str) -> Remembered:
        """Move the scorer; the cache stays. Raises as the scorer's own."""
        self.scorer.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """The memory, the least recently used first; JSON, and floats survive it exactly."""
        return {
            "memory": [
                [row.src, row.mt, row.ref, value, None if spans is None else list(map(list, spans))]
                for row, (value, spans) in self._memory.items()
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the cache by that of `state_dict`."""
        self._memory.clear()
        for src, mt, ref, value, spans in state["memory"][-self.size :]:
            marked = None if spans is None else tuple(Span(*fields) for fields in spans)
            self._marks |= marked is not None
            self._memory[Segment(src, mt, ref)] = (value, marked)

    def _keep(self, row: Segment, value: Any, spans: Sequence[Span] | None) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self._memory[row] = (value, None if spans is None else tuple(spans))

    def _refresh(self, rows: Sequence[Segment]) -> None:
        """Mark these as used last; drop the oldest beyond the size."""
        for row in rows:
            if row in self._memory:
                self._memory.move_to_end(row)
        while len(self._memory) > self.size:
            self._memory.popitem(last=False)
