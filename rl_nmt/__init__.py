"""Mechanisms for teaching a chat model to translate by reinforcement learning.

Importing this package loads nothing heavy: take what you need from its modules.
"""
