"""Detect outputs that are not translations, and measure what a translation lost or copied."""

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import fidelity
from rl_nmt.guards.gates import verdict
from rl_nmt.guards.language import gate_identity

__all__ = ["copied_share", "fidelity", "gate_identity", "verdict"]
