"""The plots of docs/algorithms.md: how the held-out pass rate grows with each algorithm, and what
critics come to explain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from parts.algorithms.arms import ALGORITHMS, LEAST_EXPLAINED, WITH_CRITIC
from parts.shared.pictures import mark_target
from parts.shared.stats import Floats
from rl_llm.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    VIOLET,
    canvas,
)

Row = Mapping[str, Any]

PER_LINE = 5
OF_THE_BATCH = ("reinforce", "reinforce_pp")
BASELINES = {
    "mean of the group": (
        BLUE,
        tuple(name for name in ALGORITHMS if name not in (*WITH_CRITIC, *OF_THE_BATCH)),
    ),
    "mean of the batch": (GREEN, OF_THE_BATCH),
    "critic": (ORANGE, WITH_CRITIC),
}
"""What rewards are compared with: a colour, and the algorithms that do."""

COLOURS = {name: colour for colour, names in BASELINES.values() for name in names}
LOWEST_EXPLAINED = -0.25  # A critic may start far below; how far says nothing.
MOST_TICKS = 4
DASHES = (0, (4, 3))


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the plots of what there are rows of, and return their files."""
    files = [folder / "algorithms-curves.png"]
    _draw_curves(rows, files[0])
    if any(row["arm"] in WITH_CRITIC for row in rows):
        files.append(folder / "algorithms-critic.png")
        _draw_critics(rows, files[-1])
    return files


def _draw_curves(rows: Sequence[Row], file: Path) -> None:
    """Draw a panel for each algorithm: its mean over seeds and their range, before the means of
    all the others."""
    arms = [arm for arm in ALGORITHMS if any(row["arm"] == arm for row in rows)]
    columns = min(PER_LINE, len(arms))
    lines = -(-len(arms) // columns)
    with canvas(
        file.stem, size=(8.4, 0.9 + 1.75 * lines), heights=(1,) * lines, columns=columns
    ) as drawn:
        curves = {arm: _over_seeds(rows, arm, "pass_rate") for arm in arms}
        for arm, panel in zip(arms, drawn.panels, strict=False):
            for other in arms:
                if other != arm:
                    panel.plot(*curves[other][:2], color=GREY, lw=0.7, alpha=0.4)
            _band(panel, curves[arm], COLOURS[arm])
            _title(panel, arm, f"{100 * (curves[arm][1][-1] - curves[arm][1][0]):+.0f} pts")
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            panel.yaxis.set_major_locator(MaxNLocator(4))
            evaluated = curves[arm][0]
            panel.set_xticks(evaluated[:: -(-len(evaluated) // MOST_TICKS)])
        for panel in drawn.panels[len(arms) :]:
            panel.set_visible(False)
        for panel in drawn.panels[columns * (lines - 1) :]:
            panel.set_xlabel("step")
        lows, highs = zip(
            *(panel.dataLim.intervaly for panel in drawn.panels[: len(arms)]), strict=True
        )
        for panel in drawn.panels:
            panel.set_ylim(min(lows) - 0.03, max(highs) + 0.03)
        drawn.figure.supylabel("held-out pass rate", size=8.5, color=MUTED)
        drawn.figure.get_layout_engine().set(wspace=0.03, hspace=0.06)
        _legend_of_baselines(drawn.figure, arms)
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _draw_critics(rows: Sequence[Row], file: Path) -> None:
    """Draw a panel for each algorithm with a critic: what it explains, beside what the prompt mean
    does."""
    arms = [arm for arm in WITH_CRITIC if any(row["arm"] == arm for row in rows)]
    with canvas(file.stem, size=(8.4, 3.1), columns=len(arms)) as drawn:
        for arm, panel in zip(arms, drawn.panels, strict=True):
            prompt_mean, critic = (
                _over_seeds(rows, arm, name) for name in ("prompt_mean", "critic")
            )
            _band(panel, prompt_mean, VIOLET, style=DASHES, label="mean of the prompt's others")
            _band(panel, critic, ORANGE, label="critic")
            _title(panel, arm, "")
            if arm in LEAST_EXPLAINED:
                mark_target(panel, LEAST_EXPLAINED[arm])
            panel.set_xlabel("step")
            panel.set_xticks(critic[0][:: -(-len(critic[0]) // (2 * MOST_TICKS))])
        first = drawn.panels[0]
        first.set_ylabel("explained variance, held out")
        lows, highs = zip(*(panel.dataLim.intervaly for panel in drawn.panels), strict=True)
        first.set_ylim(max(LOWEST_EXPLAINED, min(0.0, *lows) - 0.03), max(highs) + 0.05)
        drawn.figure.get_layout_engine().set(wspace=0.03)
        drawn.figure.legend(
            *first.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
        )
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _over_seeds(rows: Sequence[Row], arm: str, name: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the steps of an arm's evaluations, and the mean, the lowest and the highest over
    seeds."""
    curves = [row["curve"] for row in rows if row["arm"] == arm]
    values = np.array([curve[name] for curve in curves], dtype=float)
    steps = np.array(curves[0]["step"], dtype=float)
    return steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _band(
    panel: Axes,
    curve: tuple[Floats, Floats, Floats, Floats],
    colour: str,
    *,
    style: Any = "-",
    label: str | None = None,
) -> None:
    steps, mean, low, high = curve
    panel.fill_between(steps, low, high, color=colour, alpha=0.16, lw=0)
    panel.plot(steps, mean, color=colour, ls=style, label=label)
    panel.plot(steps[-1:], mean[-1:], "o", color=colour, ms=4)


def _title(panel: Axes, arm: str, gain: str) -> None:
    """Name a panel above its left end; what was gained stands above its right end."""
    panel.set_title(arm, loc="left", color=INK, size=9.5, weight="bold")
    panel.set_title(gain, loc="right", color=COLOURS[arm], size=8.5)


def _legend_of_baselines(figure: Any, arms: Sequence[str]) -> None:
    """Say above all panels which colour stands for which baseline."""
    shown = {
        f"baseline: {name}": Line2D([], [], color=colour)
        for name, (colour, names) in BASELINES.items()
        if any(arm in names for arm in arms)
    }
    figure.legend(
        shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown), frameon=False
    )
