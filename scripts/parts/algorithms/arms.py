"""What `bench_algorithms.py` runs: every algorithm on the quickstart's task and budget.

All share the recipe; an algorithm is taken at its own defaults, and some need a few settings more.
Names are checked against `rl_llm.algorithms.ALGORITHMS` by a test: importing it takes torch.
"""

from dataclasses import dataclass
from pathlib import Path

from parts.shared.checkout import ROOT
from parts.shared.runs import digest
from rl_llm.config import Recipe, load_recipe

RECIPE = ROOT / "recipes" / "quickstart.yaml"

SEEDS = (0, 1, 2)
STEPS, EVALUATE_EVERY = 24, 8
HELD_OUT = (20, 140)  # Sums of one digit, and of 2 to 8.
SAMPLES_PER_PROBLEM = 8  # As in training: a completion is compared with 7 others of its prompt.

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "reinforce": (),
    "grpo": (),
    "dr_grpo": (),
    "dapo": (),
    "gspo": (),
    "cispo": (),
    "rloo": (),
    "reinforce_pp": (),
    "a2c": (),
    # A critic takes several updates of each batch, learns what problems of all levels are worth
    # from all of them, and follows a policy that moves no faster than it can.
    "ppo": (
        "algorithm.critic_lr=3.0e-3",
        "optim.epochs=4",
        "optim.lr=3.0e-4",
        "curriculum.sampler={name: uniform}",
    ),
}
WITH_CRITIC = ("a2c", "ppo")

LEAST_GAIN = 0.15  # In the mean held-out pass rate.
LEAST_EXPLAINED = {"ppo": 0.3}  # Of the variance of rewards, by the critic at its best.


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run, as it is handed to a child process."""

    stage: str = "measure"
    arm: str
    seed: int
    steps: int = STEPS
    evaluate_every: int = EVALUATE_EVERY

    def file(self, runs: Path) -> Path:
        """Return where the run's row lies."""
        return runs / f"{self.arm}-{self.seed}.json"

    @property
    def settings(self) -> str:
        """16 hex digits of everything but the seed that the run depends on."""
        return digest(self._recipe_of(0), self.evaluate_every)

    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return self._recipe_of(self.seed)

    def _recipe_of(self, seed: int) -> Recipe:
        return load_recipe(
            RECIPE,
            (
                f"run.seed={seed}",
                f"run.steps={self.steps}",
                *(f"data.eval.{i}.size={size}" for i, size in enumerate(HELD_OUT)),
                f"eval.samples_per_problem={SAMPLES_PER_PROBLEM}",
                "curriculum.gates=null",  # Those that learn from equal rewards get them.
                f"algorithm={{name: {self.arm}}}",
                *ALGORITHMS[self.arm],
            ),
        )
