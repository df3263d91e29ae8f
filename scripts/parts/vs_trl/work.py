"""What both sides of `bench_vs_trl.py` work on: the recipe, the problems in their order, and the
fixed groups of the update benchmark.

Legend: P problems, G completions of each.
"""

import json
import resource
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parts.shared.checkout import ROOT
from rl_llm import plugins
from rl_llm.cli.inputs import Data, Model, load_data, load_model
from rl_llm.cli.parts import make_scheduler
from rl_llm.config import Recipe, load_recipe, parse_recipe
from rl_llm.policy import Ranks
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup
from rl_llm.seeds import derive_rng
from rl_llm.trainer import RunFolder

SMOLLM2 = ROOT / ".cache" / "smollm2-135m-instruct"
FAR = 10**6

# Both sides train on truncated completions, without a reference, on every group with an advantage.
SAME_ON_BOTH_SIDES: dict[str, Any] = {
    "curriculum": {"sampler": {"name": "uniform"}, "gates": [], "refill": {"max_rounds": 0}},
    "kl": {"controller": {"name": "constant", "beta": 0.0}, "estimator": "k3"},
    "eval": {"every": FAR, "samples_per_problem": 1},
    "checkpoint": {"every": FAR, "keep": 1},
    "tracking": ["jsonl"],
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One child's work, as the parent writes it down."""

    model: str
    groups: str
    pair: int
    warm_up: int
    steps: int
    threads: int
    rows_per_micro_batch: int
    scratch: str
    engine: str = "transformers"

    @property
    def num_steps(self) -> int:
        """Steps in all; the first `warm_up` are not measured."""
        return self.warm_up + self.steps

    @property
    def groups_file(self) -> Path:
        """Where the fixed groups of this task's model lie."""
        return Path(self.scratch) / f"{self.model}-groups.json"


def read_task(path: str) -> Task:
    """Read what `write_json(asdict(task))` wrote."""
    return Task(**json.loads(Path(path).read_text(encoding="utf-8")))


def write_json(path: str | Path, tree: Any) -> None:
    """Write a tree of plain values."""
    Path(path).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def build_recipe(task: Task) -> Recipe:
    """Return the recipe of a task: that of the quickstart, or chained sums for SmolLM2."""
    tree = _quickstart() if task.model == "embedded" else _smollm2()
    tree |= SAME_ON_BOTH_SIDES
    tree["run"] = {
        "name": f"{task.model}-{task.groups}-{task.pair}",
        "seed": task.pair,
        "steps": task.num_steps,
        "output_dir": task.scratch,
    }
    tree["algorithm"]["truncated"] = "train"
    tree["rollout"]["engine"] = task.engine
    return parse_recipe(tree, where="bench_vs_trl")


def _quickstart() -> dict[str, Any]:
    tree = load_recipe(ROOT / "recipes" / "quickstart.yaml").model_dump()
    tree["optim"] |= {"grad_clip": 1.0, "warmup_steps": 0, "updates_per_batch": 1, "epochs": 1}
    return tree


def _smollm2() -> dict[str, Any]:
    source = {"use": "reasoning_gym", "family": "chain_sum", "levels": [0, 1], "seed": 1}
    return {
        "model": {"path": str(SMOLLM2), "dtype": "float32"},
        "lora": {"rank": 16, "alpha": 32.0, "targets": "all-linear"},
        "data": {
            "train": [{**source, "size": 400, "split": "train"}],
            "eval": [{**source, "size": 2, "split": "eval"}],
            "max_prompt_tokens": 256,
        },
        "rewards": [{"use": "numeric_answer"}],
        "rollout": {"problems_per_step": 8, "group_size": 8, "max_new_tokens": 32},
        "algorithm": {"name": "grpo", "clip_low": 0.2, "clip_high": 0.28},
        "optim": {"lr": 1e-4, "tokens_per_micro_batch": 1280},
    }


def load(recipe: Recipe) -> tuple[Ranks, Model, Data]:
    """Load the model and the data of a recipe; the held-out pool plays no part."""
    ranks = Ranks()
    model = load_model(recipe, ranks)
    return ranks, model, load_data(recipe, model.encoder)


def run_folder(recipe: Recipe) -> RunFolder:
    """Return the folder that a run of the recipe has."""
    return RunFolder(Path(recipe.run.output_dir) / recipe.run.name)


def planned_problems(recipe: Recipe, data: Data) -> list[Problem]:
    """Return the problems of every step in the order in which rl-llm draws them."""
    scheduler = make_scheduler(recipe, data)
    steps = range(1, recipe.run.steps + 1)
    return [request.problem for step in steps for request in scheduler.plan(step)]


def reward_function(reference: str) -> Callable[..., float]:
    """Return a shipped reward, as both sides call it."""
    return plugins.resolve(reference, kind="rewards").target


def mixed_rewards(num_groups: int, group_size: int, *, seed: int) -> list[list[float]]:
    """Return (P, G) rewards of 0 and 1; every group holds both."""
    rng = derive_rng(seed, "bench_vs_trl", "rewards")
    rewards_PG = []
    for _ in range(num_groups):
        num_correct = int(rng.integers(1, group_size))
        rewards_PG.append(rng.permutation([1.0] * num_correct + [0.0] * (group_size - num_correct)))
    return [list(map(float, rewards)) for rewards in rewards_PG]


def save_groups(path: Path, groups: list[ScoredGroup]) -> None:
    """Write scored groups for both sides to read."""
    write_json(path, [asdict(group) for group in groups])


def load_groups(path: Path) -> list[ScoredGroup]:
    """Read what `save_groups` wrote."""
    return [_scored(tree) for tree in json.loads(path.read_text(encoding="utf-8"))]


def _scored(tree: Mapping[str, Any]) -> ScoredGroup:
    group = tree["group"]
    problem = group["problem"]
    prompt = problem["prompt"]
    prompt = prompt if isinstance(prompt, str) else tuple(prompt)
    completions = tuple(
        Completion(**{**c, "token_ids": tuple(c["token_ids"]), "logprobs": tuple(c["logprobs"])})
        for c in group["completions"]
    )
    return ScoredGroup(
        group=Group(
            problem=Problem(**{**problem, "prompt": prompt}),
            prompt_ids=tuple(group["prompt_ids"]),
            completions=completions,
        ),
        scores=tuple(Score(**score) for score in tree["scores"]),
    )


def peak_rss_mib() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
