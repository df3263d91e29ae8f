from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rl_llm.config.curriculum import CurriculumSection
from rl_llm.curriculum import Rollouts, Scheduler, build_scheduler
from rl_llm.plugins import load_module
from rl_llm.records import Problem, Sampling, ScoredGroup

_stage = load_module(Path(__file__).with_name("stage.py"))


@pytest.fixture
def stage() -> ModuleType:
    """Return the module `stage.py`."""
    return _stage


@pytest.fixture
def make_problems() -> Callable[..., list[Problem]]:
    """Return `(count, level=..., first=0, source="s") -> problems` with prompts q0, q1, ..."""

    def make(count: int, *, level: int = 1, first: int = 0, source: str = "s") -> list[Problem]:
        return [
            _stage.make_problem(f"q{number}", level=level, source=source)
            for number in range(first, first + count)
        ]

    return make


@pytest.fixture
def score_group() -> Callable[..., ScoredGroup]:
    """Return `(problem, correct, totals=None, failed=()) -> scored group`: one completion per entry
    of `correct`; those at the positions `failed` have an error."""
    return _stage.score_group


@pytest.fixture
def sampling() -> Sampling:
    return Sampling(temperature=1.0, max_new_tokens=4)


@pytest.fixture
def make_scheduler(sampling: Sampling) -> Callable[..., Scheduler]:
    """Return `(problems, streams=(), num_problems=4, group_size=4, ...) -> scheduler`; further
    arguments are the recipe's `curriculum` section, `sampler` also by its name alone."""

    def make(
        problems: list[Problem],
        *,
        streams: tuple[Any, ...] = (),
        num_problems: int = 4,
        group_size: int = 4,
        last_step: int = 1000,
        seed: int = 0,
        **section: Any,
    ) -> Scheduler:
        if isinstance(name := section.get("sampler"), str):
            section["sampler"] = {"name": name}
        return build_scheduler(
            CurriculumSection.model_validate(section),
            problems=problems,
            streams=streams,
            rollouts=Rollouts(
                num_problems=num_problems,
                group_size=group_size,
                sampling=sampling,
                last_step=last_step,
            ),
            seed=seed,
        )

    return make
