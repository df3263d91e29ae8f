"""Rl-llm: reinforcement learning for language models on checkable rewards."""

__version__ = "0.1.0"
