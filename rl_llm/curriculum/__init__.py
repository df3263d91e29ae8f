"""The difficulty-aware dataloader: beliefs about pass rates decide which prompts are drawn."""

from rl_llm.curriculum.belief import BetaBelief, PoolBelief, informative_probability
from rl_llm.curriculum.compose import (
    GATES,
    Rollouts,
    build_gates,
    build_sampler,
    build_scheduler,
)
from rl_llm.curriculum.dry import Solved, dry_message, solved_of
from rl_llm.curriculum.gates import Gate, Informative, counted_scores
from rl_llm.curriculum.pool import Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers import SAMPLERS, Posterior, Sampler, Uniform
from rl_llm.curriculum.scheduler import Scheduler

__all__ = [
    "GATES",
    "SAMPLERS",
    "BetaBelief",
    "Gate",
    "Informative",
    "Outcomes",
    "PoolBelief",
    "PoolIndex",
    "Posterior",
    "Rollouts",
    "Sampler",
    "Scheduler",
    "Solved",
    "StateDict",
    "Uniform",
    "build_gates",
    "build_sampler",
    "build_scheduler",
    "counted_scores",
    "dry_message",
    "informative_probability",
    "solved_of",
]
