"""How every plot looks, and how it becomes SVG that lives inside a page.

Colours that must follow the page's light or dark theme are drawn as stand-ins and come out as CSS
variables; text stays text, in the page's own font. The same input gives the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from rl_llm.report.hover import MARK, Panel, attributes, mark_traces

INK, MUTED, GRID = "#1b1a19", "#6b6862", "#e4e2dd"
BLUE, ORANGE, GREEN, VIOLET, PINK, GREY = (
    "#2f6fde",
    "#e8792b",
    "#17a673",
    "#8a5cf0",
    "#e0559b",
    "#98958d",
)
PALETTE = (BLUE, ORANGE, GREEN, VIOLET, PINK, GREY)
HALF, WIDE = (5.6, 2.9), (11.6, 3.9)

_SIX_DIGITS = re.compile(r"-?\d+\.\d{3,}")
_ROUND_STEPS = [1, 2, 2.5, 5, 10]
_THEMED = {INK: "--ink", MUTED: "--muted", GRID: "--grid"}
_EASY_TO_HARD = LinearSegmentedColormap.from_list(
    "easy_to_hard", ["#12b3a6", "#2f8fe0", "#6a6cf0", "#a855e8", "#e0559b", "#f2793a"]
)
_SHARE = LinearSegmentedColormap.from_list(
    "share", [(*to_rgb("#3f7be8"), 0.0), (*to_rgb("#3f7be8"), 1.0)]
)
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
}


@dataclass
class Canvas:
    """A figure being drawn: its panels row by row, and its SVG once the drawing is done."""

    figure: Figure
    panels: Sequence[Panel]
    svg: str = ""


@contextmanager
def canvas(
    name: str,
    *,
    size: tuple[float, float] = HALF,
    heights: Sequence[float] = (1,),
    columns: int = 1,
) -> Iterator[Canvas]:
    """Open a canvas of `size` inches with a row of `columns` panels for each of the relative
    `heights`.

    All panels share the horizontal axis, those of a row the vertical one. `name` must differ
    between the plots of a page, because ids inside the SVG derive from it.
    """
    with (
        matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # A name in a script that the measuring font lacks is still drawn by the browser's font.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained", dpi=200)
        FigureCanvasSVG(figure)
        grid = figure.subplots(
            len(heights),
            columns,
            sharex=True,
            sharey="row",
            squeeze=False,
            height_ratios=list(heights),
            subplot_kw={"axes_class": Panel},
        )
        drawn = Canvas(figure=figure, panels=list(grid.flat))
        for panel in drawn.panels:
            panel.grid(axis="x", visible=False)
            panel.tick_params(length=0, pad=4)
        yield drawn
        figure.align_ylabels()
        mark_traces(drawn.panels)
        svg = _to_inline_svg(figure)
        drawn.svg = svg.replace("<svg", f"<svg{_themed(attributes(drawn.panels))}", 1)


def step_axis(panel: Axes) -> None:
    """Label the horizontal axis with whole training steps."""
    panel.set_xlabel("step")
    panel.xaxis.set_major_locator(
        MaxNLocator(nbins=9, integer=True, min_n_ticks=1, steps=[1, 2, 4, 5, 10])
    )


def completions_axis(panel: Axes) -> None:
    """Label the horizontal axis with completions generated."""
    panel.set_xlabel("completions generated")
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6))


def percent_axis(panel: Axes, label: str, *, full: bool = False) -> None:
    """Show shares as percent; `full` spans 0 to 100."""
    panel.set_ylabel(label)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.yaxis.set_major_locator(_value_ticks(panel))
    if full:
        panel.set_ylim(-0.02, 1.02)
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1.0])


def from_zero(panel: Axes, label: str) -> None:
    """Label the vertical axis and let it begin at zero, unless there are values below, or none."""
    panel.set_ylabel(label)
    panel.yaxis.set_major_locator(_value_ticks(panel))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    smallest, largest = panel.dataLim.y0, panel.dataLim.y1
    if largest >= smallest >= 0:
        top = largest * 1.08 or 1.0
        panel.set_ylim(-0.03 * top, top)


def log_axis(panel: Axes, label: str) -> None:
    """Show positive values on a logarithmic vertical axis, with plain numbers at its ticks."""
    panel.set_yscale("log")
    panel.set_ylabel(label)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=7))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(axis="y", which="minor", length=0)


def legend_above(panel: Axes, *, columns: int = 6) -> None:
    """Put the legend of a panel above it, in one line where it fits, so that it covers no data."""
    handles, labels = panel.get_legend_handles_labels()
    if labels:
        panel.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(columns, len(labels)),
            borderaxespad=0.2,
            columnspacing=1.4,
            handletextpad=0.5,
        )


def ramp(count: int) -> list[str]:
    """Return `count` colours from easy to hard, each readable on a light and on a dark page."""
    return [to_hex(_EASY_TO_HARD(index / max(1, count - 1))) for index in range(count)]


def share_ramp() -> LinearSegmentedColormap:
    """Return the colours of a heatmap: nothing is transparent, so it sits on any page."""
    return _SHARE


def label(text: str, *, longest: int = 22) -> str:
    """Return a name that a plot can hold: one line, cut to `longest` characters, valid UTF-8."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    line = "".join(letter if letter.isprintable() else "�" for letter in line)
    # Matplotlib leaves names with a leading underscore out of legends.
    line = f" {line}" if line.startswith("_") else line
    return line if len(line) <= longest else line[: longest - 1] + "…"


def spread(heights: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move heights apart until neighbours are `gap` from each other, and keep them in [low, high].

    The order stays. When they cannot all fit, they are laid out evenly over the whole span.
    """
    count = len(heights)
    gap = min(gap, (high - low) / max(1, count - 1))
    order = sorted(range(count), key=lambda index: (heights[index], -index))
    placed = list(heights)
    floor = low
    for index in order:
        floor = placed[index] = max(heights[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        ceiling = placed[index] = min(placed[index], ceiling)
        ceiling -= gap
    return placed


def _value_ticks(panel: Axes) -> MaxNLocator:
    """Return round ticks, fewer where the panel shares its figure with others."""
    num_panels = len(panel.figure.axes)
    return MaxNLocator(nbins=max(3, 6 - num_panels), steps=_ROUND_STEPS)


def _to_inline_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{MARK}(\d+)"', r'<g data-trace="\1"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: _SIX_DIGITS.sub(_hundredths, path[0]), svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg)
    svg = svg.replace("xlink:href=", "href=").replace("'DejaVu Sans'", "var(--font, sans-serif)")
    return _themed(svg)


def _themed(text: str) -> str:
    """Let the colours that follow the page's theme do so."""
    for colour, variable in _THEMED.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    return text


def _hundredths(number: re.Match[str]) -> str:
    """Return a coordinate to a hundredth of a point, which no screen shows."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
