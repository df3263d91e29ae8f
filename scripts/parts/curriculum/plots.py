"""The plots of docs/benchmarks.md on the curriculum: learning curves, and ratios with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from parts.curriculum.table import BASELINE, BEST, OPPONENTS, Floats
from parts.shared.pictures import mark_target
from rl_llm.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    VIOLET,
    canvas,
    legend_above,
)
from rl_llm.report.marks import floor_share

Row = Mapping[str, Any]

COLOURS = {
    "posterior": BLUE,
    "posterior-refill": VIOLET,
    "dynamic": ORANGE,
    BASELINE: GREY,
    BEST: GREEN,
}
POINTS = 65  # Of the grid on which the curves of different seeds are averaged.


def draw(tree: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots of every task that there are rows of, and return their files."""
    files = []
    for task, figures in tree["arms"].items():
        rows = [row for row in tree["rows"] if row["task"] == task]
        files.append(folder / f"curriculum-{task}-curves.png")
        _draw_curves(rows, list(figures), tree["targets"][task], files[-1])
        if tree["summary"][task]:
            files.append(folder / f"curriculum-{task}-ratios.png")
            _draw_ratios(tree["summary"][task], files[-1])
    return files


def _draw_curves(rows: Sequence[Row], arms: Sequence[str], target: float, file: Path) -> None:
    """Draw pass rate and informative share over completions: means over seeds, with a band of one
    standard error either way for the arms in colour."""
    with canvas(file.stem, size=(8.4, 6.6), heights=(3, 2)) as drawn:
        rates, shares = drawn.panels
        for arm in sorted(arms, key=lambda name: name in COLOURS):
            own = [row["curve"] for row in rows if row["arm"] == arm]
            _line(rates, arm, _on_grid(own, "pass_rate"), drop_first=False)
            _line(shares, arm, _on_grid(own, "informative_share"), drop_first=True)
        mark_target(rates, target)
        for panel, label in ((rates, "held-out pass rate"), (shares, "informative share")):
            panel.set_ylabel(label)
            panel.yaxis.set_major_locator(MaxNLocator(6))
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        floor_share(shares)
        shares.set_xlabel("generated completions")
        shares.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        legend_above(rates, columns=6)
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _line(panel: Axes, arm: str, found: tuple[Floats, Floats, Floats], *, drop_first: bool) -> None:
    """Draw an arm's mean; those that have no colour of their own share a thin grey."""
    grid, mean, error = (values[1:] if drop_first else values for values in found)
    if arm not in COLOURS:
        unnamed = not any(line.get_label() == "other arms" for line in panel.lines)
        label = "other arms" if unnamed else None
        panel.plot(grid, mean, color=GREY, lw=0.9, alpha=0.6, label=label)
        return
    style = (0, (5, 2)) if arm in (BASELINE, BEST) else "-"
    panel.plot(grid, mean, color=COLOURS[arm], ls=style, label=arm)
    panel.fill_between(grid, mean - error, mean + error, color=COLOURS[arm], alpha=0.15, lw=0)


def _on_grid(curves: Sequence[Row], name: str) -> tuple[Floats, Floats, Floats]:
    """Return a grid of completions, and the mean and the standard error of the curves on it."""
    last = min(curve["completions"][-1] for curve in curves)
    grid = np.linspace(0, last, POINTS)
    values = np.array([_interpolated(curve, name, grid) for curve in curves])
    scale = np.sqrt(len(values))
    error = values.std(axis=0, ddof=1) / scale if len(values) > 1 else np.zeros(POINTS)
    return grid, values.mean(axis=0), error


def _interpolated(curve: Row, name: str, grid: Floats) -> Floats:
    known = [i for i, value in enumerate(curve[name]) if value is not None]
    found: Floats = np.interp(
        grid, [curve["completions"][i] for i in known], [curve[name][i] for i in known]
    )
    return found


def _draw_ratios(pairs: Mapping[str, Row], file: Path) -> None:
    """Draw the ratios of all pairs as points with intervals, from the top down."""
    names = list(pairs)
    with canvas(file.stem, size=(7.2, 0.9 + 0.27 * len(names))) as drawn:
        panel = drawn.panels[0]
        for place, name in zip(_places(names), names, strict=True):
            entry = pairs[name]
            colour = COLOURS.get(name.split(" vs ")[0], GREY)
            panel.plot(_ends(entry), [place, place], color=colour, lw=2.2)
            panel.plot([entry["ratio"]], [place], "o", color=colour, ms=5.5)
            panel.annotate(
                f"{entry['ratio']:.2f}",
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                annotation_clip=False,
            )
        panel.axvline(1.0, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        panel.set_yticks(_places(names), names)
        panel.set_ylim(min(_places(names)) - 0.8, max(_places(names)) + 0.8)
        panel.set_xscale("log")
        _ratio_ticks(panel, pairs.values())
        panel.set_xlabel("times fewer rollouts to the target (95 % interval over seeds)")
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _places(names: Sequence[str]) -> list[float]:
    """Return a height for each pair, highest first, with a gap where another set of pairs
    begins."""
    kinds = [first if (first := name.split(" vs ")[0]) in OPPONENTS else "" for name in names]
    steps = [1.6 if kind != before else 1.0 for before, kind in pairwise(kinds)]
    return [-sum(steps[:place]) for place in range(len(names))]


def _ends(entry: Row) -> tuple[float, float]:
    """Return the ends of an interval; of one pair, which has none, the ratio itself."""
    if entry["ci_low"] is None:
        return entry["ratio"], entry["ratio"]
    return entry["ci_low"], entry["ci_high"]


def _ratio_ticks(panel: Axes, entries: Iterable[Row]) -> None:
    """Span every interval, with plain numbers at round ratios."""
    bounds = [bound for entry in entries for bound in _ends(entry)]
    low, high = min(0.9, *bounds) * 0.95, max(1.1, *bounds) * 1.05
    panel.set_xlim(low, high)
    ticks = [t for t in (0.25, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 4, 6, 8) if low < t < high]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
