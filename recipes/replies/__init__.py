"""Short replies to posts: supervised fine-tuning, then GRPO on a heuristic reward."""
