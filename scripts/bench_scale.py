"""What scheduling costs by the size of the pool, on one core, without a model.

python scripts/bench_scale.py [--sizes 10000 100000 1000000]

The scheduler is that of a recipe whose `curriculum` section asks for one round of refills and for
nothing else: the default sampler with retirement, deferral, calibration and the regression
detector. `observe_ms` is what a step's groups cost, from beliefs that learn to gates that decide;
`metrics_ms` what it costs to say how the pool stands after them, and `refill_ms` to replace half of
them, in equal parts from all buckets. `plan_difficulty_ms` and `observe_difficulty_ms` are those of
a pool with a column `difficulty`. Of the other samplers the plan alone is timed, beside the whole
step's of the default (`plan_ms`). Writes the key `scale` of docs/benchmarks/curriculum.json, and
its table.
"""

import argparse
import gc
import json
import os
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from parts.curriculum.docs import merge_result, provenance, scale_markdown, write_between
from rl_llm.config import NamedPart
from rl_llm.config.curriculum import CurriculumSection, RefillSection
from rl_llm.curriculum import SAMPLERS, Outcomes, PoolBelief, PoolIndex, Scheduler, store
from rl_llm.curriculum.compose import Rollouts, build_sampler, build_scheduler
from rl_llm.records import (
    Completion,
    Group,
    Level,
    Problem,
    Request,
    Sampling,
    Score,
    ScoredGroup,
    content_key,
)
from rl_llm.seeds import derive_rng

GROUP_SIZE, GROUPS_PER_STEP, NUM_BUCKETS = 8, 1_024, 64
NUM_DIFFICULTIES = 7  # Of each bucket, since 64 and 7 have no factor in common.
STEPS, STEPS_OF_OTHERS = 20, 5
OTHERS = [name for name in sorted(SAMPLERS) if name != CurriculumSection().sampler.name]
TARGETS = {
    "plan_ms": 50,
    "observe_ms": 5,
    "refill_ms": 50,
    "bytes_per_problem": 64,
    "save_s": 1,
    "load_s": 1,
    **{f"{name}_plan_ms": 50 for name in OTHERS},
}

_ANSWER = Completion(
    token_ids=(1,), logprobs=(-1.0,), text="", finish_reason="stop", policy_version=0
)
_SCORES = tuple(Score(total=float(ok), parts={}, correct=ok) for ok in (False, True))
_WRONG, _MIXED = _SCORES[:1] * GROUP_SIZE, _SCORES * (GROUP_SIZE // 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dry", action="store_true", help="print alone")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sizes = {str(size): measure(size) for size in given.sizes}
    about = provenance("python scripts/bench_scale.py")
    scale = {**about, "targets": TARGETS, **sizes[str(max(given.sizes))], "sizes": sizes}
    print(scale_markdown(scale))
    if not given.dry:
        merge_result({"scale": scale})
        write_between("scale", scale_markdown(scale))
    return 0


def measure(num_problems: int) -> dict[str, float]:
    """Return medians over steps in ms, seconds for a checkpoint, and bytes a problem."""
    problems = [
        Problem(
            key=content_key(str(i), ""), prompt="", answer="", level=i % NUM_BUCKETS, source="scale"
        )
        for i in range(num_problems)
    ]
    num_bytes = _bytes_held(problems)
    scheduler = _build(problems)
    plan_ms, observe_ms, metrics_ms = _step_ms(scheduler)
    save_s, load_s = _save_and_load(scheduler, _build(problems))
    others = {name: _plan_ms(name, scheduler.index) for name in OTHERS}
    rated = [
        replace(problem, meta={"difficulty": i % NUM_DIFFICULTIES})
        for i, problem in enumerate(problems)
    ]
    plan_difficulty_ms, observe_difficulty_ms, _ = _step_ms(_build(rated))
    figures = {
        "plan_ms": plan_ms,
        "observe_ms": observe_ms,
        "metrics_ms": metrics_ms,
        "refill_ms": _refill_ms(_build(problems)),
        "plan_difficulty_ms": plan_difficulty_ms,
        "observe_difficulty_ms": observe_difficulty_ms,
        "bytes_per_problem": num_bytes / num_problems,
        "save_s": save_s,
        "load_s": load_s,
        **{f"{name}_plan_ms": elapsed_ms for name, elapsed_ms in others.items()},
    }
    return {name: round(value, 3) for name, value in figures.items()}


def _step_ms(scheduler: Scheduler) -> list[float]:
    """Return the medians, over steps, of a plan, of learning from its groups, and of metrics."""
    elapsed_ms = []
    for step in range(1, STEPS + 1):
        requests, plan_ms = _timed(partial(scheduler.plan, step))
        groups = _simulated(requests, step)
        _, observe_ms = _timed(partial(_learn, scheduler, groups, step))
        _, metrics_ms = _timed(partial(scheduler.metrics, step))
        elapsed_ms.append((plan_ms, observe_ms, metrics_ms))
    return [median(each) for each in zip(*elapsed_ms, strict=True)]


def _refill_ms(scheduler: Scheduler) -> float:
    """Return the median, over steps, of a refill for half of the groups of every bucket."""
    refill_ms = []
    for step in range(1, STEPS + 1):
        groups = _half_wrong(scheduler.plan(step))
        _learn(scheduler, groups, step)
        missing = sum(group.scores == _WRONG for group in groups)
        requests, elapsed_ms = _timed(partial(scheduler.refill, step, round=1, num_missing=missing))
        assert len(requests) == min(missing, len(scheduler.problems) - len(groups))
        refill_ms.append(elapsed_ms)
    return median(refill_ms)


def _plan_ms(name: str, index: PoolIndex) -> float:
    """Return the median, over steps, of a plan of one sampler."""
    belief = PoolBelief(index)
    sampler = build_sampler(
        NamedPart(name=name), index=index, belief=belief, seed=0, group_size=GROUP_SIZE
    )
    plan_ms = []
    for step in range(1, STEPS_OF_OTHERS + 1):
        drawn, elapsed_ms = _timed(partial(sampler.plan, step, GROUPS_PER_STEP))
        plan_ms.append(elapsed_ms)
        sampler.observe(
            Outcomes(
                indices=drawn,
                num_correct=drawn % (GROUP_SIZE + 1),
                num_counted=np.full(len(drawn), GROUP_SIZE),
                step=step,
            )
        )
    return median(plan_ms)


def _bytes_held(problems: Sequence[Problem]) -> int:
    """Return what a scheduler holds after a step with a refill, beside the problems themselves."""
    gc.collect()
    tracemalloc.start()
    scheduler = _build(problems)
    _learn(scheduler, _half_wrong(scheduler.plan(1)), 1)
    scheduler.refill(1, round=1, num_missing=GROUPS_PER_STEP // 2)
    gc.collect()
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return num_bytes


def _build(problems: Sequence[Problem]) -> Scheduler:
    return build_scheduler(
        CurriculumSection(refill=RefillSection(max_rounds=1)),
        problems=problems,
        rollouts=Rollouts(
            num_problems=GROUPS_PER_STEP,
            group_size=GROUP_SIZE,
            sampling=Sampling(temperature=1.0, max_new_tokens=1),
            last_step=10**6,
        ),
        seed=0,
    )


def _learn(scheduler: Scheduler, groups: Sequence[ScoredGroup], step: int) -> None:
    """Let a scheduler take in the groups of a step."""
    scheduler.observe(groups, step=step)
    scheduler.conclude(groups)


def _simulated(requests: Sequence[Request], step: int) -> list[ScoredGroup]:
    """Answer requests with a pass rate that falls with the level."""
    rng = derive_rng("bench_scale", step)
    return [
        _scored(
            request, tuple(_SCORES[rng.random() * NUM_BUCKETS > rate] for _ in range(GROUP_SIZE))
        )
        for request in requests
        for rate in [int(request.problem.level)]
    ]


def _half_wrong(requests: Sequence[Request]) -> list[ScoredGroup]:
    """Answer requests so that every second group of a level is all wrong, and the others mixed."""
    groups, seen = [], Counter[Level]()
    for request in requests:
        level = request.problem.level
        groups.append(_scored(request, _WRONG if seen[level] % 2 else _MIXED))
        seen[level] += 1
    return groups


def _scored(request: Request, scores: tuple[Score, ...]) -> ScoredGroup:
    group = Group(problem=request.problem, prompt_ids=(), completions=(_ANSWER,) * GROUP_SIZE)
    return ScoredGroup(group=group, scores=scores)


def _save_and_load(scheduler: Scheduler, fresh: Scheduler) -> tuple[float, float]:
    """Return the seconds that a checkpoint of the curriculum takes, and those to take it up."""
    with tempfile.TemporaryDirectory(prefix="bench_scale-") as scratch:
        file = Path(scratch) / "curriculum.parquet"

        def save() -> str:
            return json.dumps(store.save(file, scheduler.row_names, scheduler.state_dict()))

        rest, save_ms = _timed(save)

        def load() -> None:
            fresh.load_state_dict(store.load(file, fresh.row_names, json.loads(rest)))

        _, load_ms = _timed(load)
    return save_ms / 1000, load_ms / 1000


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = call()
    return found, (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    raise SystemExit(main())
