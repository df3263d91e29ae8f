"""From the recipe's `curriculum` section to a scheduler."""

from collections.abc import Sequence

from rl_llm import plugins
from rl_llm.config import NamedPart
from rl_llm.config.schema import CurriculumSection
from rl_llm.curriculum.gates import Gate, Informative
from rl_llm.curriculum.pool import PoolIndex
from rl_llm.curriculum.samplers import Posterior, Sampler, Uniform
from rl_llm.curriculum.scheduler import Scheduler
from rl_llm.errors import PluginError
from rl_llm.records import Problem, Sampling

SAMPLERS: dict[str, type] = {"posterior": Posterior, "uniform": Uniform}
GATES: dict[str, type] = {"informative": Informative}

_SAMPLER_METHODS = ("plan", "observe", "beliefs", "state_dict", "load_state_dict")


def build_scheduler(
    section: CurriculumSection,
    *,
    problems: Sequence[Problem],
    num_problems: int,
    group_size: int,
    sampling: Sampling,
    seed: int,
) -> Scheduler:
    """Build the sampler and the gates that the section names, and the scheduler around them.

    Raises `PluginError` for an unknown name or a class that lacks a method, and `ConfigError` for
    options that the class does not take.
    """
    return Scheduler(
        problems=problems,
        sampler=build_sampler(
            section.sampler, index=PoolIndex.of(problems), seed=seed, group_size=group_size
        ),
        gates=build_gates(section.gates),
        num_problems=num_problems,
        group_size=group_size,
        sampling=sampling,
        seed=seed,
        max_refill_rounds=section.refill.max_rounds,
    )


def build_sampler(part: NamedPart, *, index: PoolIndex, seed: int, group_size: int) -> Sampler:
    """Build `curriculum.sampler`; raises as `build_scheduler`."""
    sampler: Sampler = plugins.build_named(
        part,
        SAMPLERS,
        path="curriculum.sampler",
        methods=_SAMPLER_METHODS,
        index=index,
        seed=seed,
        group_size=group_size,
    )
    _check_state(sampler)
    return sampler


def build_gates(parts: Sequence[NamedPart]) -> list[Gate]:
    """Build `curriculum.gates`; raises as `build_scheduler`."""
    return [
        plugins.build_named(part, GATES, path=f"curriculum.gates.{position}", methods=("admit",))
        for position, part in enumerate(parts)
    ]


def _check_state(sampler: Sampler) -> None:
    """Refuse a sampler whose state a checkpoint could not hold, before a run depends on it."""
    state = sampler.state_dict()
    if not isinstance(state, dict) or set(state) != {"columns", "rest"}:
        raise PluginError(
            f"sampler {type(sampler).__name__}: state_dict() returned {state!r}; it must return "
            '{"columns": {name: array with a value for each problem}, "rest": {what JSON holds}}'
        )
