"""What `bench_rollout.py` measures, each in a process of its own: one task, one file.

PYTHONPATH=scripts python -m parts.rollout.child generation|publish|overlap TASK.json OUT.json

Legend: G completions of a group.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from parts.shared.checkout import ROOT
from parts.vs_trl.own import Recorder
from rl_llm.cli.engines import build_engine
from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.cli.runtime import keep_freed_memory
from rl_llm.config import Recipe, load_recipe
from rl_llm.policy import Ranks, add_lora
from rl_llm.records import Group, Request
from rl_llm.rollout import RolloutEngine
from rl_llm.trainer import Parts, RunFolder, Trainer

Row = dict[str, Any]
Task = Mapping[str, Any]


def main(mode: str, task_file: str, out_file: str) -> None:
    """Measure one task, and write what came of it."""
    task = json.loads(Path(task_file).read_text(encoding="utf-8"))
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, task["engine_cores"]))
    os.sched_setaffinity(0, task["engine_cores"])  # The engine's process inherits it.
    torch.set_num_threads(len(task["trainer_cores"]))
    keep_freed_memory()
    Path(out_file).write_text(json.dumps(MODES[mode](task), indent=1) + "\n", encoding="utf-8")


class Tapped:
    """An engine that hands on what it generates, and keeps the groups of every call."""

    def __init__(self, engine: RolloutEngine) -> None:
        """Stand before `engine`."""
        self._engine = engine
        self.calls: list[list[Group]] = []

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield what the engine yields."""
        self.calls.append([])
        for group in self._engine.complete(requests):
            self.calls[-1].append(group)
            yield group

    def __getattr__(self, name: str) -> Any:
        """Everything else is the engine's."""
        return getattr(self._engine, name)


class InTurns:
    """A sink that lets vLLM alone repeat what a step generated, before the next one begins."""

    def __init__(self, tapped: Tapped, alone: "Alone") -> None:
        """Start with no step."""
        self._tapped, self._alone = tapped, alone
        self.steps: list[Row] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Measure behind a step."""
        if row["step"]:
            seconds, tokens = zip(*map(self._alone, self._tapped.calls), strict=True)
            self.steps.append({**_stages(row), "alone_s": sum(seconds), "tokens": sum(tokens)})
        self._tapped.calls = []

    def close(self) -> None:
        """Do nothing."""


Alone = Callable[[Sequence[Group]], tuple[float, int]]


def generation(task: Task) -> Row:
    """Train, and behind every step let vLLM alone draw as many tokens for the same prompts."""
    recipe = recipe_of(task)
    parts = parts_of(recipe)
    tapped = Tapped(parts.engine)
    parts.generation._engine = tapped  # type: ignore[assignment]
    sink = InTurns(tapped, alone_of(recipe, task))
    try:
        Trainer(replace(parts, sinks=[sink])).run()
    finally:
        parts.engine.close()
    return {"steps": sink.steps[1:]}


def alone_of(recipe: Recipe, task: Task) -> Alone:
    """Return what lets stock vLLM generate for the prompts of groups, each completion as long as
    it was, and says how long that took."""
    from vllm import LLM, SamplingParams

    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"
    llm = LLM(
        model=task["model"],
        skip_tokenizer_init=True,
        dtype=recipe.model.dtype,
        enforce_eager=True,
        max_model_len=recipe.data.max_prompt_tokens + recipe.rollout.max_new_tokens,
        max_num_seqs=recipe.rollout.max_batch_rows,
    )

    def draw(groups: Sequence[Group]) -> tuple[float, int]:
        pairs = [
            (group.prompt_ids, len(c.token_ids)) for group in groups for c in group.completions
        ]
        llm.reset_prefix_cache()
        started = time.perf_counter()
        found = llm.generate(
            [{"prompt_token_ids": list(prompt_ids)} for prompt_ids, _ in pairs],
            [
                SamplingParams(
                    temperature=recipe.rollout.temperature,
                    max_tokens=length,
                    ignore_eos=True,
                    detokenize=False,
                )
                for _, length in pairs
            ],
            use_tqdm=False,
        )
        seconds = time.perf_counter() - started
        tokens = sum(len(each.outputs[0].token_ids) for each in found)
        assert tokens == sum(length for _, length in pairs), "the same lengths"
        return seconds, tokens

    return draw


def publish(task: Task) -> Row:
    """Publish an adapter several times, and say how long each took."""
    recipe = recipe_of(task)
    ranks = Ranks()
    model = load_model(recipe, ranks)
    engine = build_engine(recipe, model, ranks, folder=RunFolder(Path(recipe.run.output_dir)))
    adapted = add_lora(model.base, recipe.lora, seed=1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    seconds = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            adapted.save_pretrained(folder)
            for version in range(task["steps"] + 1):
                started = time.perf_counter()
                engine.load_weights(Path(folder), version=version)
                seconds.append(time.perf_counter() - started)
    finally:
        engine.close()
    return {"publish_s": seconds[1:]}


def overlap(task: Task) -> Row:
    """Run the whole loop with the engine on its cores and the trainer on others."""
    recipe = recipe_of(task)
    recorder = Recorder()
    parts = replace(parts_of(recipe), sinks=[recorder])
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), task["trainer_cores"])
    parts.folder.path.mkdir(parents=True, exist_ok=True)
    try:
        Trainer(parts).run()
    finally:
        parts.engine.close()
    pairs = zip(recorder.rows[1:], recorder.rows[2:], strict=False)
    return {"steps": [{**_stages(row), "step_s": row["wall"] - old["wall"]} for old, row in pairs]}


def recipe_of(task: Task) -> Recipe:
    """Return the shipped recipe with the task's settings, and nothing held out."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in task["settings"].items()]
    return load_recipe(ROOT / task["recipe"], [*overrides, "data.eval=[]"])


def parts_of(recipe: Recipe) -> Parts:
    """Put the real parts together."""
    ranks = Ranks()
    model = load_model(recipe, ranks)
    data = load_data(recipe, model.encoder)
    folder = RunFolder(Path(recipe.run.output_dir) / recipe.run.name)
    return build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())


def _stages(row: Mapping[str, Any]) -> Row:
    stages = {key[5:]: value for key, value in row.items() if key.startswith("time/")}
    return {
        **stages,
        "step_s": row["step_s"],
        "informative_share": row["train/informative_share"],
        "completion_tokens_mean": row["train/completion_tokens_mean"],
    }


MODES: dict[str, Callable[[Task], Row]] = {
    "generation": generation,
    "publish": publish,
    "overlap": overlap,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
