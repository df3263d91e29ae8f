"""DAPO (arXiv:2503.14476): clip-higher, one weight for every token, and a soft length limit."""

from dataclasses import replace

from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Combine, Truncated
from rl_llm.algorithms.grpo import grpo


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    truncated: Truncated = "penalise",
    overlong_cache: int | None = None,
    combine: Combine = "sum_then_normalise",
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """GRPO with the mean over all tokens, and a penalty for responses close to the length limit.

    The paper's dynamic sampling is the curriculum's gate and refill.
    """
    algorithm = grpo(
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        scale="group",
        reduce="token_mean",
        truncated=truncated,
        overlong_cache=overlong_cache,
        combine=combine,
        entropy_bonus=entropy_bonus,
    )
    return replace(algorithm, name="dapo")
