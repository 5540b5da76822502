"""Loading and running neural models: the policy, generation, batching, memory."""

from rl_nmt.models.gemma3 import repair_gemma3

__all__ = ["repair_gemma3"]
