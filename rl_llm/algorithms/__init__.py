"""Advantages, losses, reductions and corrections as pure tensor functions, composed into
algorithms."""

from collections.abc import Callable

from rl_llm.algorithms.a2c import a2c
from rl_llm.algorithms.advantages import (
    all_equal,
    batch_advantages,
    group_advantages,
    leave_one_out,
    normalise_then_sum,
    overlong_penalty,
)
from rl_llm.algorithms.batch import Algorithm, CriticRules, ScoredBatch, TokenTerms, Totals
from rl_llm.algorithms.cispo import cispo
from rl_llm.algorithms.corrections import (
    CORRECTIONS,
    Correction,
    TokenWeights,
    masked_weights,
    mis,
    tis,
    truncated_weights,
    uncorrected,
)
from rl_llm.algorithms.dapo import dapo
from rl_llm.algorithms.dr_grpo import dr_grpo
from rl_llm.algorithms.gae import gae, length_adaptive_lambda, moments, whiten
from rl_llm.algorithms.grpo import grpo
from rl_llm.algorithms.gspo import gspo
from rl_llm.algorithms.logprobs import TokenLogprobs, dense_token_logprobs, token_logprobs
from rl_llm.algorithms.losses import (
    cispo_loss,
    clipped_surrogate,
    is_clipped,
    policy_gradient,
    sequence_surrogate,
    value_loss,
)
from rl_llm.algorithms.masked import REDUCTIONS, fixed_length, sequence_mean, token_mean
from rl_llm.algorithms.ppo import ppo
from rl_llm.algorithms.reinforce import reinforce
from rl_llm.algorithms.reinforce_pp import reinforce_pp
from rl_llm.algorithms.rloo import rloo
from rl_llm.algorithms.trial import fault_of

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "reinforce": reinforce,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "a2c": a2c,
    "ppo": ppo,
}
"""Every built-in algorithm by the name that recipes use."""

__all__ = [
    "ALGORITHMS",
    "CORRECTIONS",
    "REDUCTIONS",
    "Algorithm",
    "Correction",
    "CriticRules",
    "ScoredBatch",
    "TokenLogprobs",
    "TokenTerms",
    "TokenWeights",
    "Totals",
    "a2c",
    "all_equal",
    "batch_advantages",
    "cispo",
    "cispo_loss",
    "clipped_surrogate",
    "dapo",
    "dense_token_logprobs",
    "dr_grpo",
    "fault_of",
    "fixed_length",
    "gae",
    "group_advantages",
    "grpo",
    "gspo",
    "is_clipped",
    "leave_one_out",
    "length_adaptive_lambda",
    "masked_weights",
    "mis",
    "moments",
    "normalise_then_sum",
    "overlong_penalty",
    "policy_gradient",
    "ppo",
    "reinforce",
    "reinforce_pp",
    "rloo",
    "sequence_mean",
    "sequence_surrogate",
    "tis",
    "token_logprobs",
    "token_mean",
    "truncated_weights",
    "uncorrected",
    "value_loss",
    "whiten",
]
