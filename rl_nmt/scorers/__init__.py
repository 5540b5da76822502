"""Neural metrics of a translation, one folder or file per metric."""

from rl_nmt.scorers.base import Scores, Segment, Span

__all__ = ["Scores", "Segment", "Span"]
