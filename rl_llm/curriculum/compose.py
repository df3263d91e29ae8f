"""From the recipe's `curriculum` section to a scheduler."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_llm import plugins
from rl_llm.config import NamedPart
from rl_llm.config.curriculum import CurriculumSection
from rl_llm.curriculum.belief import PoolBelief
from rl_llm.curriculum.difficulty import DifficultySlopes
from rl_llm.curriculum.gates import Gate, Informative, Range
from rl_llm.curriculum.planner import Planner
from rl_llm.curriculum.pool import PoolIndex
from rl_llm.curriculum.prerequisites import Prerequisites
from rl_llm.curriculum.priors import Evidence, evidence_for, read_priors
from rl_llm.curriculum.probe import ProbeThenFinish
from rl_llm.curriculum.quotas import Quotas
from rl_llm.curriculum.samplers import SAMPLERS, Sampler
from rl_llm.curriculum.scheduler import Scheduler, StepShape
from rl_llm.curriculum.standing import Defer, Retire, Standing
from rl_llm.curriculum.supply import Stream, Supply
from rl_llm.errors import PluginError
from rl_llm.records import Problem, Sampling

GATES: dict[str, type] = {"informative": Informative, "range": Range}

_SAMPLER_METHODS = ("plan", "observe", "state_dict", "load_state_dict")

DEFAULT_GATES = (NamedPart(name="informative"),)
"""What `curriculum.gates: null` means where groups are compared with themselves."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What a run asks of a step: so many problems, so many completions of each, drawn so;
    `last_step` is the run's, `divides_by_group` says whether its algorithm divides advantages by
    their group's standard deviation, and `needs_mixed` whether it learns nothing from groups that
    are all correct or all wrong."""

    num_problems: int
    group_size: int
    sampling: Sampling
    last_step: int
    divides_by_group: bool = True
    needs_mixed: bool = False


def build_scheduler(
    section: CurriculumSection,
    *,
    problems: Sequence[Problem],
    streams: Sequence[Stream] = (),
    rollouts: Rollouts,
    seed: int,
) -> Scheduler:
    """Build everything that the section names, and the scheduler around it.

    `streams` are the endless sources, whose first problems stand in `problems`. Raises
    `PluginError` for an unknown name or a class that lacks a method, `ConfigError` for options that
    a part does not take, and `DataError` for an empty pool or a key that stands in it twice.
    """
    supply = Supply(problems, streams)
    endless_keys = frozenset[str]().union(*(stream.keys for stream in streams))
    index = PoolIndex.of(problems, endless_keys=endless_keys)
    belief: PoolBelief = _build(
        PoolBelief,
        section.belief.model_dump(),
        "belief",
        index=index,
        group_size=rollouts.group_size,
    )
    evidence = _prior_evidence(section, problems)
    if evidence.num_known:
        belief.set_priors(evidence.correct_N, evidence.wrong_N)
    planner = _build_planner(section, index, belief, rollouts, seed=seed)
    scheduler = Scheduler(
        supply=supply,
        index=index,
        belief=belief,
        slopes=DifficultySlopes.of(index, problems, prior_strength=section.belief.prior_strength),
        planner=planner,
        gates=build_gates(
            DEFAULT_GATES if section.gates is None else section.gates,
            group_size=rollouts.group_size,
            needs_mixed=rollouts.needs_mixed or section.probe is not None,
        ),
        probing=_build_probing(section, rollouts),
        shape=StepShape(
            num_problems=rollouts.num_problems,
            group_size=rollouts.group_size,
            sampling=rollouts.sampling,
            max_refill_rounds=section.refill.max_rounds,
            refill_within_bucket=section.refill.within == "bucket",
            last_step=rollouts.last_step,
            seed=seed,
        ),
    )
    if section.priors.path or evidence.num_known:
        scheduler.say(evidence.summary)
    remarks = planner.sampler.remarks() if hasattr(planner.sampler, "remarks") else ()
    for remark in (*planner.prerequisites.orders, *remarks):
        scheduler.say(remark)
    num_asked = section.probe.problems if section.probe else rollouts.num_problems
    if note := _open_note(index, planner, num_asked):
        scheduler.say(note)
    return scheduler


def _open_note(index: PoolIndex, planner: Planner, num_asked: int) -> str | None:
    """Return what is to be said where locked levels leave less than a step asks for."""
    num_open = index.num_problems - int(np.count_nonzero(planner.prerequisites.locked()))
    if num_open >= min(num_asked, index.num_problems):
        return None
    return (
        f"curriculum.prerequisites: {num_open} of {index.num_problems:,} problems are open at "
        f"first, and a step asks for {num_asked}: steps are smaller until levels open"
    )


def _build_planner(
    section: CurriculumSection,
    index: PoolIndex,
    belief: PoolBelief,
    rollouts: Rollouts,
    *,
    seed: int,
) -> Planner:
    return Planner(
        index=index,
        sampler=build_sampler(
            section.sampler,
            index=index,
            belief=belief,
            seed=seed,
            group_size=rollouts.group_size,
            divides_by_group=rollouts.divides_by_group,
        ),
        standing=_build_standing(section, index, belief),
        quotas=Quotas(index, section.quotas),
        prerequisites=Prerequisites(index, belief, section.prerequisites),
    )


def build_sampler(
    part: NamedPart,
    *,
    index: PoolIndex,
    belief: PoolBelief,
    seed: int,
    group_size: int,
    divides_by_group: bool = True,
) -> Sampler:
    """Build `curriculum.sampler`; raises as `build_scheduler`."""
    sampler: Sampler = plugins.build_named(
        part,
        SAMPLERS,
        path="curriculum.sampler",
        methods=_SAMPLER_METHODS,
        offered={
            "index": index,
            "belief": belief,
            "seed": seed,
            "group_size": group_size,
            "divides_by_group": divides_by_group,
        },
    )
    _check_plan(sampler)
    _check_state(sampler, index.num_problems)
    return sampler


def build_gates(
    parts: Sequence[NamedPart], *, group_size: int | None = None, needs_mixed: bool = False
) -> list[Gate]:
    """Build `curriculum.gates`; raises as `build_scheduler`.

    A gate that names them is given `needs_mixed`, true also beside the gate `informative`, and, if
    it is known, the run's `group_size`.
    """
    needs_mixed = needs_mixed or any(
        part.name == "informative" and part.options.get("of", "correct") == "correct"
        for part in parts
    )
    offered: dict[str, Any] = {"needs_mixed": needs_mixed}
    if group_size is not None:
        offered["group_size"] = group_size
    return [
        plugins.build_named(
            part,
            GATES,
            path=f"curriculum.gates.{position}",
            methods=("admit",),
            offered=offered,
        )
        for position, part in enumerate(parts)
    ]


def _build(target: Any, options: Mapping[str, Any], name: str, **supplied: Any) -> Any:
    return plugins.build(target, options, path=f"curriculum.{name}", **supplied)


def _prior_evidence(section: CurriculumSection, problems: Sequence[Problem]) -> Evidence:
    paths = section.priors.path
    priors = read_priors(paths) if paths else None
    return evidence_for(problems, priors, strength=section.priors.strength)


def _build_standing(section: CurriculumSection, index: PoolIndex, belief: PoolBelief) -> Standing:
    retire, defer = section.retire, section.defer
    return Standing(
        index,
        belief,
        retire=None if retire is None else _build(Retire, retire.model_dump(), "retire"),
        defer=None if defer is None else _build(Defer, defer.model_dump(), "defer"),
    )


def _build_probing(section: CurriculumSection, rollouts: Rollouts) -> ProbeThenFinish | None:
    if section.probe is None:
        return None
    return ProbeThenFinish(
        num_init=section.probe.completions,
        num_rest=rollouts.group_size - section.probe.completions,
        max_finished=rollouts.num_problems,
        num_probes=section.probe.problems,
    )


def _check_plan(sampler: Sampler) -> None:
    """Refuse a sampler whose `plan` cannot be called as `Sampler.plan` is."""
    try:
        inspect.signature(sampler.plan).bind(1, 1, round=0, exclude=None)
    except TypeError as error:
        raise PluginError(
            f"sampler {type(sampler).__name__}: plan cannot be called as plan(step, num_problems, "
            f"round=..., exclude=...): {error}"
        ) from None


def _check_state(sampler: Sampler, num_problems: int) -> None:
    """Refuse a sampler whose state a checkpoint could not hold, before a run depends on it."""
    state = sampler.state_dict()
    if not _can_be_saved(state, num_problems):
        raise PluginError(
            f"sampler {type(sampler).__name__}: state_dict() returned {state!r}; it must return "
            '{"columns": {name: array with a value for each problem}, "rest": {what JSON holds}}'
        )


def _can_be_saved(state: Any, num_problems: int) -> bool:
    if not isinstance(state, dict) or set(state) != {"columns", "rest"}:
        return False
    try:
        json.dumps(state["rest"])
    except (TypeError, ValueError):
        return False
    return all(np.shape(column) == (num_problems,) for column in state["columns"].values())
