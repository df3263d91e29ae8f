"""What several plots draw: lines that smooth themselves, named line ends, numbers at points."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from rl_llm.report.canvas import INK, MUTED, label, spread
from rl_llm.report.hover import Panel
from rl_llm.report.read import Series

_SMOOTH_FROM = 60
_MOST_STRETCHES = 400
_MOST_BARS = 80
_MOST_NAMED_PLACES = 24
_MOST_LEVEL_LETTERS = 60


def line(
    panel: Panel, series: Series, colour: str, text: str | None = None, *, smooth: bool = True
) -> None:
    """Draw a series; a long one thin, with a running mean drawn bold over it, unless `smooth` is
    False: what accumulates or moves in steps has no noise to take out."""
    if not series:
        return
    marker = "o" if len(series.steps) < 3 else None
    shown = thinned(series.steps, series.values)
    if not smooth or len(series.steps) < _SMOOTH_FROM:
        panel.plot(*shown, color=colour, marker=marker, ms=4, label=text)
        panel.trace(text, colour, series.steps, series.values)
        return
    mean = running_mean(series.values)
    panel.plot(*shown, color=colour, lw=0.8, alpha=0.35)
    panel.plot(*thinned(series.steps, mean), color=colour, label=text)
    panel.trace(text, colour, series.steps, series.values, mean=mean.tolist())


def band(panel: Axes, mean: Series, error: Series, colour: str, text: str | None = None) -> None:
    """Shade one standard error on either side of a mean; nothing where none was written."""
    errors = dict(zip(error.steps, error.values, strict=True))
    half = np.array([errors.get(step, 0.0) for step in mean.steps])
    values = np.array(mean.values)
    panel.fill_between(
        mean.steps, values - half, values + half, color=colour, alpha=0.18, lw=0, label=text
    )


def thinned(
    steps: Sequence[float], values: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return points that draw the same line: of a long one the lowest and the highest of each of
    many stretches, and both ends."""
    x, y = np.asarray(steps), np.asarray(values)
    if len(x) <= 2 * _MOST_STRETCHES:
        return x, y
    kept = {0, len(x) - 1}
    borders = np.linspace(0, len(x), _MOST_STRETCHES + 1).astype(int).tolist()
    for start, end in itertools.pairwise(borders):
        stretch = y[start:end]
        kept |= {start + int(stretch.argmin()), start + int(stretch.argmax())}
    chosen = sorted(kept)
    return x[chosen], y[chosen]


def stack_bars(panel: Panel, layers: Mapping[str, tuple[Series, str]]) -> None:
    """Stack `(series, colour)` by what the legend calls them, a bar a step; a series counts 0 where
    it was not written, and long runs show means over stretches of steps. What follows two blanks is
    for the legend alone."""
    steps = sorted({step for series, _ in layers.values() for step in series.steps})
    stride = -(-len(steps) // _MOST_BARS)
    starts = steps[::stride]
    width = 0.8 * (min(np.diff(starts)) if len(starts) > 1 else 1)
    floor = np.zeros(len(starts))
    if stride > 1:
        ends = [*starts[1:], steps[-1] + 1]
        panel.places = [f"{a} to {b - 1}" for a, b in zip(starts, ends, strict=True)]
    for text, (series, colour) in layers.items():
        by_step = dict(zip(series.steps, series.values, strict=True))
        values = np.array([by_step.get(step, 0.0) for step in steps])
        heights = np.array([values[at : at + stride].mean() for at in range(0, len(steps), stride)])
        panel.bar(starts, heights, width, floor, color=colour, label=text)
        name, _, _ = text.partition("  ")
        panel.trace(name, colour, starts, heights.tolist(), dotted=False)
        floor += heights


def mark_steps(panel: Axes, steps: Sequence[int], text: str) -> None:
    """Draw a dashed upright line at each step, called `text` once in the legend."""
    for number, step in enumerate(steps):
        panel.axvline(step, color=MUTED, lw=1.0, ls=(0, (4, 2)), label="_more" if number else text)


def rises(series: Series) -> list[int]:
    """Return the steps at which a count that starts at 0 has risen."""
    before = (0.0, *series.values)
    return [
        step
        for step, last, now in zip(series.steps, before, series.values, strict=False)
        if now > last
    ]


def running_mean(values: Sequence[float]) -> np.ndarray:
    """Mean over a centred window of a twentieth of the series; the window shrinks at the ends."""
    reach = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    means: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return means


def step_edges(steps: Sequence[int]) -> np.ndarray:
    """Return the borders of cells centred on steps that need not be evenly spaced."""
    centres = np.array(steps, dtype=float)
    between = (centres[1:] + centres[:-1]) / 2
    if not len(between):
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    return np.concatenate([[first], between, [last]])


def floor_share(panel: Axes) -> None:
    """Begin a share at 0, end it at 1 or a little above its largest value."""
    high = min(1.0, max(0.02, panel.dataLim.y1 * 1.15))
    panel.set_ylim(-0.04 * high, high * 1.03)


def annotate(panel: Axes, step: float, value: float) -> None:
    """Write a share as bold percent above a point, or below it near the top."""
    above = value < 0.85
    panel.annotate(
        f"{100 * value:.1f}%",
        (step, value),
        xytext=(0, 9 if above else -9),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        color=INK,
        weight="bold",
        annotation_clip=False,
    )


def write_above(panel: Axes, places: np.ndarray, values: Sequence[float], colour: str) -> None:
    """Write shares as whole percents above bars."""
    for place, value in zip(places, values, strict=True):
        panel.text(place, value + 0.015, f"{100 * value:.0f}", ha="center", size=7.5, color=colour)


def name_places(panel: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... on the horizontal axis.

    Slanted where names are long; some are left out where there are very many.
    """
    stride = -(-len(names) // _MOST_NAMED_PLACES)
    shown = [label(name, longest=14) for name in names[::stride]]
    panel.set_xticks(range(0, len(names), stride), shown)
    if len(shown) * max(map(len, shown)) > _MOST_LEVEL_LETTERS:
        panel.tick_params(axis="x", rotation=35)
        for text in panel.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def name_line_ends(
    panel: Axes, levels: Mapping[str, Series], colours: Sequence[str]
) -> list[Annotation]:
    """Name each line right of its end, in its colour, moved apart where ends meet."""
    names = []
    ends = [series.values[-1] for series in levels.values()]
    heights = spread(ends, gap=0.062, low=0.0, high=1.0)
    right = max(series.steps[-1] for series in levels.values())
    for name, height, end, colour in zip(levels, heights, ends, colours, strict=True):
        text = panel.annotate(
            f"level {label(name)}  {100 * end:.0f}%",
            (right, end),
            xytext=(1.025, height),
            textcoords=("axes fraction", "data"),
            va="center",
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "alpha": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )
        names.append(text)
    panel.margins(x=0.02)
    return names
