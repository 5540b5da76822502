"""The embedded default: a small English–Tamil world and the models built on it."""
