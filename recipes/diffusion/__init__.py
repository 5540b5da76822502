"""GRPO for a masked-diffusion GPT with a frozen judge."""
