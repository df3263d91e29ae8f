"""What a scheduler holds of a large pool: the benchmark of scales states the target of 64 bytes."""

import gc
import sys
from types import FunctionType, ModuleType

import numpy as np
import pytest

from rl_llm.curriculum import SAMPLERS

NUM = 5_000


def bytes_held(scheduler, problems):
    """Return the bytes of all that a scheduler reaches and that grows with its pool, the problems
    themselves and the given list of them aside."""
    seen = {id(thing) for problem in problems for thing in (problem, problem.key)} | {id(problems)}
    total, ahead = 0, [scheduler]
    while ahead:
        held = ahead.pop()
        if id(held) in seen or isinstance(held, type | ModuleType):
            continue
        seen.add(id(held))
        if isinstance(held, np.ndarray) and isinstance(held.base, np.ndarray):
            ahead.append(held.base)
        elif isinstance(held, np.ndarray):
            total += held.nbytes if held.size >= NUM else 0
        elif isinstance(held, FunctionType):  # Its module is no part of the scheduler.
            ahead += [cell.cell_contents for cell in held.__closure__ or ()]
        else:
            is_large = isinstance(held, list | tuple | dict | set) and len(held) >= NUM
            total += sys.getsizeof(held) if is_large else 0
            ahead += gc.get_referents(held)
    return total


def play(scheduler, stage):
    """Let a step with a refill grow all that the first use of a part makes."""
    world = stage.World(lambda problem, step: 0.5 if problem.level else 0.0)
    stage.play_step(scheduler, world, 1, num_wanted=64)
    scheduler.metrics(1)


@pytest.fixture
def problems(stage):
    """Return a pool of ten levels; of the first the learner solves nothing."""
    return [stage.make_problem(f"q{number}", level=number % 10) for number in range(NUM)]


def test_what_is_counted_grows_by_the_bytes_of_a_new_array_and_list(
    make_scheduler, problems, stage
):
    scheduler = make_scheduler(problems, num_problems=64)
    play(scheduler, stage)
    before = bytes_held(scheduler, problems)
    scheduler.extra = {"array": np.zeros((NUM, 2), np.float32)[:, 1]}
    assert bytes_held(scheduler, problems) == before + 8 * NUM
    scheduler.extra["list"] = [None] * NUM
    assert bytes_held(scheduler, problems) == before + 16 * NUM + sys.getsizeof([])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_scheduler_holds_at_most_64_bytes_a_problem(make_scheduler, problems, stage, sampler):
    scheduler = make_scheduler(
        problems, num_problems=64, refill={"max_rounds": 1}, sampler={"name": sampler}
    )
    play(scheduler, stage)
    # Beliefs, visits, buckets, keys and standing alone take more than 32.
    assert 32 * NUM < bytes_held(scheduler, problems) <= 64 * NUM


def test_a_scheduler_with_difficulties_quotas_and_prerequisites_holds_no_more(
    make_scheduler, stage
):
    problems = [
        stage.make_problem(f"q{n}", level=n % 5, source=f"s{n % 2}", difficulty=n / NUM)
        for n in range(NUM)
    ]
    scheduler = make_scheduler(
        problems,
        num_problems=64,
        refill={"max_rounds": 1},
        quotas={"s0": 0.75, "s1": 0.25},
        prerequisites={"s0": "in_order"},
    )
    play(scheduler, stage)
    assert bytes_held(scheduler, problems) <= 64 * NUM
