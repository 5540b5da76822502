"""COMET checkpoints: DA, COMETKiwi, reference-less regression, XCOMET."""

from rl_nmt.scorers.comet.scorer import load_comet

__all__ = ["load_comet"]
