"""What the benchmarks that make many runs share in arithmetic: seeds that several arms have, means
over them, and intervals by resampling them. Imports no torch.

Legend: S seeds, M measured values of each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_llm.seeds import derive_rng

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

NUM_RESAMPLES = 10_000
LAST_SHARE = 0.2  # The final level is the mean over this last part of a run.


def paired(rows: Sequence[Row], arms: Sequence[str]) -> list[dict[str, Row]]:
    """Return, for each seed that all arms have, their rows by arm, in the order of `arms`."""
    by_run = {(row["arm"], row["seed"]): row for row in rows}
    seeds = sorted({seed for _, seed in by_run})
    return [
        {arm: by_run[arm, seed] for arm in arms}
        for seed in seeds
        if all((arm, seed) in by_run for arm in arms)
    ]


def estimate(
    values_SM: Floats, statistic: Callable[[Floats], Floats], *, stream: str
) -> tuple[float, float, float]:
    """Return a statistic of the means over seeds, and the 2.5 and 97.5 % points of it over
    resampled seeds; `stream` names the benchmark, whose draws are always the same."""
    rng = derive_rng(stream, "bootstrap")
    drawn = rng.integers(0, len(values_SM), size=(NUM_RESAMPLES, len(values_SM)))
    low, high = np.quantile(statistic(values_SM[drawn].mean(axis=1)), [0.025, 0.975])
    point = float(statistic(values_SM.mean(axis=0)))
    return round(point, 4), round(float(low), 4), round(float(high), 4)


def paired_difference(
    rows: Sequence[Row], own: str, other: str, name: str, *, stream: str
) -> dict[str, Any] | None:
    """Return the mean over common seeds of `own` less `other` in the figure `name`, with a 95 %
    interval; None without a common seed."""
    both = paired(rows, (own, other))
    if not both:
        return None
    values = np.array([[seed[own][name] - seed[other][name]] for seed in both], np.float64)
    found = estimate(values, lambda means: means[..., 0], stream=stream)
    return {"pairs": len(both)} | dict(zip(("difference", "ci_low", "ci_high"), found, strict=True))


def last_mean(curve: Mapping[str, Sequence[float]], name: str, *, along: str, end: float) -> float:
    """Return the mean of a curve's points in the last fifth of a run that goes to `end` in
    `along`."""
    late = np.asarray(curve[along]) > (1 - LAST_SHARE) * end
    return float(np.asarray(curve[name], np.float64)[late].mean())


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 of one value alone, which tells none."""
    if len(values) < 2:
        return 0.0
    return round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 5)


def mean(values: Sequence[float] | Floats) -> float:
    """Return the mean, to 5 decimals."""
    return round(float(np.mean(values)), 5)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, to 1 decimal."""
    return round(float(np.exp(np.log(values).mean())), 1)
