"""Whole plots of a form that several share, each empty text where the run has no data."""

from collections.abc import Mapping

from rl_llm.report.canvas import canvas, from_zero, legend_above, percent_axis, step_axis
from rl_llm.report.marks import floor_share, line
from rl_llm.report.read import Series


def shares_over_steps(
    name: str, lines: Mapping[str, tuple[Series, str]], ylabel: str, *, full: bool
) -> str:
    """Draw `(series, colour)` by what the legend calls them, in one panel of shares."""
    if not any(series for series, _ in lines.values()):
        return ""
    with canvas(name) as drawn:
        panel = drawn.panels[0]
        for text, (series, colour) in lines.items():
            line(panel, series, colour, text)
        percent_axis(panel, ylabel, full=full)
        step_axis(panel)
        legend_above(panel)
    return drawn.svg


def two_panels(name: str, *panels: tuple[Series, str, str, bool]) -> str:
    """Draw `(series, label, colour, whether it is a share)` above each other."""
    present = [panel for panel in panels if panel[0]]
    if not present:
        return ""
    with canvas(name, heights=[1] * len(present)) as drawn:
        for panel, (series, text, colour, is_share) in zip(drawn.panels, present, strict=True):
            line(panel, series, colour)
            if is_share:
                percent_axis(panel, text)
                floor_share(panel)
            else:
                from_zero(panel, text)
        step_axis(drawn.panels[-1])
    return drawn.svg
