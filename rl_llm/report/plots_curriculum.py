"""Plots of what the curriculum believed, drew and dropped, each empty text where the run has no
data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rl_llm.records import level_order
from rl_llm.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    VIOLET,
    WIDE,
    canvas,
    from_zero,
    label,
    legend_above,
    percent_axis,
    ramp,
    share_ramp,
    step_axis,
)
from rl_llm.report.marks import floor_share, line, stack_bars, step_edges, thinned
from rl_llm.report.panels import shares_over_steps, two_panels
from rl_llm.report.read import RunRecord, Series, is_finite

_GROUPS = "curriculum/groups/"
_MOST_BUCKETS = 12
_LONGEST_SOURCE, _LONGEST_LEVEL = 14, 12  # Letters of a name in a legend.
_LARGEST_DOT = 260


def belief_heatmap(run: RunRecord) -> str:
    """How the pool's prompts spread over believed pass rates, step by step, with their mean."""
    histograms = [
        (step, counts)
        for step, counts in run.histograms("curriculum/belief_histogram")
        if sum(counts) > 0  # all 0 says that the sampler keeps no beliefs
    ]
    if not histograms:
        return ""
    with canvas("beliefs", size=(WIDE[0], 3.6)) as drawn:
        panel = drawn.panels[0]
        steps = [step for step, _ in histograms]
        share = np.array([counts for _, counts in histograms]).T
        share = share / share.sum(axis=0, keepdims=True)
        edges = np.linspace(0, 1, len(share) + 1)
        # A square root lets bins with a few percent be seen beside bins with most of the pool.
        norm = PowerNorm(0.5, vmin=0, vmax=share.max())
        mesh = panel.pcolormesh(
            step_edges(steps), edges, share, cmap=share_ramp(), norm=norm, rasterized=True
        )
        mean = run.series("curriculum/belief_mean")
        panel.plot(
            *thinned(mean.steps, mean.values), color=ORANGE, lw=2.2, label="mean over the pool"
        )
        if mean:
            panel.trace("mean over the pool", ORANGE, mean.steps, mean.values)
        for low, high, row in reversed(list(zip(edges[:-1], edges[1:], share, strict=True))):
            text = f"pool at {100 * low:.0f} to {100 * high:.0f} %"
            panel.trace(text, BLUE, steps, row.tolist(), dotted=False)
        percent_axis(panel, "believed pass rate")
        panel.set_ylim(0, 1)
        panel.set_yticks(edges[:: max(1, len(share) // 5)])
        panel.grid(visible=False)
        step_axis(panel)
        bar = drawn.figure.colorbar(mesh, ax=panel, pad=0.015, aspect=30)
        bar.set_label("share of the pool")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        legend_above(panel)
    return drawn.svg


def informative_share(run: RunRecord) -> str:
    """The share of generated groups that can teach, beside the pass rate as scheduled."""
    lines = {
        "informative groups": (run.series("train/informative_share"), BLUE),
        "pass rate of scheduled prompts": (run.series("train/pass_rate"), GREEN),
    }
    return shares_over_steps("informative", lines, "share", full=True)


def coverage(run: RunRecord) -> str:
    """How much of the pool has been drawn, and how many groups were admitted to the update."""
    visited, admitted = run.series("curriculum/visited_share"), run.series("train/groups_admitted")
    return two_panels(
        "coverage",
        (visited, "pool visited", VIOLET, True),
        (admitted, "groups admitted", ORANGE, False),
    )


def learnt_and_dropped(run: RunRecord) -> str:
    """The share of completions whose group was learnt from, and what has been dropped so far."""
    share = run.series("curriculum/admitted_share")
    spent, dropped = run.series("rollout/completions"), run.series("rollout/dropped_completions")
    if not (share and dropped):
        return ""
    with canvas("yield", heights=(1, 1)) as drawn:
        top, bottom = drawn.panels
        line(top, share, BLUE)
        percent_axis(top, "learnt from")
        floor_share(top)
        line(bottom, spent, GREEN, "generated", smooth=False)
        line(bottom, dropped, ORANGE, "dropped", smooth=False)
        from_zero(bottom, "completions")
        step_axis(bottom)
        legend_above(bottom)
    return drawn.svg


def reliability(run: RunRecord) -> str:
    """What was believed of drawn problems against what came of them, in the newest row; a dot's
    area says how many completions it stands for."""
    bins = [row.get("curriculum/calibration_bins") for row in run.rows]
    newest = _filled(next((found for found in reversed(bins) if found), []))
    if not newest:
        return ""
    completions, predicted, observed = map(np.array, zip(*newest, strict=True))
    with canvas("reliability") as drawn:
        panel = drawn.panels[0]
        panel.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls=(0, (4, 3)), label="as believed")
        panel.plot(predicted, observed, color=BLUE, lw=1.2, alpha=0.5)
        panel.trace(None, BLUE, predicted.tolist(), observed.tolist())
        area = _LARGEST_DOT * completions / completions.max()
        panel.scatter(predicted, observed, np.maximum(area, 8), color=BLUE, lw=0, zorder=3)
        percent_axis(panel, "observed pass rate", full=True)
        panel.set_ylim(-0.05, 1.05)
        panel.set_xlim(-0.03, 1.03)
        panel.set_xlabel("believed pass rate")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        panel.grid(axis="x", visible=True)
        legend_above(panel)
    return drawn.svg


def calibration(run: RunRecord) -> str:
    """How far beliefs are from what came of them over steps, and their squared errors."""
    gap = run.series("curriculum/calibration_error")
    errors = {
        "of a pass rate": (run.series("curriculum/brier"), BLUE),
        "of a mixed group": (run.series("curriculum/informative_brier"), ORANGE),
    }
    if not (gap and any(series for series, _ in errors.values())):
        return ""
    with canvas("calibration", heights=(1, 1)) as drawn:
        top, bottom = drawn.panels
        line(top, gap, VIOLET)
        percent_axis(top, "calibration\nerror")
        floor_share(top)
        for text, (series, colour) in errors.items():
            line(bottom, series, colour, text)
        from_zero(bottom, "squared\nerror")
        step_axis(bottom)
        legend_above(bottom)
    return drawn.svg


def groups_per_bucket(run: RunRecord) -> str:
    """Groups generated in each step, stacked by source and level."""
    names = sorted(run.names_between(_GROUPS), key=_bucket_order)
    series = {name: run.series(_GROUPS + name) for name in names}
    series = {name: found for name, found in series.items() if found}
    if not series:
        return ""
    by_size = sorted(series, key=lambda name: -series[name].total)
    shown = [name for name in series if name in by_size[:_MOST_BUCKETS]]
    colours = ramp(len(shown))
    is_one_source = len({name.rpartition("/level=")[0] for name in series}) == 1
    layers = {
        text: (series[name], colour)
        for text, name, colour in zip(
            _bucket_labels(shown, is_one_source=is_one_source), shown, colours, strict=True
        )
    }
    if rest := [series[name] for name in by_size[_MOST_BUCKETS:]]:
        layers[f"{len(rest)} others"] = (_sum(rest), GREY)
    with canvas("buckets", size=(WIDE[0], 3.2)) as drawn:
        panel = drawn.panels[0]
        stack_bars(panel, layers)
        panel.set_ylabel("groups / step")
        step_axis(panel)
        legend_above(panel, columns=8 if is_one_source else 5)
    return drawn.svg


def _bucket_labels(names: Sequence[str], *, is_one_source: bool) -> list[str]:
    """Return a name for each bucket that a plot can hold, no two alike: levels stay whole, and
    sources are cut."""
    texts: list[str] = []
    for name in names:
        source, _, level = name.rpartition("/level=")
        level = label(level, longest=_LONGEST_LEVEL)
        cut = label(source, longest=_LONGEST_SOURCE)
        text = f"level {level}" if is_one_source else f"{cut}/level={level}"
        texts.append(text if text not in texts else f"{text} ({len(texts) + 1})")
    return texts


def standing(run: RunRecord) -> str:
    """How many prompts are retired and deferred, how many groups were reviews or drawn for want of
    others, and how many buckets wait for their prerequisites."""
    retired, deferred = (run.series(f"curriculum/{name}_count") for name in ("retired", "deferred"))
    reviews, spares, locked = (
        run.series(f"curriculum/{name}")
        for name in ("review_groups", "spare_groups", "locked_buckets")
    )
    if not (retired or deferred):
        return ""
    below = [(reviews, "reviews\n/ step", BLUE, True)] if reviews else []
    below += [(spares, "spares\n/ step", GREY, True)] if spares.total > 0 else []
    below += [(locked, "locked\nbuckets", PINK, False)] if locked.total > 0 else []
    heights = (1.6, *[1.0] * len(below))
    with canvas("standing", size=(WIDE[0], 3.6), heights=heights) as drawn:
        top, *others = drawn.panels
        line(top, retired, GREEN, "retired", smooth=False)
        line(top, deferred, ORANGE, "deferred", smooth=False)
        from_zero(top, "prompts")
        legend_above(top)
        for panel, (series, text, colour, smooth) in zip(others, below, strict=True):
            line(panel, series, colour, smooth=smooth)
            from_zero(panel, text)
            panel.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        step_axis(drawn.panels[-1])
    return drawn.svg


def spread_of_visits(run: RunRecord) -> str:
    """How unevenly the pool has been visited, and how old what is known of it is."""
    gini = run.series("curriculum/visits_gini")
    staleness = run.series("curriculum/staleness_mean_steps")
    return two_panels(
        "visits",
        (gini, "Gini of visits", VIOLET, False),
        (staleness, "steps since\na visit", ORANGE, False),
    )


def _filled(bins: Any) -> list[tuple[float, float, float]]:
    """Return the bins that hold completions; none where the metric is not what it should be."""
    return [
        (float(row[0]), float(row[1]), float(row[2]))
        for row in (bins if isinstance(bins, list) else ())
        if isinstance(row, list) and len(row) == 3 and all(map(is_finite, row)) and row[0] > 0
    ]


def _bucket_order(name: str) -> tuple[str, tuple[bool, float, str]]:
    source, _, level = name.rpartition("/level=")
    return source, level_order(level)


def _sum(series: Sequence[Series]) -> Series:
    by_step: dict[int, float] = {}
    for each in series:
        for step, value in zip(each.steps, each.values, strict=True):
            by_step[step] = by_step.get(step, 0.0) + value
    steps = sorted(by_step)
    return Series(steps=tuple(steps), values=tuple(by_step[step] for step in steps))
