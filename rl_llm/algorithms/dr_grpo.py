"""Dr. GRPO (arXiv:2503.20783): GRPO without its two biases."""

from dataclasses import replace

from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Truncated
from rl_llm.algorithms.grpo import grpo


def dr_grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """GRPO on rewards that no standard deviation divides, with one denominator for responses of
    every length: neither easy and hard prompts nor short and long answers weigh more."""
    algorithm = grpo(
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        scale="none",
        reduce="fixed_length",
        truncated=truncated,
        overlong_cache=overlong_cache,
        entropy_bonus=entropy_bonus,
    )
    return replace(algorithm, name="dr_grpo")
