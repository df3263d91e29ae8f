"""How near beliefs come to true pass rates, on the simulated learner of the tests.

python scripts/bench_calibration.py [--seeds 5] [--dry]

The learner of tests/curriculum/simulator.py has 8 levels of 100 problems, of which a step draws 32,
and pass rates that are known. Every figure is a mean over all 800 problems, drawn or not, over the
steps 51 to 150 and over seeds. Imports no torch, takes seconds, and writes the table of
docs/curriculum.md.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from parts.shared.checkout import ROOT
from parts.shared.docs import table, write_between
from rl_llm.curriculum import PoolBelief, Posterior, Uniform
from rl_llm.plugins import load_module

DOCUMENT = ROOT / "docs" / "curriculum.md"
BURN_IN, NUM_STEPS = 50, 150
LEARNERS = {"stays as it is": 0.0, "improves": 0.0075}
SAMPLERS = ("uniform", "posterior")

simulator = load_module(ROOT / "tests" / "curriculum" / "simulator.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print alone")
    given = parser.parse_args(arguments)
    found = table(_lines(given.seeds))
    print(found)
    if not given.dry:
        write_between(DOCUMENT, "calibration", found)
    return 0


def _lines(num_seeds: int) -> Iterator[str]:
    yield "learner | sampler | calibration error | Brier score | of the true rates | mixed groups"
    for name, learning_rate in LEARNERS.items():
        for sampler in SAMPLERS:
            figures = [simulated(sampler, learning_rate, seed=seed) for seed in range(num_seeds)]
            cells = [f"{value:.3f}" for value in np.mean(figures, axis=0)]
            yield f"{name} | `{sampler}` | " + " | ".join(cells)


def simulated(sampler_name: str, learning_rate: float, *, seed: int) -> list[float]:
    """Return the calibration error of the beliefs, their Brier score, that of whoever knows every
    pass rate, and the share of mixed groups."""
    learner = simulator.SimulatedLearner(
        bucket_logits=np.linspace(4.0, -8.0, 8), learning_rate=learning_rate, seed=seed
    )
    belief = PoolBelief(learner.index)
    sampler: Posterior | Uniform = Uniform(index=learner.index, seed=seed)
    if sampler_name == "posterior":
        sampler = Posterior(index=learner.index, seed=seed, group_size=8, belief=belief)
    scores = []

    def compare(step: int, indices: object) -> None:
        believed_N = np.asarray(belief.beta(slice(None)).mean, np.float64)
        rates_N = learner.rates_N
        least = float(np.mean(rates_N * (1.0 - rates_N)))
        brier = least + float(np.mean((believed_N - rates_N) ** 2))
        error = simulator.expected_calibration_error(believed_N, rates_N)
        scores.append((error, brier, least))

    mixed = simulator.simulate(learner, sampler, belief, num_steps=NUM_STEPS, after_step=compare)
    return [*np.mean(scores[BURN_IN:], axis=0).tolist(), float(mixed[BURN_IN:].mean())]


if __name__ == "__main__":
    raise SystemExit(main())
