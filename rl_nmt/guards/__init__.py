"""Detect outputs that are not translations, and measure what a translation lost or copied."""

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import fidelity
from rl_nmt.guards.gates import verdict

__all__ = ["copied_share", "fidelity", "verdict"]
