"""What `bench_algorithms.py` runs: every algorithm on the quickstart's task and budget.

All share the recipe; an algorithm is taken at its own defaults, and some need a few settings more.
Names are checked against `rl_llm.algorithms.ALGORITHMS` by a test: importing it takes torch.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rl_llm.config import Recipe, load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "quickstart.yaml"

SEEDS = (0, 1, 2)
STEPS, EVALUATE_EVERY = 24, 8
SAMPLES_PER_PROBLEM = 4  # So that a completion has others of its prompt to be compared with.

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
    "ppo": ("optim.epochs=4",),  # Its critic takes more than one update of each batch.
}
WITH_CRITIC = ("a2c", "ppo")

LEAST_GAIN = 0.15  # In the mean held-out pass rate.
LEAST_EXPLAINED = {"ppo": 0.3}  # Of the variance of rewards, by the critic.


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
        text = json.dumps([self._recipe_of(0).model_dump(), self.evaluate_every], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return self._recipe_of(self.seed)

    def _recipe_of(self, seed: int) -> Recipe:
        return load_recipe(
            RECIPE,
            (
                f"run.seed={seed}",
                f"run.steps={self.steps}",
                f"eval.samples_per_problem={SAMPLES_PER_PROBLEM}",
                "curriculum.gates=null",  # Those that learn from equal rewards get them.
                f"algorithm={{name: {self.arm}}}",
                *ALGORITHMS[self.arm],
            ),
        )
