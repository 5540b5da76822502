"""Training: the GRPO trainer, its callbacks and the loop around it."""
