"""Any scorer in a process of its own."""

from rl_nmt.scorers.worker.client import load_in_worker

__all__ = ["load_in_worker"]
