"""Two runs in one page: their curves over each other, and the settings in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from rl_llm.report import summary
from rl_llm.report.canvas import (
    BLUE,
    ORANGE,
    canvas,
    completions_axis,
    from_zero,
    label,
    legend_above,
    percent_axis,
    step_axis,
)
from rl_llm.report.compare import settings_apart
from rl_llm.report.html import compact, duration
from rl_llm.report.marks import band, line
from rl_llm.report.pages import render_page
from rl_llm.report.read import RunRecord

_LONGEST_NAME, _LONGEST_VALUE = 34, 160


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric over steps, and how its axis is labelled."""

    title: str
    key: str
    unit: str
    is_share: bool = False


_CURVES = (
    Curve(title="Rewards", key="train/reward_mean", unit="mean reward"),
    Curve(
        title="Informative groups",
        key="train/informative_share",
        unit="informative groups",
        is_share=True,
    ),
    Curve(title="KL to the reference", key="kl/ref_nats_per_token", unit="nats / token"),
    Curve(title="Beta", key="kl/beta", unit="beta"),
    Curve(title="Entropy", key="entropy_nats_per_token", unit="nats / token"),
    Curve(
        title="Completion length", key="train/completion_tokens_mean", unit="tokens / completion"
    ),
    Curve(title="Throughput", key="rollout/tokens_per_s", unit="generated tokens / s"),
)


def render_pair(first: RunRecord, second: RunRecord, *, names: tuple[str, str]) -> str:
    """Return the page; a curve that neither run wrote is left out."""
    cut = [label(name, longest=_LONGEST_NAME) for name in names]
    if cut[0] == cut[1]:
        cut = ["first run", "second run"]
    runs = dict(zip(cut, (first, second), strict=True))
    drawn = {
        "Held-out pass rate": _held_out(runs),
        "Pass rate for completions spent": _for_completions(runs),
    }
    drawn |= {curve.title: _curve(runs, curve) for curve in _CURVES}
    return render_page(
        "pair.html",
        title=" and ".join(names),
        names=names,
        colours=(BLUE, ORANGE),
        rows=_rows((first, second)),
        cards=[(title, Markup(svg)) for title, svg in drawn.items() if svg],
        differences={
            path: [label(value, longest=_LONGEST_VALUE) for value in both]
            for path, both in settings_apart(first.recipe, second.recipe).items()
        },
        notes=[note for run in (first, second) for note in run.notes],
    )


def _held_out(runs: Mapping[str, RunRecord]) -> str:
    if not any(run.series("eval/pass_rate") for run in runs.values()):
        return ""
    with canvas("pair-held-out") as drawn:
        panel = drawn.panels[0]
        for (name, run), colour in zip(runs.items(), (BLUE, ORANGE), strict=True):
            band(panel, run.series("eval/pass_rate"), run.series("eval/pass_rate_se"), colour)
            line(panel, run.series("eval/pass_rate"), colour, name, smooth=False)
        percent_axis(panel, "held-out pass rate", full=True)
        step_axis(panel)
        legend_above(panel, columns=2)
    return drawn.svg


def _for_completions(runs: Mapping[str, RunRecord]) -> str:
    found = {name: summary.pass_rate_for_completions(run) for name, run in runs.items()}
    if not any(found.values()):
        return ""
    with canvas("pair-spent") as drawn:
        panel = drawn.panels[0]
        for (name, points), colour in zip(found.items(), (BLUE, ORANGE), strict=True):
            if points:
                spent, rates = zip(*points, strict=True)
                panel.plot(spent, rates, color=colour, marker="o", ms=4, label=name)
                panel.trace(name, colour, spent, rates)
        percent_axis(panel, "held-out pass rate", full=True)
        completions_axis(panel)
        legend_above(panel, columns=2)
    return drawn.svg


def _curve(runs: Mapping[str, RunRecord], curve: Curve) -> str:
    if not any(run.series(curve.key) for run in runs.values()):
        return ""
    with canvas(f"pair-{curve.key}") as drawn:
        panel = drawn.panels[0]
        for (name, run), colour in zip(runs.items(), (BLUE, ORANGE), strict=True):
            line(panel, run.series(curve.key), colour, name)
        if curve.is_share:
            percent_axis(panel, curve.unit, full=True)
        else:
            from_zero(panel, curve.unit)
        step_axis(panel)
        legend_above(panel, columns=2)
    return drawn.svg


def _rows(runs: tuple[RunRecord, RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the numbers of the headline, by name, a value for each run."""
    seconds = [summary.wall_seconds(run) for run in runs]
    return [
        ("held-out pass rate", [_rates(run) for run in runs]),
        ("training steps", [f"{run.last_step:,}" for run in runs]),
        ("completions", [_spent(run, "rollout/completions") for run in runs]),
        ("tokens", [_spent(run, "rollout/tokens") for run in runs]),
        ("wall time", ["-" if each is None else duration(each) for each in seconds]),
    ]


def _rates(run: RunRecord) -> str:
    told = [
        f"{100 * rate.mean:.1f}" + (f" ± {100 * rate.error:.1f}" if rate.error is not None else "")
        for rate in summary.held_out(run)
    ]
    return f"{' → '.join(told)} %" if told else "-"


def _spent(run: RunRecord, key: str) -> str:
    spent = summary.last_value(run.series(key))
    return "-" if spent is None else compact(spent)
