"""What the benchmarks that make many runs share in arithmetic: seeds that several arms have, means
over them, and their intervals. Imports no torch.

Legend: S seeds, M measured values of each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

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
    values_SM: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    shown_as: Callable[[Floats], Floats] = np.asarray,
) -> tuple[float, float | None, float | None]:
    """Return a statistic of the means over seeds, and the ends of its 95 % interval, both passed
    through `shown_as`; one seed alone has no interval.

    The interval is Student's t on the jackknife's standard error: of a mean, the usual one.
    Resampling so few seeds would give intervals that are too narrow.
    """
    point = float(statistic(values_SM.mean(axis=0)))
    size = len(values_SM)
    if size < 2:
        return _rounded(shown_as, point), None, None
    rest_SM = (values_SM.sum(axis=0) - values_SM) / (size - 1)
    left_out_S = statistic(rest_SM)
    error = np.sqrt((size - 1) * np.var(left_out_S))
    reach = float(stats.t.ppf(0.975, size - 1) * error)
    low, high = point - reach, point + reach
    return _rounded(shown_as, point), _rounded(shown_as, low), _rounded(shown_as, high)


def _rounded(shown_as: Callable[[Floats], Floats], value: float) -> float:
    return round(float(shown_as(np.float64(value))), 4)


def paired_difference(
    rows: Sequence[Row], own: str, other: str, name: str
) -> dict[str, Any] | None:
    """Return the mean over common seeds of `own` less `other` in the figure `name`, with a 95 %
    interval; None without a common seed."""
    both = paired(rows, (own, other))
    if not both:
        return None
    values = np.array([[seed[own][name] - seed[other][name]] for seed in both], np.float64)
    found = estimate(values, lambda means: means[..., 0])
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
