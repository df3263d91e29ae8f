"""What `bench_curriculum.py` compares: tasks, arms and seeds. Frozen before the measured runs.

An arm is a list of overrides to one recipe; all arms share the recipe, the learning rate and the
number of generated completions. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from parts.shared.checkout import ROOT
from parts.shared.runs import digest
from rl_llm.config import Recipe, load_recipe

RECIPE = ROOT / "recipes" / "carry-adder-frontier" / "grpo-arithmetic.yaml"

FREEZE_SEEDS = (100, 101, 102)
MEASURED_SEEDS = tuple(range(12))
CONFIRMED_SEEDS = tuple(range(12, 20))  # Of no choice, and of no other run.
LEARNING_RATES = (2.5e-4, 5e-4, 1e-3)
LEARNING_RATE = 5e-4  # The best of LEARNING_RATES for `uniform` on FREEZE_SEEDS.
BUDGET = 12_288  # Completions of a run: what `uniform` generates in 384 steps.
EVALUATE_EVERY = 1_024  # Completions from one evaluation to the next.
QUICK_BUDGET = 6_144
POOL_SEED = 1_000  # Added to a run's seed: the training pool differs from seed to seed.
BINS = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)  # Of the histogram of pass rates.

TASKS: dict[str, tuple[str, ...]] = {
    "pool": (),
    "stream": ("data.train.0.endless=true", "data.train.1.endless=true"),
}

_PLAIN = ("curriculum.retire=null", "curriculum.defer=null")
_ALL_GROUPS = ("curriculum.gates=[]", "curriculum.refill={max_rounds: 0}")
_MIXED_GROUPS = ("curriculum.gates=[{name: informative}]", "curriculum.refill={max_rounds: 0}")


def _sampler(name: str, options: str = "") -> str:
    return f"curriculum.sampler={{name: {name}{', ' if options else ''}{options}}}"


ARMS: dict[str, tuple[str, ...]] = {
    "uniform": (_sampler("uniform"), *_ALL_GROUPS, *_PLAIN),
    "uniform-dropped": (_sampler("uniform"), *_MIXED_GROUPS, *_PLAIN),
    "dynamic": (
        _sampler("uniform"),
        *_MIXED_GROUPS,
        "curriculum.refill={max_rounds: 12, within: pool}",
        *_PLAIN,
    ),
    "pools": (_sampler("pools"), *_MIXED_GROUPS, *_PLAIN),
    "ladder": (_sampler("ladder"), *_MIXED_GROUPS, *_PLAIN),
    "thompson": (_sampler("thompson"), *_MIXED_GROUPS, *_PLAIN),
    "gaussian": (_sampler("gaussian"), *_MIXED_GROUPS, *_PLAIN),
    "greso": (_sampler("greso"), *_MIXED_GROUPS, *_PLAIN),
    "probe": (
        _sampler("uniform"),
        *_MIXED_GROUPS,
        "curriculum.probe={completions: 4, problems: 6}",
        *_PLAIN,
    ),
    "posterior": (),
    "posterior-flat": (_sampler("posterior", "kernel: flat"),),
    "posterior-untracked": (
        "curriculum.belief={visit_decay: 0.9, max_gain: 0.0, coupling: 0.0}",
        _sampler("posterior", "kernel: flat"),
    ),
    "posterior-refill": ("curriculum.refill={max_rounds: 12, within: bucket}",),
    "oracle": (_sampler("oracle"), *_MIXED_GROUPS, *_PLAIN),
    "oracle-whole": (_sampler("oracle", "candidates: 63"), *_MIXED_GROUPS, *_PLAIN),
}
ARMS_OF_TASK: dict[str, tuple[str, ...]] = {
    "pool": tuple(ARMS),
    "stream": (
        "uniform",
        "dynamic",
        "ladder",
        "posterior",
        "posterior-untracked",
        "posterior-refill",
    ),
}


CONFIRMED_ARMS = ("uniform", "dynamic", "posterior")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run, as it is handed to a child process."""

    stage: str
    task: str
    arm: str
    seed: int
    lr: float = LEARNING_RATE
    budget: int = BUDGET
    evaluate_every: int = EVALUATE_EVERY

    @property
    def name(self) -> str:
        """The run's name within its stage and task."""
        lr = f"-lr={self.lr:g}" if self.stage == "lr" else ""
        return f"{self.arm.replace(', ', '-').replace(' ', '_')}{lr}-{self.seed}"

    def file(self, runs: Path) -> Path:
        """Return where the run's row lies."""
        return runs / self.stage / self.task / f"{self.name}.json"

    @property
    def settings(self) -> str:
        """16 hex digits of everything but the seed that the run depends on."""
        return digest(self._recipe_of(0), self.budget, self.evaluate_every)

    def recipe(self) -> Recipe:
        """Return the recipe of the run; `optim.lr` and the seeds are the same for all arms."""
        return self._recipe_of(self.seed)

    def _recipe_of(self, seed: int) -> Recipe:
        shared = (
            f"run.seed={seed}",
            f"data.train.0.seed={POOL_SEED + seed}",
            f"data.train.1.seed={POOL_SEED + seed}",
            f"optim.lr={self.lr!r}",
        )
        return load_recipe(RECIPE, (*shared, *TASKS[self.task], *ARMS[self.arm]))
