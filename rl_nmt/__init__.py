"""Library for training a chat model to translate by reinforcement learning. Importing it loads nothing heavy."""
