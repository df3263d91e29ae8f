"""From the runs of `bench_curriculum.py` to rows, ratios and intervals. Imports no torch.

A run holds its learning curve: lists of one length by name (`completions`, `tokens`, `pass_rate`,
`informative_share`, `level=1` ...), one element an evaluation, the first before the first step. A
ratio "A vs B" is B's rollouts divided by A's, so more than 1 means that A needs fewer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parts.shared import runs as shared_runs
from parts.shared.stats import (
    Floats,
    estimate,
    geometric_mean,
    last_mean,
    mean,
    paired,
    standard_error,
)
from rl_llm.errors import InputError

Run = Mapping[str, Any]
Row = dict[str, Any]

_KEPT = ("task", "arm", "seed", "settings", "commit", "budget", "lr")
BASELINE, BEST = "uniform", "oracle"
_OTHERS = (BASELINE, "dynamic", "posterior", BEST)
OPPONENTS = {
    "posterior": None,
    "posterior-flat": _OTHERS,
    "posterior-untracked": _OTHERS,
    "posterior-refill": _OTHERS,
}
EASIER = 0.9  # Of the target: a second level, to see whether ratios hang on the first.


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a curve first reaches a level."""

    completions: float
    tokens: float


def smoothed(values: Sequence[float]) -> Floats:
    """Return the centred running mean of 3 values; of 2 at either end."""
    given = np.asarray(values, np.float64)
    count = np.convolve(np.ones(len(given)), np.ones(3), "same")
    means: Floats = np.convolve(given, np.ones(3), "same") / count
    return means


def crossing(curve: Mapping[str, Sequence[float]], target: float) -> Crossing | None:
    """Return where the smoothed pass rate first reaches `target`, between evaluations by straight
    lines; None if it never does.

    Raises `InputError` for a curve that starts there: nothing was learnt on the way.
    """
    rates = smoothed(curve["pass_rate"])
    reached = np.flatnonzero(rates >= target)
    if not reached.size:
        return None
    after = int(reached[0])
    if after == 0:
        raise InputError(
            f"the pass rate starts at {rates[0]:.3f}, which the target {target:.3f} does not "
            "exceed; train longer, or at another learning rate, so that there is something to reach"
        )
    part = (target - rates[after - 1]) / (rates[after] - rates[after - 1])

    def between(name: str) -> float:
        low, high = curve[name][after - 1], curve[name][after]
        return float(low + part * (high - low))

    return Crossing(completions=between("completions"), tokens=between("tokens"))


def final(run: Run, name: str = "pass_rate") -> float:
    """Return the mean of the evaluations in the last fifth of a run's budget."""
    return last_mean(run["curve"], name, along="completions", end=run["budget"])


def informative_share(run: Run, *, after: float = 0.0, until: float = np.inf) -> float:
    """Return the share of a run's completions that stood in informative groups, between two shares
    of its budget."""
    completions = np.asarray(run["curve"]["completions"], np.float64)
    shares = np.asarray(run["curve"]["informative_share"][1:], np.float64)
    middle = (completions[1:] + completions[:-1]) / 2 / run["budget"]
    spent = np.diff(completions) * ((middle > after) & (middle <= until))
    return float((shares * spent).sum() / spent.sum())


def targets(runs: Sequence[Run]) -> dict[str, float]:
    """Return by task the level that every arm has to reach: what `uniform` comes to."""
    found = {}
    for task in dict.fromkeys(run["task"] for run in runs):
        finals = [final(r) for r in runs if (r["task"], r["arm"]) == (task, BASELINE)]
        if finals:
            found[task] = round(float(np.mean(finals)), 5)
    return found


def rows_of(runs: Sequence[Run], levels: Mapping[str, float]) -> list[Row]:
    """Return one row a run of the tasks that have a target, with its curve.

    A run that never reaches the target is `censored` and stands at what it spent.
    """
    rows = []
    for run in runs:
        if run["task"] not in levels:
            continue
        curve = run["curve"]
        found = crossing(curve, levels[run["task"]])
        spent = Crossing(completions=curve["completions"][-1], tokens=curve["tokens"][-1])
        reached = found or spent
        easier = crossing(curve, EASIER * levels[run["task"]]) or spent
        rows.append(
            {
                **{key: run[key] for key in _KEPT},
                "rollouts_to_target": round(reached.completions, 1),
                "tokens_to_target": round(reached.tokens, 1),
                "rollouts_to_easier": round(easier.completions, 1),
                "censored": found is None,
                "informative_share": round(informative_share(run), 4),
                "informative_by_half": [
                    round(informative_share(run, until=0.5), 4),
                    round(informative_share(run, after=0.5), 4),
                ],
                "final": round(final(run), 5),
                "above": round(final(run, _level_above(run)), 5),
                "steps": run["steps"],
                "wall_s": run["wall_s"],
                "pool": run["pool"],
                "curve": curve,
            }
        )
    return rows


def _level_above(run: Run) -> str:
    """Return the name of the highest level, which is evaluated and never trained on."""
    return max(
        (name for name in run["curve"] if name.startswith("level=")),
        key=lambda name: int(name.removeprefix("level=")),
    )


def check_settings(runs: Sequence[Run]) -> None:
    """Refuse to put runs of one arm together that were made with different settings."""
    shared_runs.check_settings(runs, lambda run: (run["task"], run["arm"], run["lr"]))


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return by task and pair ("A vs B") the geometric mean of the paired ratios, in rollouts, in
    tokens, and in rollouts to the easier level, with 95 % intervals."""
    summary: dict[str, dict[str, Row]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        arms = list(dict.fromkeys(row["arm"] for row in rows if row["task"] == task))
        pairs = [
            (own, arm)
            for own, opponents in OPPONENTS.items()
            for arm in opponents or arms
            if own in arms and arm in arms and arm != own
        ]
        pairs += [(arm, BASELINE) for arm in arms if arm not in (*OPPONENTS, BASELINE)]
        summary[task] = {}
        for better, other in pairs:
            if entry := _pair(rows, task, better, other):
                summary[task][f"{better} vs {other}"] = entry
    return summary


def _pair(rows: Sequence[Row], task: str, better: str, other: str) -> Row | None:
    both = paired(_of_task(rows, task), (better, other))
    if not both:
        return None
    entry: Row = {
        "pairs": len(both),
        "censored": sum(seed_rows[better]["censored"] for seed_rows in both),
        "censored_other": sum(seed_rows[other]["censored"] for seed_rows in both),
    }
    for prefix, key in (
        ("", "rollouts_to_target"),
        ("tokens_", "tokens_to_target"),
        ("easier_", "rollouts_to_easier"),
    ):
        logs = np.array([np.log(s[other][key] / s[better][key]) for s in both])
        found = estimate(logs[:, None], lambda means: means[..., 0], shown_as=np.exp)
        entry |= zip(
            (f"{prefix}{name}" for name in ("ratio", "ci_low", "ci_high")), found, strict=True
        )
    return entry


def gains(rows: Sequence[Row], task: str) -> dict[str, Row]:
    """Return by arm the share of the oracle's gain over `uniform`, in logarithms of rollouts."""
    found = {}
    for arm in dict.fromkeys(row["arm"] for row in rows if row["task"] == task):
        if arm in (BASELINE, BEST) or not (
            seeds := paired(_of_task(rows, task), (arm, BASELINE, BEST))
        ):
            continue
        logs = np.log([[row["rollouts_to_target"] for row in seed.values()] for seed in seeds])
        gains_SM = logs[:, [1]] - logs[:, [0, 2]]
        share = estimate(gains_SM, lambda means: means[..., 0] / means[..., 1])
        found[arm] = dict(zip(("share", "ci_low", "ci_high"), share, strict=True))
    return found


def arm_figures(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return by task and arm what its runs came to: means over seeds, rollouts geometric."""
    figures: dict[str, dict[str, Row]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        shares = gains(rows, task)
        figures[task] = {}
        for arm in dict.fromkeys(row["arm"] for row in rows if row["task"] == task):
            own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            finals = [row["final"] for row in own]
            figures[task][arm] = {
                "seeds": len(own),
                "censored": sum(row["censored"] for row in own),
                "rollouts_to_target": geometric_mean([row["rollouts_to_target"] for row in own]),
                "tokens_to_target": geometric_mean([row["tokens_to_target"] for row in own]),
                "informative_share": mean([row["informative_share"] for row in own]),
                "informative_by_half": [
                    mean([row["informative_by_half"][half] for row in own]) for half in (0, 1)
                ],
                "final": mean(finals),
                "final_se": standard_error(finals),
                "above": mean([row["above"] for row in own]),
                "steps": mean([row["steps"] for row in own]),
                "wall_s": mean([row["wall_s"] for row in own]),
                **({"oracle_gain": shares[arm]} if arm in shares else {}),
            }
    return figures


def learning_rates(runs: Sequence[Run]) -> dict[str, Row]:
    """Return by learning rate the final levels of `uniform`."""
    found = {}
    for lr in sorted({run["lr"] for run in runs}):
        finals = [round(final(run), 5) for run in runs if run["lr"] == lr]
        found[f"{lr:g}"] = {"finals": finals, "mean": mean(finals)}
    return found


def _of_task(rows: Sequence[Row], task: str) -> list[Row]:
    return [row for row in rows if row["task"] == task]
