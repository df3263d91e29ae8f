"""TRL's side of `bench_vs_trl.py`: one child process, one task, one file of measurements.

PYTHONPATH=scripts python -m parts.vs_trl.peer TASK.json OUT.json
"""

import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from parts.vs_trl.work import (
    Task,
    build_recipe,
    load,
    load_groups,
    peak_rss_mib,
    planned_problems,
    read_task,
    reward_function,
    write_json,
)
from rl_llm.cli.inputs import Model
from rl_llm.config import Recipe
from rl_llm.records import Problem, ScoredGroup

STAGES = ("prepare", "generate", "score")


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with a stopwatch on its stages; what it computes is untouched."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start all clocks at zero."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.informative_share = self.pass_rate = 0.0
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return self._timed("prepare", super()._prepare_inputs, generation_batch)

    def _generate(self, prompts: list[Any]) -> Any:
        return self._timed("generate", super()._generate, prompts)

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        rewards = self._timed("score", super()._calculate_rewards, *args)
        correct_PG = (rewards[:, 0] >= 1.0).view(-1, self.num_generations)
        mixed_P = correct_PG.any(dim=1) & ~correct_PG.all(dim=1)
        self.informative_share = float(mixed_P.float().mean())
        self.pass_rate = float(correct_PG.float().mean())
        return rewards

    def _timed(self, stage: str, function: Callable[..., Any], *args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        self.seconds[stage] += time.perf_counter() - started
        return result


class Stopwatch(TrainerCallback):
    """Takes down every step: its wall time runs from the end of the step before."""

    def __init__(self) -> None:
        """Start empty; `trainer` is set once there is one."""
        self.trainer: TimedTrainer
        self.steps: list[dict[str, float]] = []
        self._ended = self._cpu_ended = self._began = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock of the first step."""
        self._ended, self._cpu_ended = time.perf_counter(), time.process_time()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock of the passes, which stands still while inputs are prepared."""
        self._began = time.perf_counter()
        self.trainer.seconds = dict.fromkeys(STAGES, 0.0)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Keep the step."""
        trainer, now, cpu = self.trainer, time.perf_counter(), time.process_time()
        seconds, metrics = trainer.seconds, trainer._metrics["train"]
        update_s = now - self._began - seconds["prepare"]
        mean_length = metrics["completions/mean_length"][-1]
        step_s = now - self._ended
        self.steps.append(
            {
                "step_s": step_s,
                "cpu_s": cpu - self._cpu_ended,
                "generate_s": seconds["generate"],
                "score_s": seconds["score"],
                "update_s": update_s,
                "publish_s": 0.0,
                "other_s": step_s - seconds["generate"] - seconds["score"] - update_s,
                "tokens": mean_length * trainer.args.generation_batch_size,
                "completion_tokens_mean": mean_length,
                "truncated_share": metrics["completions/clipped_ratio"][-1],
                "informative_share": trainer.informative_share,
                "pass_rate": trainer.pass_rate,
            }
        )
        self._ended, self._cpu_ended = now, cpu


def main(task_file: str, out_file: str) -> None:
    """Measure a task."""
    task = read_task(task_file)
    torch.set_num_threads(task.threads)
    transformers_logging.disable_progress_bar()
    recipe = build_recipe(task)
    _, model, data = load(recipe)
    stopwatch = Stopwatch()
    if task.groups == "informative":
        groups = load_groups(task.groups_file)
        trainer = fixed_trainer(recipe, model, task, groups, callbacks=[stopwatch])
    else:
        problems = planned_problems(recipe, data)
        rewards = [adapt(reward_function(use.use)) for use in recipe.rewards]
        trainer = build_trainer(recipe, model, task, problems, rewards, callbacks=[stopwatch])
    stopwatch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    loaded_mib = peak_rss_mib()
    trainer.train()
    steps = stopwatch.steps[task.warm_up :]
    result = {"peak_rss_mib": peak_rss_mib(), "loaded_rss_mib": loaded_mib, "steps": steps}
    write_json(out_file, result)


def build_trainer(
    recipe: Recipe,
    model: Model,
    task: Task,
    problems: Sequence[Problem],
    rewards: list[Callable[..., Any]],
    **more: Any,
) -> TimedTrainer:
    """Build TRL's trainer on the same settings as the recipe.

    `config` in `more` overrides single settings of `GRPOConfig`.
    """
    overrides = more.pop("config", {})
    model.base.requires_grad_(True)
    config = GRPOConfig(**settings(recipe, task) | overrides)
    dataset = Dataset.from_list(
        [{"prompt": _prompt(problem), "answer": problem.answer} for problem in problems]
    )
    return TimedTrainer(
        model=model.base,
        reward_funcs=rewards,
        args=config,
        train_dataset=dataset,
        processing_class=model.tokenizer,
        peft_config=LoraConfig(
            r=recipe.lora.rank,
            lora_alpha=recipe.lora.alpha,
            target_modules=recipe.lora.targets,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
        **more,
    )


def settings(recipe: Recipe, task: Task) -> dict[str, Any]:
    """Return the settings of `GRPOConfig` that mean what the recipe says, and the fastest others:
    one generation batch, no checkpointing of activations, nothing logged or saved."""
    options, rollout, optim = recipe.algorithm.options, recipe.rollout, recipe.optim
    num_rows = rollout.problems_per_step * rollout.group_size
    return {
        "output_dir": str(Path(task.scratch) / f"trl-{task.model}-{task.groups}-{task.pair}"),
        "seed": task.pair,
        "max_steps": task.num_steps,
        "per_device_train_batch_size": task.rows_per_micro_batch,
        "gradient_accumulation_steps": num_rows // task.rows_per_micro_batch,
        "num_generations": rollout.group_size,
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "epsilon": options.get("clip_low", 0.2),
        "epsilon_high": options.get("clip_high", 0.28),
        "loss_type": "dapo",
        "scale_rewards": "group",
        "beta": 0.0,
        "reward_weights": [use.weight for use in recipe.rewards],
        "mask_truncated_completions": False,
        "shuffle_dataset": False,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.grad_clip,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_completions": False,
    }


def fixed_trainer(
    recipe: Recipe, model: Model, task: Task, groups: Sequence[ScoredGroup], **more: Any
) -> TimedTrainer:
    """Build a trainer that is given the groups' completions and rewards instead of drawing them."""
    completions = [c for group in groups for c in group.group.completions]
    outcome = {
        "prompt_ids": [list(g.group.prompt_ids) for g in groups for _ in g.group.completions],
        "completion_ids": [list(completion.token_ids) for completion in completions],
        "logprobs": None,
    }
    totals = [score.total for group in groups for score in group.scores]

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        return dict(outcome)

    def reward(**columns: Any) -> list[float]:
        return totals

    more["config"] = {"reward_weights": [1.0], **more.get("config", {})}
    problems = [group.group.problem for group in groups] * task.num_steps
    return build_trainer(recipe, model, task, problems, [reward], rollout_func=rollout, **more)


def adapt(reward: Callable[..., float]) -> Callable[..., list[float]]:
    """Return a reward in TRL's form, from completions and columns to a list."""
    wants_answer = "answer" in inspect.signature(reward).parameters

    def adapted(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        if wants_answer:
            return [reward(completion=t, answer=a) for t, a in zip(texts, answer, strict=True)]
        return [reward(completion=text) for text in texts]

    return adapted


def _prompt(problem: Problem) -> str | list[Mapping[str, str]]:
    return problem.prompt if isinstance(problem.prompt, str) else list(map(dict, problem.prompt))


if __name__ == "__main__":
    main(*sys.argv[1:])
