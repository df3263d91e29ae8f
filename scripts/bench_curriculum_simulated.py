"""Where the rollouts go that the oracle saves: samplers on a simulated learner, and what each kind
of knowledge would be worth to the posterior one.

python scripts/bench_curriculum_simulated.py [--seeds 20] [--dry]

The learner (`parts/curriculum/sums.py`) stands for the model of the pool task of
`bench_curriculum.py`; recipe, scheduler and pool are the same. Imports no torch, takes minutes, and
writes its table into docs/benchmarks.md.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from parts.curriculum.arms import ARMS as BENCHED
from parts.curriculum.arms import BUDGET, RECIPE
from parts.curriculum.sums import Curve, SumsLearner, World, play, pool_of, skills_of
from parts.shared.docs import DOCUMENT, table, write_between
from parts.shared.stats import estimate
from rl_llm.config import load_recipe
from rl_llm.curriculum import SAMPLERS, BetaBelief, PoolBelief, Posterior, informative_probability
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.seeds import derive_rng

FIRST_SEED = 200
TARGET = 0.79  # About what `uniform` comes to.
CERTAIN = 1e4  # Completions that a known pass rate is worth.

Knows = Literal["all", "drawn", "undrawn", "levels"]

_PLAIN = ("curriculum.retire=null", "curriculum.defer=null")
_GATED = ("curriculum.gates=[{name: informative}]", "curriculum.refill={max_rounds: 0}", *_PLAIN)
ARMS: dict[str, tuple[str, ...]] = {
    "uniform": BENCHED["uniform"],
    "dynamic": BENCHED["dynamic"],
    "oracle": BENCHED["oracle"],
    "oracle, of the whole pool": ("curriculum.sampler={name: oracle, candidates: 1000}", *_GATED),
    "posterior": (),
    "posterior-untracked": BENCHED["posterior-untracked"],
    "kernel `flat`": BENCHED["posterior-flat"],
    "kernel `variance`": ("curriculum.sampler.kernel=variance",),
    "without a floor": ("curriculum.sampler.floor=0.0",),
    "without gain": ("curriculum.belief.max_gain=0.0",),
    "without coupling": ("curriculum.belief.coupling=0.0",),
    "problems forget slower": ("curriculum.belief.visit_decay=0.9",),
    "without retirement and deferral": _PLAIN,
    "knows all pass rates": ("curriculum.sampler={name: knowing, knows: all}",),
    "knows those drawn before": ("curriculum.sampler={name: knowing, knows: drawn}",),
    "knows those not yet drawn": ("curriculum.sampler={name: knowing, knows: undrawn}",),
    "knows how each level does on average": ("curriculum.sampler={name: knowing, knows: levels}",),
}


class Knowing(Posterior):
    """The posterior sampler, told the true pass rates of some problems."""

    world: ClassVar[World]

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        group_size: int,
        belief: PoolBelief,
        knows: Knows,
    ) -> None:
        """Take what is told for sure, and the belief for the rest."""
        told = _Told(belief, type(self).world, knows, index.bucket_ids)
        super().__init__(index=index, seed=seed, group_size=group_size, belief=told)  # type: ignore[arg-type]


class _Told:
    """Beliefs as a sampler reads them, some of them replaced by the truth: by a problem's own pass
    rate or, of a problem that was never drawn, by the mean of its level, a bucket of `ids_N`."""

    def __init__(
        self, belief: PoolBelief, world: World, knows: Knows, ids_N: NDArray[np.integer]
    ) -> None:
        self._belief, self._world, self._knows, self._ids_N = belief, world, knows, ids_N

    def beta(self, where: Indices | slice) -> BetaBelief:
        believed, drawn = self._belief.beta(where), self._belief.has_evidence(where)
        told = drawn if self._knows == "drawn" else ~drawn
        if self._knows == "all":
            told = np.ones_like(drawn)
        rates_N, strength = self._world.rates_N(), CERTAIN
        if self._knows == "levels":
            means_K = np.bincount(self._ids_N, rates_N) / np.bincount(self._ids_N)
            rates_N, strength = means_K[self._ids_N], self._belief.prior_strength
        rates = np.clip(rates_N[where], 1e-6, 1.0 - 1e-6)
        return BetaBelief(
            np.where(told, strength * rates, believed.a),
            np.where(told, strength * (1.0 - rates), believed.b),
        )


class Oracle:
    """The oracle of `parts/curriculum/oracle.py`: of `candidates` times as many problems as a step
    needs, take those whose groups are most probably mixed."""

    world: ClassVar[World]

    def __init__(self, *, seed: int, group_size: int, candidates: int = 4) -> None:
        """Remember nothing else."""
        self._seed, self._group_size, self._candidates = seed, group_size, candidates

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return the best of the candidates, best first."""
        rates_N = type(self).world.rates_N()
        eligible = np.arange(len(rates_N)) if exclude is None else np.flatnonzero(~exclude)
        rng = derive_rng(self._seed, "sampler", step, round)
        count = min(self._candidates * num_problems, len(eligible))
        chosen = rng.choice(eligible, count, replace=False)
        rates = np.clip(rates_N[chosen], 1e-9, 1.0 - 1e-9)
        scores = informative_probability(
            CERTAIN * rates, CERTAIN * (1.0 - rates), group_size=self._group_size
        )
        return chosen[np.argsort(-scores, kind="stable")[:num_problems]]

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing."""

    def state_dict(self) -> StateDict:
        """Return nothing."""
        return {"columns": {}, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print alone")
    given = parser.parse_args(arguments)
    found = table(lines(given.seeds))
    print(found)
    if not given.dry:
        write_between(DOCUMENT, "simulated", found)
    return 0


def lines(num_seeds: int) -> Iterator[str]:
    """Yield the table: its head, and a line an arm."""
    yield (
        "arm | rollouts to target | against `posterior` (95 %) | "
        "mixed, first 1,024 | first half | whole run"
    )
    seeds = range(FIRST_SEED, FIRST_SEED + num_seeds)
    curves = {arm: [simulated(arm, seed) for seed in seeds] for arm in ARMS}
    logs = {arm: np.log([crossing(curve) for curve in own]) for arm, own in curves.items()}
    for arm, own in curves.items():
        ratio, low, high = estimate(
            (logs[arm] - logs["posterior"])[:, None], lambda means: means[..., 0], shown_as=np.exp
        )
        against = (
            "-" if arm == "posterior" or low is None else f"{ratio:.2f} ({low:.2f}-{high:.2f})"
        )
        shares = [np.mean([mixed(c, until) for c in own]) for until in (1024, BUDGET // 2, BUDGET)]
        yield f"{arm} | {np.exp(logs[arm].mean()):,.0f} | {against} | " + " | ".join(
            f"{share:.2f}" for share in shares
        )


def simulated(arm: str, seed: int, *, budget: int = BUDGET) -> Curve:
    """Return how a run goes."""
    SAMPLERS["knowing"], SAMPLERS["oracle"] = Knowing, Oracle
    recipe = load_recipe(Path(RECIPE), (f"run.seed={seed}", *ARMS[arm]))
    problems = pool_of(recipe, seed)
    world = World(learner=SumsLearner(seed=seed), pool=[skills_of(each) for each in problems])
    Knowing.world = Oracle.world = world
    return play(recipe, world, problems, budget=budget)


def crossing(curve: Curve) -> float:
    """Return after how many completions the target is reached, between points by straight lines;
    what was spent where it never is."""
    reached = np.flatnonzero(curve.pass_rate >= TARGET)
    if not reached.size:
        return float(curve.completions[-1])
    ends = slice(reached[0] - 1, reached[0] + 1)
    return float(np.interp(TARGET, curve.pass_rate[ends], curve.completions[ends]))


def mixed(curve: Curve, until: float) -> float:
    """Return the share of mixed groups among the first completions."""
    spent = np.diff(curve.completions, prepend=0.0) * (curve.completions <= until)
    return float(curve.mixed @ spent / spent.sum())


if __name__ == "__main__":
    raise SystemExit(main())
