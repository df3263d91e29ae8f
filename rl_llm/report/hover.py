"""What a plot says under the pointer, and in words to those who do not see it.

A panel remembers the numbers that it draws. They travel in an attribute of the plot's SVG, where
the page's script finds them; without the script they change nothing.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

_MOST_POINTS = 500
_MOST_SPOKEN = 12
MARK = "trace-"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Numbers under one name: `y` at `x`, and their running mean where that is what is drawn bold.

    `artists` are what a reader hides with it; `dotted` says that it lies at its values on the
    vertical axis.
    """

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    mean: Sequence[float] | None
    artists: list[Artist] = field(default_factory=list)
    dotted: bool


class Panel(Axes):
    """A panel that remembers what it shows.

    `places` names the points of its traces where their `x` are no numbers to read;
    `choosable` lets a reader choose among its traces.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what matplotlib gives to axes."""
        self.traces: list[Trace] = []
        self.places: Sequence[str] = ()
        self.choosable = False
        super().__init__(*args, **kwargs)

    def trace(
        self,
        name: str | None,
        colour: str,
        x: Sequence[float],
        y: Sequence[float],
        *,
        mean: Sequence[float] | None = None,
        artists: Sequence[Artist] = (),
        dotted: bool = True,
    ) -> None:
        """Remember numbers; those without a name are called by the panel's label."""
        self.traces.append(
            Trace(
                name=name or "",
                colour=colour,
                x=x,
                y=y,
                mean=mean,
                artists=[*artists],
                dotted=dotted,
            )
        )


def mark_traces(panels: Sequence[Panel]) -> None:
    """Give what draws each trace a mark that stays in the SVG; before the figure is drawn."""
    traces = (trace for panel in panels for trace in panel.traces)
    for number, trace in enumerate(traces):
        for artist in trace.artists:
            artist.set_gid(f"{MARK}{number}")


def attributes(panels: Sequence[Panel]) -> str:
    """Return the SVG's attributes: the numbers for the script, and a description; behind the
    drawing, when panels have their places."""
    told = [panel for panel in panels if panel.traces]
    if not told:
        return ""
    data = {"x": _one_line(panels[-1].get_xlabel()), "panels": [_panel(each) for each in told]}
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f' aria-label="{escape(describe(panels))}" data-plot="{escape(packed)}"'


def describe(panels: Sequence[Panel]) -> str:
    """Return where each trace begins and ends, in words."""
    where = _one_line(panels[-1].get_xlabel())
    spoken = []
    for panel in panels:
        unit = _one_line(panel.get_ylabel())
        for trace in panel.traces:
            name = f"{unit}, {trace.name}" if trace.name else unit
            first, last = (
                f"{_value(panel, trace.y[i])}{_at(panel, trace, i, where)}" for i in (0, -1)
            )
            spoken.append(f"{name}: {first}" if len(trace.x) == 1 else f"{name}: {first}, {last}")
    rest = len(spoken) - _MOST_SPOKEN
    return "; ".join(spoken[:_MOST_SPOKEN]) + (f"; and {rest} more" if rest > 0 else "")


def _at(panel: Panel, trace: Trace, index: int, where: str) -> str:
    x = trace.x[index]
    place = panel.places[index] if panel.places else f"{x:,.0f}" if x >= 1 else f"{x:.4g}"
    return f" at {where} {place}"


def _value(panel: Panel, value: float) -> str:
    if isinstance(panel.yaxis.get_major_formatter(), PercentFormatter):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _panel(panel: Panel) -> dict[str, Any]:
    box = panel.get_position()
    short = [trace.x for trace in panel.traces if len(trace.x) <= _MOST_POINTS]
    always = {x for points in short for x in points}
    axes: list[list[float | None]] = []
    traces = [_trace(trace, axes, always) for trace in panel.traces]
    return {
        "box": [round(edge, 4) for edge in (box.x0, 1 - box.y1, box.x1, 1 - box.y0)],
        "xlim": _digits(panel.get_xlim()),
        "ylim": _digits(panel.get_ylim()),
        "log": panel.get_yscale() == "log",
        "label": _one_line(panel.get_ylabel()),
        "percent": isinstance(panel.yaxis.get_major_formatter(), PercentFormatter),
        "choosable": panel.choosable,
        "places": list(panel.places),
        "axes": axes,
        "traces": traces,
    }


def _trace(
    trace: Trace, axes: list[list[float | None]], always: Collection[float]
) -> dict[str, Any]:
    """Return a trace, of a long one some points over all of it and those at `always`, and put what
    it lies over among `axes`, which most traces of a panel share."""
    spread = np.linspace(0, len(trace.x) - 1, _MOST_POINTS).round().astype(int).tolist()
    kept = sorted({*spread, *(index for index, x in enumerate(trace.x) if x in always)})
    x = _digits([trace.x[index] for index in kept], digits=9)
    if x not in axes:
        axes.append(x)
    told: dict[str, Any] = {"name": trace.name, "colour": trace.colour, "axis": axes.index(x)}
    told["y"] = _digits([trace.y[index] for index in kept])
    if trace.mean is not None:
        told["mean"] = _digits([trace.mean[index] for index in kept])
    return told | {"dotted": trace.dotted, "drawn": bool(trace.artists)}


def _digits(values: Sequence[float], *, digits: int = 5) -> list[float | None]:
    """Return numbers as short as they can be read, None for one that is none."""
    rounded = [float(f"{value:.{digits}g}") if isfinite(value) else None for value in values]
    return [int(n) if n is not None and n.is_integer() else n for n in rounded]


def _one_line(text: str) -> str:
    return " ".join(text.split())
