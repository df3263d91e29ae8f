"""Requests in, groups of completions out."""

from rl_llm.rollout.engine import RolloutEngine

__all__ = ["RolloutEngine"]
