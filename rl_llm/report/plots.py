"""From a run's records to SVG: one function a plot, each empty text where the run has no data.

What the curriculum did stands in `plots_curriculum`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes

from rl_llm.report.alarms import raised_at
from rl_llm.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    PINK,
    VIOLET,
    WIDE,
    canvas,
    completions_axis,
    from_zero,
    label,
    legend_above,
    log_axis,
    percent_axis,
    ramp,
    step_axis,
)
from rl_llm.report.marks import (
    annotate,
    band,
    floor_share,
    line,
    mark_steps,
    name_line_ends,
    name_places,
    rises,
    stack_bars,
    thinned,
    write_above,
)
from rl_llm.report.panels import two_panels
from rl_llm.report.read import RunRecord, Series
from rl_llm.report.summary import pass_rate_for_completions

Plot = Callable[[RunRecord], str]

_MOST_NUMBERED_BARS = 12
_MOST_LEVEL_NAMES = 24
_MOST_MARKED_POINTS, _MOST_DRAWN_CROSSES = 60, 400
_STAGES = {
    "wait": BLUE,
    "generate": BLUE,
    "score": GREEN,
    "update": ORANGE,
    "publish": PINK,
    "checkpoint": VIOLET,
    "eval": GREY,
}


def held_out_pass_rate(run: RunRecord) -> str:
    """The mean held-out pass rate with a band of one standard error on either side."""
    mean, error = run.series("eval/pass_rate"), run.series("eval/pass_rate_se")
    if not mean:
        return ""
    with canvas("held-out") as drawn:
        panel = drawn.panels[0]
        values = mean.values
        band(panel, mean, error, BLUE, "± 1 SE")
        panel.plot(mean.steps, values, color=BLUE, marker="o", ms=4, label="mean over problems")
        panel.trace("mean over problems", BLUE, mean.steps, values)
        if error:
            panel.trace("standard error", GREY, error.steps, error.values, dotted=False)
        for index in {0, len(values) - 1}:
            annotate(panel, mean.steps[index], values[index])
        mark_steps(panel, raised_at(run, "reward", "overfit", "collapse"), "alarm")
        percent_axis(panel, "held-out pass rate", full=True)
        step_axis(panel)
        legend_above(panel)
    return drawn.svg


def pass_rate_before_after(run: RunRecord) -> str:
    """The held-out pass rate of each level at its first and at its last evaluation, as bars."""
    levels = _levels(run)
    if not levels:
        return ""
    with canvas("before-after") as drawn:
        panel = drawn.panels[0]
        before = [series.values[0] for series in levels.values()]
        after = [series.values[-1] for series in levels.values()]
        first, last = min(s.steps[0] for s in levels.values()), _last_step(levels)
        places, shift = np.arange(len(levels)), 0.2 if last > first else 0.0
        panel.places = [label(name) for name in levels]
        panel.bar(places - shift, before, 0.38, color=GREY, alpha=0.65, label=f"step {first}")
        panel.trace(f"step {first}", GREY, places.tolist(), before, dotted=False)
        if last > first:
            panel.bar(places + shift, after, 0.38, color=ramp(len(levels)), label=f"step {last}")
            panel.trace(f"step {last}", BLUE, places.tolist(), after, dotted=False)
        if len(levels) <= _MOST_NUMBERED_BARS:
            write_above(panel, places - shift, before, MUTED)
        if len(levels) <= _MOST_NUMBERED_BARS and last > first:
            write_above(panel, places + shift, after, INK)
        percent_axis(panel, "held-out pass rate", full=True)
        panel.set_ylim(0, 1.07)
        name_places(panel, list(levels))
        panel.set_xlabel("level")
        legend_above(panel)
    return drawn.svg


def pass_rate_per_level(run: RunRecord) -> str:
    """Held-out pass rate over steps, a line a level, named where the line ends."""
    levels = _levels(run)
    if not levels or _last_step(levels) == min(s.steps[0] for s in levels.values()):
        return ""
    with canvas("levels", size=WIDE) as drawn:
        panel = drawn.panels[0]
        colours = ramp(len(levels))
        for (name, series), colour in zip(levels.items(), colours, strict=True):
            marker = "o" if len(series.steps) <= _MOST_MARKED_POINTS else None
            drawn_line = panel.plot(
                *thinned(series.steps, series.values), color=colour, marker=marker, ms=3.5
            )
            text = f"level {label(name)}"
            panel.trace(text, colour, series.steps, series.values, artists=drawn_line)
        panel.choosable = len(levels) > 1
        overall = run.series("eval/pass_rate")
        panel.plot(
            overall.steps, overall.values, color=INK, lw=1.6, ls=(0, (4, 2)), label="all problems"
        )
        percent_axis(panel, "held-out pass rate", full=True)
        step_axis(panel)
        if len(levels) <= _MOST_LEVEL_NAMES:
            ends = name_line_ends(panel, levels, colours)
            for trace, end in zip(panel.traces, ends, strict=True):
                trace.artists.extend(part for part in (end, end.arrow_patch) if part)
        if overall:
            panel.trace("all problems", INK, overall.steps, overall.values)
        legend_above(panel)
    return drawn.svg


def kl_and_beta(run: RunRecord) -> str:
    """Divergence from the reference, with its refreshes, and from the policy of the step's start,
    with the steps of which updates were left out; beta below, or alone where neither was
    measured."""
    ref, old = run.series("kl/ref_nats_per_token"), run.series("kl/old_nats_per_token")
    beta = run.series("kl/beta")
    if not (ref or old):
        return two_panels("kl", (beta, "beta", VIOLET, False))
    with canvas("kl", heights=(1.7, 1)) as drawn:
        top, bottom = drawn.panels
        line(top, ref, BLUE, "to the reference")
        line(top, old, ORANGE, "to the step's start")
        _mark_left_out(top, old, run.series("kl/updates_left_out"))
        mark_steps(top, rises(run.series("kl/reference_refreshes")), "reference refreshed")
        from_zero(top, "KL\nnats / token")
        legend_above(top, columns=2)
        line(bottom, beta, VIOLET)
        from_zero(bottom, "beta")
        step_axis(bottom)
    return drawn.svg


def _mark_left_out(panel: Axes, old: Series, left_out: Series) -> None:
    """Put a cross on the divergence of each step that went too far, and count the updates."""
    steps = {step for step, count in zip(left_out.steps, left_out.values, strict=True) if count}
    points = [point for point in zip(old.steps, old.values, strict=True) if point[0] in steps]
    if points:
        places, heights = zip(*points, strict=True)
        text = f"updates left out: {left_out.total:,.0f}"
        crosses = panel.scatter(
            places, heights, 26, color=PINK, marker="x", lw=1.4, zorder=3, label=text
        )
        crosses.set_rasterized(len(points) > _MOST_DRAWN_CROSSES)


def lengths(run: RunRecord) -> str:
    """Completion length in training and held-out, and the share that ran into the limit."""
    train, held_out = (run.series(f"{split}/completion_tokens_mean") for split in ("train", "eval"))
    if not (train or held_out):
        return ""
    with canvas("lengths", heights=(1.7, 1)) as drawn:
        top, bottom = drawn.panels
        line(top, train, BLUE, "training")
        line(top, held_out, ORANGE, "held-out")
        mark_steps(top, raised_at(run, "length", "truncation"), "alarm")
        from_zero(top, "tokens / completion")
        legend_above(top)
        line(bottom, run.series("train/truncated_share"), BLUE, "training")
        line(bottom, run.series("eval/truncated_share"), ORANGE, "held-out")
        percent_axis(bottom, "cut at limit")
        floor_share(bottom)
        step_axis(bottom)
    return drawn.svg


def rewards(run: RunRecord) -> str:
    """The mean of the weighted total and of each reward before its weight."""
    parts = {
        name: run.series(f"reward/{name}_mean") for name in run.names_between("reward/", "_mean")
    }
    total = run.series("train/reward_mean")
    if not (total or parts):
        return ""
    with canvas("rewards") as drawn:
        panel = drawn.panels[0]
        colours = PALETTE if len(parts) <= len(PALETTE) else ramp(len(parts))
        for (name, series), colour in zip(parts.items(), colours, strict=False):
            line(panel, series, colour, label(name))
        line(panel, total, INK, "total")
        mark_steps(panel, raised_at(run, "reward"), "alarm")
        from_zero(panel, "mean reward")
        step_axis(panel)
        legend_above(panel, columns=3)
    return drawn.svg


def entropy_and_gradient(run: RunRecord) -> str:
    """Entropy of the policy, and the gradient's norm before clipping."""
    entropy, norm = run.series("entropy_nats_per_token"), run.series("optim/grad_norm")
    return two_panels(
        "entropy",
        (entropy, "entropy\nnats / token", GREEN, False),
        (norm, "gradient norm", ORANGE, False),
    )


def clipping_and_rate(run: RunRecord) -> str:
    """The share of clipped tokens, and the learning rate."""
    clipped, rate = run.series("loss/clip_rate"), run.series("optim/lr")
    return two_panels(
        "clipping",
        (clipped, "clipped tokens", PINK, True),
        (rate, "learning rate", BLUE, False),
    )


def critic(run: RunRecord) -> str:
    """How much of what responses came to the critic foresaw, down to -100 %, and in which steps it
    learnt alone; its loss below."""
    explained, loss = run.series("critic/explained_variance"), run.series("loss/value")
    if not explained:
        return ""
    with canvas("critic", heights=(1.7, 1)) as drawn:
        top, bottom = drawn.panels
        top.axhline(0, color=MUTED, lw=1.0, ls=(0, (4, 2)))
        line(top, explained, BLUE)
        _shade_warm_up(top, run.series("optim/lr"))
        percent_axis(top, "explained variance")
        top.set_ylim(max(min(explained.values), -1.0) - 0.05, 1.02)
        legend_above(top)
        line(bottom, loss, ORANGE)
        from_zero(bottom, "value loss")
        step_axis(bottom)
    return drawn.svg


def _shade_warm_up(panel: Axes, rate: Series) -> None:
    """Shade the steps in which the policy had no learning rate."""
    alone = [step for step, lr in zip(rate.steps, rate.values, strict=True) if lr == 0]
    if alone:
        span = min(alone) - 0.5, max(alone) + 0.5
        panel.axvspan(*span, color=GREY, alpha=0.18, lw=0, label="critic alone")


def engine_mismatch(run: RunRecord) -> str:
    """How far the trainer's logprobs are from those that the rollout engine reported."""
    lines = {
        "mean": (run.series("rollout/mismatch_mean_nats"), BLUE),
        "maximum": (run.series("rollout/mismatch_max_nats"), ORANGE),
    }
    if not any(series for series, _ in lines.values()):
        return ""
    with canvas("mismatch") as drawn:
        panel = drawn.panels[0]
        for name, (series, colour) in lines.items():
            line(panel, series, colour, name)
        if all(value > 0 for series, _ in lines.values() for value in series.values):
            log_axis(panel, "|Δ logprob|, nats")
        else:
            from_zero(panel, "|Δ logprob|, nats")
        step_axis(panel)
        legend_above(panel)
    return drawn.svg


def pass_rate_per_completion(run: RunRecord) -> str:
    """Held-out pass rate against the completions generated up to then, dropped groups included."""
    points = pass_rate_for_completions(run)
    if len(points) < 2:
        return ""
    with canvas("sample-efficiency") as drawn:
        panel = drawn.panels[0]
        places, heights = zip(*points, strict=True)
        panel.plot(places, heights, color=BLUE, marker="o", ms=4)
        panel.trace(None, BLUE, places, heights)
        percent_axis(panel, "held-out pass rate", full=True)
        completions_axis(panel)
    return drawn.svg


def throughput(run: RunRecord) -> str:
    """Generated tokens a second."""
    speed = run.series("rollout/tokens_per_s")
    if not speed:
        return ""
    with canvas("throughput") as drawn:
        panel = drawn.panels[0]
        line(panel, speed, GREEN)
        from_zero(panel, "generated tokens / s")
        step_axis(panel)
    return drawn.svg


def time_per_stage(run: RunRecord) -> str:
    """Seconds a step by stage, stacked; long runs show means over stretches of steps.

    Of what was generated ahead, while steps learnt, the time that they waited for it.
    """
    stages = {name: run.series(f"time/{name}_s") for name in _STAGES}
    if stages["wait"]:
        del stages["generate"], stages["score"]
    stages = {name: series for name, series in stages.items() if series and series.total > 0}
    if not stages:
        return ""
    total = sum(series.total for series in stages.values())
    with canvas("time", size=(WIDE[0], 3.2)) as drawn:
        panel = drawn.panels[0]
        stack_bars(
            panel,
            {
                f"{name}  {100 * series.total / total:.0f} %": (series, _STAGES[name])
                for name, series in stages.items()
            },
        )
        panel.set_ylabel("seconds / step")
        step_axis(panel)
        legend_above(panel)
    return drawn.svg


def _levels(run: RunRecord) -> dict[str, Series]:
    prefix = "eval/pass_rate/level="
    found = {name: run.series(prefix + name) for name in run.names_between(prefix)}
    return {name: series for name, series in found.items() if series}


def _last_step(levels: Mapping[str, Series]) -> int:
    return max(series.steps[-1] for series in levels.values())
