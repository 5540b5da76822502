"""Check a reward before training on it: cheats, preferences, other weights, shares of variance."""
