"""Mechanisms for teaching a chat model to translate by reinforcement learning. Importing it loads nothing heavy."""
