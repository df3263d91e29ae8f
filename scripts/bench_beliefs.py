"""What each part of the beliefs is worth: recorded runs of the real model, replayed to beliefs of
other settings.

python scripts/bench_beliefs.py [--seeds 100 101 102 103] [--cores N] [--table] [--fresh]

A recorded run (`parts/curriculum/traces.py`) is one of the task `pool` of `bench_curriculum.py`,
with what every group came to and the true pass rates of the whole pool every few steps. Beliefs
learn from its groups in their order, and say before each what they expect. Runs that are there
are not made again; replaying takes seconds. Writes its table into docs/benchmarks.md.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from parts.curriculum.arms import ROOT, Spec
from parts.curriculum.sums import pool_of
from parts.shared.docs import DOCUMENT, table, write_between
from parts.shared.runs import (
    Row,
    add_run_options,
    exit_code,
    missing_runs,
    read_row,
    run_all,
)
from parts.shared.stats import estimate
from rl_llm.curriculum import Outcomes, PoolBelief, PoolIndex
from rl_llm.errors import InputError

CHILD = "parts.curriculum.traces"
RUNS = ROOT / "docs" / "benchmarks" / "curriculum-runs"
SEEDS = (100, 101, 102, 103)  # Those on which settings are chosen.
ARMS = ("uniform", "posterior")

_ALONE = {"max_gain": 0.0, "coupling": 0.0}
SETTINGS: dict[str, Mapping[str, float]] = {
    "the defaults": {},
    "no gain": {"max_gain": 0.0},
    "no coupling": {"coupling": 0.0},
    "neither": _ALONE,
    "neither, and problems forget slower": {**_ALONE, "visit_decay": 0.9},
    "problems forget slower": {"visit_decay": 0.9},
    "buckets forget faster": {"bucket_decay": 0.8},
    "no drift": {"max_drift": 0.0},
    "no forgetting": {"visit_decay": 1.0, "bucket_decay": 1.0},
    "twice the prior strength": {"prior_strength": 6.0},
    "a third of the prior strength": {"prior_strength": 1.0},
}

Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the runs that are missing, replay all, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    add_run_options(parser, runs=RUNS)
    given = parser.parse_args(arguments)
    return exit_code(lambda: _work(given))


def _work(given: argparse.Namespace) -> int:
    seeds, runs = given.seeds or SEEDS, given.runs or RUNS
    specs = [Spec(stage="traces", task="pool", arm=arm, seed=s) for s in seeds for arm in ARMS]
    if not given.table:
        missing = missing_runs(specs, runs, fresh=given.fresh)
        if run_all(missing, child=CHILD, runs=runs, cores=given.cores, describe=_description):
            return 1
    found = table(lines([_trace(spec, runs) for spec in specs]))
    print(found)
    write_between(DOCUMENT, "beliefs", found)
    return 0


def _trace(spec: Spec, runs: Path) -> Row:
    """Return a recorded run; raise `InputError` where it is not there, or of other settings."""
    file = spec.file(runs)
    if not file.is_file():
        raise InputError(f"{file} is not there; leave --table out, so that the run is made")
    trace = read_row(file)
    if trace["settings"] != spec.settings:
        raise InputError(f"{file} is a run of other settings; add --fresh to make it anew")
    return trace


def _description(trace: Row) -> str:
    return f"{len(trace['groups'])} groups"


def lines(traces: Sequence[Row]) -> Iterator[str]:
    """Yield the table: its head, and a line a setting; differences are from the defaults, and their
    intervals are over seeds."""
    yield (
        "beliefs | log-likelihood of a group, nats | against the defaults (95 %) | "
        "distance to the true rates | of problems drawn before | of those not yet drawn"
    )
    seeds = sorted({trace["seed"] for trace in traces})
    usual = _figures(traces, seeds, {})
    for name, settings in SETTINGS.items():
        found = _figures(traces, seeds, settings)
        more, low, high = estimate((found - usual)[:, :1], lambda means: means[..., 0])
        against = "-"
        if settings:
            against = f"{more:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if low is not None else "")
        nats, *away = found.mean(axis=0)
        yield f"{name} | {nats:.3f} | {against} | " + " | ".join(f"{each:.3f}" for each in away)


def _figures(
    traces: Sequence[Row], seeds: Sequence[int], settings: Mapping[str, float]
) -> NDArray[np.float64]:
    """Return what `replayed` says of each seed (S, 4), the mean of its runs."""
    found = [(trace["seed"], list(replayed(trace, settings).values())) for trace in traces]
    return np.array([np.mean([row for own, row in found if own == seed], axis=0) for seed in seeds])


def replayed(trace: Row, settings: Mapping[str, float]) -> dict[str, float]:
    """Return how well beliefs foretell a recorded run: the mean log-likelihood of a group's number
    of correct completions, and the mean distance of believed to true pass rates over the pool."""
    spec = Spec(stage="traces", task="pool", arm=trace["arm"], seed=trace["seed"])
    recipe = spec.recipe()
    index = PoolIndex.of(pool_of(recipe, spec.seed))
    options = recipe.curriculum.belief.model_dump() | settings
    belief = PoolBelief(index, group_size=recipe.rollout.group_size, **options)
    nats: list[float] = []
    away: dict[str, list[float]] = {"all": [], "drawn": [], "undrawn": []}
    rates = {int(step): np.array(own) for step, own in trace["rates"].items()}
    for outcomes in rounds_of(trace["groups"]):
        if outcomes.step in rates:  # As they were when the step was planned.
            for name, distance in _distances(belief, rates[outcomes.step]):
                away[name].append(distance)
        before = belief.beta(outcomes.indices)
        a, b = (np.asarray(each, np.float64) for each in (before.a, before.b))
        nats += betabinom.logpmf(outcomes.num_correct, outcomes.num_counted, a, b).tolist()
        belief.observe(outcomes)
        mixed = (outcomes.num_correct > 0) & (outcomes.num_correct < outcomes.num_counted)
        belief.learn_from(outcomes.indices[mixed])
    means = {name: float(np.mean(own)) if own else np.nan for name, own in away.items()}
    return {"nats": float(np.mean(nats)), **means}


def rounds_of(groups: Sequence[Sequence[int]]) -> Iterator[Outcomes]:
    """Yield the outcomes of each step; a group is its step, position, and correct and counted
    completions."""
    groups_R4 = np.array(groups)
    for step in np.unique(groups_R4[:, 0]):
        _, position, correct, counted = groups_R4[groups_R4[:, 0] == step].T
        yield Outcomes(indices=position, num_correct=correct, num_counted=counted, step=int(step))


def _distances(belief: PoolBelief, rates_N: Floats) -> Iterator[tuple[str, float]]:
    """Yield the mean distance over all problems, over those drawn before, and over the others;
    nothing where there are none."""
    away_N = np.abs(np.asarray(belief.beta(slice(None)).mean, np.float64) - rates_N)
    drawn_N = belief.has_evidence_N
    for name, part in (("all", away_N), ("drawn", away_N[drawn_N]), ("undrawn", away_N[~drawn_N])):
        if part.size:
            yield name, float(part.mean())


if __name__ == "__main__":
    raise SystemExit(main())
