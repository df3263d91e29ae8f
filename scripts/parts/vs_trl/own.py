"""rl-llm's side of `bench_vs_trl.py`: one child process, one task, one file of measurements.

PYTHONPATH=scripts python -m parts.vs_trl.own draw|run TASK.json OUT.json
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from parts.vs_trl.work import (
    Task,
    build_recipe,
    load,
    load_groups,
    mixed_rewards,
    peak_rss_mib,
    planned_problems,
    read_task,
    run_folder,
    save_groups,
    write_json,
)
from rl_llm.cli.engines import build_engine
from rl_llm.cli.inputs import Data
from rl_llm.cli.parts import build_evaluator, build_parts, sampling_of
from rl_llm.cli.progress import SilentWatcher
from rl_llm.cli.runtime import keep_freed_memory
from rl_llm.config import Recipe
from rl_llm.policy import score_batch, train_groups
from rl_llm.records import Group, Request, Score, ScoredGroup
from rl_llm.rollout import RolloutEngine
from rl_llm.seeds import derive_rng, derive_seed
from rl_llm.trainer import Parts, Trainer


class Recorder:
    """A sink that keeps every row with the time at which it was written."""

    def __init__(self) -> None:
        """Start empty."""
        self.rows: list[dict[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep a row."""
        self.rows.append({**row, "wall": time.perf_counter(), "cpu": time.process_time()})

    def close(self) -> None:
        """Do nothing."""


def main(mode: str, task_file: str, out_file: str) -> None:
    """Draw the fixed groups, or measure a task."""
    task = read_task(task_file)
    torch.set_num_threads(task.threads)
    keep_freed_memory()  # as `rl-llm` does at its start
    if mode == "draw":
        save_groups(task.groups_file, fixed_groups(task))
        return
    measure = run_updates if task.groups == "informative" else run_steps
    result = measure(task)
    write_json(out_file, {"peak_rss_mib": peak_rss_mib(), **result})


def build(task: Task) -> Parts:
    """Put the real parts together, with nothing to evaluate."""
    recipe = build_recipe(task)
    ranks, model, data = load(recipe)
    folder = run_folder(recipe)
    parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
    nothing = replace(data, held_out=replace(data.held_out, problems=()))
    return replace(parts, evaluator=build_evaluator(recipe, nothing, parts.generation))


def run_steps(task: Task) -> dict[str, Any]:
    """Run the whole loop, and read each step's times from the rows of metrics.jsonl."""
    recorder = Recorder()
    parts = replace(build(task), sinks=[recorder])
    loaded_mib = peak_rss_mib()
    parts.folder.path.mkdir(parents=True, exist_ok=True)
    try:
        Trainer(parts).run()
    finally:
        parts.engine.close()
    pairs = zip(recorder.rows[task.warm_up :], recorder.rows[task.warm_up + 1 :], strict=False)
    steps = [_step(before, row, parts) for before, row in pairs]
    return {"loaded_rss_mib": loaded_mib, "steps": steps}


def _step(before: Mapping[str, Any], row: Mapping[str, Any], parts: Parts) -> dict[str, float]:
    rollout = parts.recipe.rollout
    step_s = row["wall"] - before["wall"]
    stages = {
        f"{stage}_s": row[f"time/{stage}_s"] for stage in ("generate", "score", "update", "publish")
    }
    num_rows = rollout.problems_per_step * rollout.group_size
    return {
        "step_s": step_s,
        "cpu_s": row["cpu"] - before["cpu"],
        **stages,
        "other_s": step_s - sum(stages.values()),
        "tokens": row["train/completion_tokens_mean"] * num_rows,
        "completion_tokens_mean": row["train/completion_tokens_mean"],
        "truncated_share": row["train/truncated_share"],
        "informative_share": row["train/informative_share"],
        "pass_rate": row["train/pass_rate"],
        "trained_tokens": row["train/trained_tokens"],
    }


def run_updates(task: Task) -> dict[str, Any]:
    """Update again and again on the fixed groups: advantages, packing, passes, optimiser step."""
    groups = load_groups(task.groups_file)
    parts = build(task)
    loaded_mib = peak_rss_mib()
    steps = []
    for step in range(1, task.num_steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        advantages_PG = parts.algorithm.advantages(score_batch(groups))
        facts = parts.policy.update(
            train_groups(groups, advantages_PG, parts.algorithm),
            step=step,
            beta=0.0,
            lr=parts.recipe.optim.lr,
            with_reference=False,
            rng=derive_rng(task.pair, "minibatches", step),
        )
        update_s = time.perf_counter() - wall
        steps.append(
            {
                "step_s": update_s,
                "update_s": update_s,
                "cpu_s": time.process_time() - cpu,
                "tokens": facts.trained_tokens,
                "completion_tokens_mean": _mean_length(groups),
                "informative_share": 1.0,
                "trained_tokens": facts.trained_tokens,
            }
        )
    return {"loaded_rss_mib": loaded_mib, "steps": steps[task.warm_up :]}


def fixed_groups(task: Task) -> list[ScoredGroup]:
    """Draw one step's completions from the model as it is; mixed rewards make every group teach.

    They are the same for every pair.
    """
    recipe = build_recipe(replace(task, pair=0))
    ranks, model, data = load(recipe)
    engine = build_engine(recipe, model, ranks, folder=run_folder(recipe))
    return draw_groups(engine, recipe, data, seed=0)


def draw_groups(
    engine: RolloutEngine, recipe: Recipe, data: Data, *, seed: int
) -> list[ScoredGroup]:
    """Draw the completions of the first step, and give every group mixed rewards."""
    count, size = recipe.rollout.problems_per_step, recipe.rollout.group_size
    requests = [
        Request(
            problem=problem,
            num_completions=size,
            sampling=sampling_of(recipe),
            stream_key=derive_seed(seed, "bench_vs_trl", problem.key),
        )
        for problem in planned_problems(recipe, data)[:count]
    ]
    groups = {group.problem.key: group for group in engine.complete(requests)}
    ordered = [groups[request.problem.key] for request in requests]
    return with_rewards(ordered, mixed_rewards(count, size, seed=seed))


def with_rewards(
    groups: Sequence[Group], rewards_PG: Sequence[Sequence[float]]
) -> list[ScoredGroup]:
    """Give each completion a reward."""
    return [
        ScoredGroup(
            group=group,
            scores=tuple(Score(total=r, parts={}, correct=r >= 1.0) for r in rewards),
        )
        for group, rewards in zip(groups, rewards_PG, strict=True)
    ]


def _mean_length(groups: Sequence[ScoredGroup]) -> float:
    lengths = [len(c.token_ids) for group in groups for c in group.group.completions]
    return sum(lengths) / len(lengths)


if __name__ == "__main__":
    main(*sys.argv[1:])
