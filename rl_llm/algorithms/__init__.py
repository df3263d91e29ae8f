"""Advantages, losses and reductions as pure tensor functions, composed into algorithms."""

from collections.abc import Callable

from rl_llm.algorithms.advantages import all_equal, group_advantages
from rl_llm.algorithms.batch import Algorithm, ScoredBatch, TokenTerms, Totals
from rl_llm.algorithms.grpo import grpo
from rl_llm.algorithms.logprobs import TokenLogprobs, dense_token_logprobs, token_logprobs
from rl_llm.algorithms.losses import clipped_surrogate, is_clipped
from rl_llm.algorithms.masked import REDUCTIONS, fixed_length, sequence_mean, token_mean

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {"grpo": grpo}
"""Every built-in algorithm by the name that recipes use."""

__all__ = [
    "ALGORITHMS",
    "REDUCTIONS",
    "Algorithm",
    "ScoredBatch",
    "TokenLogprobs",
    "TokenTerms",
    "Totals",
    "all_equal",
    "clipped_surrogate",
    "dense_token_logprobs",
    "fixed_length",
    "group_advantages",
    "grpo",
    "is_clipped",
    "sequence_mean",
    "token_logprobs",
    "token_mean",
]
