"""Preference pairs, with or without images: GRPO on chosen and rejected answers of Gemma 3."""
