"""Loading and running neural models: the policy, generation, batching, memory."""
