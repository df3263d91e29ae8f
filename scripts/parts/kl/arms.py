"""What `bench_kl.py` compares: arms, seeds, and the two tasks. Frozen before the measured runs.

An arm is a KL controller; everything else is one recipe and a list of overrides that all arms of a
stage share. Imports no torch.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from parts.kl.reversed import coefficients
from parts.shared.checkout import ROOT
from parts.shared.runs import digest
from rl_llm.config import Recipe, load_recipe
from rl_llm.kl import GrpoD

RECIPE = ROOT / "recipes" / "quickstart.yaml"
REVERSED = "scripts/parts/kl/reversed.py:GrpoDReversed"
# What digests of settings call it, those of the kept rows among them; no file is looked for there.
REVERSED_IN_DIGESTS = "scripts/bench_kl_reversed.py:GrpoDReversed"

STAGES = ("freeze", "measure", "control")
FREEZE_SEEDS = (100, 101, 102)
MEASURED_SEEDS = tuple(range(10, 18))
CONTROL_SEEDS = tuple(range(10, 13))
POOL_SEED = 1_000  # Added to a run's seed: the training pool differs from seed to seed.

STEPS, EVALUATE_EVERY = 100, 10
TRAINED_LEVELS, UNTRAINED_LEVELS = (5, 6, 7, 8), (1, 2, 3, 4)
POOL_SIZE = 16
LOWEST, HIGHEST = 0.0, 0.2  # Of the schedules' coefficients.
AVERAGE = round(
    sum(coefficients(GrpoD(min=LOWEST, max=HIGHEST, total_steps=STEPS), STEPS)) / STEPS, 6
)
POOL_PASS_RATE = 0.9  # About where the pool stays after the first steps, on FREEZE_SEEDS.
ACCURACY_BETA = round(AVERAGE * 2 / (math.tanh(POOL_PASS_RATE) + 1), 6)
TARGET_NATS = 0.05  # Per token of the completions that a step trains on.

CONTROL_STEPS = 480
CONTROL_LEVELS = (4, 5, 6)
CONTROL_NATS = 0.004
CONTROL_BETA = 1.5  # About where `target` settles there.
TOLERANCE = 0.25

_RANGE = f"min: {LOWEST}, max: {HIGHEST}"
ARMS = {
    "none": "{name: constant, beta: 0.0}",
    "constant-low": "{name: constant, beta: 0.02}",
    "constant-average": f"{{name: constant, beta: {AVERAGE}}}",
    "constant-high": "{name: constant, beta: 0.2}",
    "grpo_d": f"{{name: grpo_d, {_RANGE}}}",
    "grpo_d-reversed": f"{{name: '{REVERSED}', {_RANGE}}}",
    "target": f"{{name: target, beta: {AVERAGE}, nats_per_token: {TARGET_NATS}}}",
    "accuracy": f"{{name: accuracy, beta: {ACCURACY_BETA}}}",
}
CONTROL_ARMS = {
    f"{name}": f"{{name: target, beta: {factor * CONTROL_BETA:g}, gain: 0.1, "
    f"nats_per_token: {CONTROL_NATS}}}"
    for name, factor in (("too-high", 10.0), ("too-low", 0.1))
}
SCHEDULES = ("grpo_d", "grpo_d-reversed")
MATCHED = "constant-average"  # What a schedule has to beat.

_NOT_SCHEDULED = (
    "curriculum.sampler={name: uniform}",
    "curriculum.retire=null",
    "curriculum.defer=null",
)


def _source(levels: tuple[int, ...], size: int, split: str, seed: int) -> str:
    return (
        f"{{use: arithmetic, levels: {list(levels)}, size: {size}, split: {split}, seed: {seed}}}"
    )


def _comparison(seed: int) -> tuple[str, ...]:
    """A pool so small, and a learning rate so high, that a run without a penalty forgets."""
    held_out = [
        _source(UNTRAINED_LEVELS[:1], 28, "eval", 1),
        _source(UNTRAINED_LEVELS[1:], 180, "eval", 1),
        _source(TRAINED_LEVELS, 200, "eval", 1),
    ]
    return (
        f"data.train=[{_source(TRAINED_LEVELS, POOL_SIZE, 'train', POOL_SEED + seed)}]",
        f"data.eval=[{', '.join(held_out)}]",
        f"rollout.problems_per_step={POOL_SIZE}",
        "optim.lr=3.0e-3",
        *_NOT_SCHEDULED,
    )


def _control(seed: int) -> tuple[str, ...]:
    """A target so low that the policy stays near the reference, where the KL answers to beta within
    some tens of updates and its estimate has no heavy tail."""
    held_out = [_source(CONTROL_LEVELS, 96, "eval", 1), _source((7,), 32, "eval", 1)]
    return (
        f"data.train=[{_source(CONTROL_LEVELS, 600, 'train', POOL_SEED + seed)}]",
        f"data.eval=[{', '.join(held_out)}]",
        "rollout.problems_per_step=16",
        "rollout.max_new_tokens=80",
        *_NOT_SCHEDULED,
    )


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run, as it is handed to a child process."""

    stage: str
    arm: str
    seed: int
    steps: int = STEPS
    evaluate_every: int = EVALUATE_EVERY

    def file(self, runs: Path) -> Path:
        """Return where the run's row lies."""
        return runs / self.stage / f"{self.arm}-{self.seed}.json"

    @property
    def settings(self) -> str:
        """16 hex digits of everything but the seed that the run depends on; in which file a
        controller lies makes no difference."""
        recipe = self._recipe_of(0, reversed_as=REVERSED_IN_DIGESTS)
        return digest(recipe, self.evaluate_every)

    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return self._recipe_of(self.seed)

    def _recipe_of(self, seed: int, *, reversed_as: str = REVERSED) -> Recipe:
        is_control = self.stage == "control"
        arms, overrides = (CONTROL_ARMS, _control) if is_control else (ARMS, _comparison)
        shared = (f"run.seed={seed}", f"run.steps={self.steps}", *overrides(seed))
        controller = arms[self.arm].replace(REVERSED, reversed_as)
        return load_recipe(RECIPE, (*shared, f"kl.controller={controller}"))


def spec_of(stage: str, arm: str, seed: int) -> Spec:
    """Return a run of a stage in its full length."""
    if stage == "control":
        return Spec(
            stage=stage, arm=arm, seed=seed, steps=CONTROL_STEPS, evaluate_every=CONTROL_STEPS
        )
    return Spec(stage=stage, arm=arm, seed=seed)
