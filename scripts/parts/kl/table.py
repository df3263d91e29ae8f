"""From the runs of `bench_kl.py` to rows, differences and intervals. Imports no torch.

A run holds two sets of lists: `updates`, one element a step, and `curve`, one an evaluation, the
first before the first step. A difference "A vs B" is A less B on the same seeds.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from parts.kl.arms import ARMS, CONTROL_ARMS, CONTROL_NATS, MATCHED, SCHEDULES, TOLERANCE
from parts.shared import runs as shared_runs
from parts.shared.stats import Floats, last_mean, mean, paired_difference, standard_error

Run = Mapping[str, Any]
Row = dict[str, Any]

NO_PENALTY = "none"
FIGURES = ("trained", "untrained", "ref_nats")
WINDOW = 16  # Updates that are averaged where single ones are too noisy to look at.


def check_settings(runs: Sequence[Run]) -> None:
    """Refuse to put runs of one arm together that were made with different settings."""
    shared_runs.check_settings(runs, lambda run: (run["stage"], run["arm"]))


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Return one row a run, arms in their order, with its curve; what a run ends at is the mean
    over its last fifth."""
    order = {arm: place for place, arm in enumerate(ARMS)}
    rows = []
    for run in sorted(runs, key=lambda run: (order[run["arm"]], run["seed"])):
        curve, betas = run["curve"], run["updates"]["beta"]
        pool = floats(run["updates"]["pass_rate"])
        final = partial(last_mean, curve, along="step", end=run["steps"])
        rows.append(
            {
                **{key: run[key] for key in ("arm", "seed", "settings", "steps", "wall_s")},
                "trained_before": curve["trained"][0],
                "untrained_before": curve["untrained"][0],
                "trained": round(final("trained"), 5),
                "untrained": round(final("untrained"), 5),
                "ref_nats": round(final("trained_ref_nats"), 5),
                "untrained_ref_nats": round(final("untrained_ref_nats"), 5),
                "pool": round(float(np.nanmean(pool[-run["steps"] // 5 :])), 5),
                "beta": round(float(np.mean(betas)), 6),
                "curve": curve,
            }
        )
    return rows


def arm_figures(rows: Sequence[Row]) -> dict[str, Row]:
    """Return by arm what its runs came to: means over seeds, with their standard errors."""
    figures = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        figures[arm] = {"seeds": len(own)}
        for name in ("trained", "untrained", "ref_nats", "untrained_ref_nats"):
            values = [row[name] for row in own]
            figures[arm] |= {name: mean(values), f"{name}_se": standard_error(values)}
        for name in ("trained_before", "untrained_before", "pool", "beta", "wall_s"):
            figures[arm][name] = mean([row[name] for row in own])
    return figures


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return by pair ("A vs B") and figure the mean paired difference with a 95 % interval: every
    arm against no penalty, every penalty against the constant that the schedules are matched by,
    and the schedule against its reverse."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    pairs = [(arm, NO_PENALTY) for arm in arms if arm != NO_PENALTY]
    pairs += [(arm, MATCHED) for arm in arms if arm not in (NO_PENALTY, MATCHED)]
    pairs += [SCHEDULES]
    summary: dict[str, dict[str, Row]] = {}
    for own, other in pairs:
        found = {name: paired_difference(rows, own, other, name) for name in FIGURES}
        kept = {name: entry for name, entry in found.items() if entry is not None}
        if kept:
            summary[f"{own} vs {other}"] = kept
    return summary


def verdict(entry: Mapping[str, Any]) -> str:
    """Say what a difference in accuracy tells: `better`, `worse`, or nothing, when 0 lies inside
    the interval; one seed has none."""
    if entry["pairs"] > 1 and entry["ci_low"] > 0:
        return "better"
    if entry["pairs"] > 1 and entry["ci_high"] < 0:
        return "worse"
    return "not told apart"


def control_rows(runs: Sequence[Run]) -> list[Row]:
    """Return one row a run of the stage `control`, starts in their order: how its last half holds
    the target.

    Updates that trained nothing measured nothing, and count nowhere. `near` is the share of updates
    within the tolerance, `near_smoothed` that of running means.
    """
    order = {arm: place for place, arm in enumerate(CONTROL_ARMS)}
    rows = []
    for run in sorted(runs, key=lambda run: (order[run["arm"]], run["seed"])):
        updates = run["updates"]
        measured = np.asarray(updates["trained_tokens"]) > 0
        nats, betas = floats(updates["ref_nats_per_token"]), floats(updates["beta"])
        late = np.arange(len(nats)) >= len(nats) // 2
        settled = float(np.exp(np.log(betas[late]).mean()))
        ratio = float(nats[late & measured].mean()) / CONTROL_NATS
        rows.append(
            {
                **{key: run[key] for key in ("arm", "seed", "settings", "steps", "wall_s")},
                "updates": int((late & measured).sum()),
                "mean_over_target": round(ratio, 4),
                "holds": abs(ratio - 1) <= TOLERANCE,
                "near": _near(nats[late & measured]),
                "near_smoothed": _near(running_mean(nats, measured)[late]),
                "beta_start": betas[0],
                "beta_settled": round(settled, 6),
                "start_over_settled": round(betas[0] / settled, 2),
            }
        )
    return rows


def floats(values: Sequence[float | None]) -> Floats:
    """Return a list of a run's `updates` as numbers, NaN where a step did not measure it."""
    return np.asarray(values, dtype=float)


def running_mean(values: Floats, measured: Floats, *, window: int = WINDOW) -> Floats:
    """Return at each place the mean of the last `window` values that were measured; NaN before the
    first."""
    means = np.full(len(values), np.nan)
    seen: list[float] = []
    for place, value in enumerate(values):
        if measured[place]:
            seen.append(float(value))
        if seen:
            means[place] = np.mean(seen[-window:])
    return means


def _near(values: Floats) -> float:
    return round(float((np.abs(values / CONTROL_NATS - 1) <= TOLERANCE).mean()), 4)
