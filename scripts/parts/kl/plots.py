"""The plots of docs/benchmarks.md on the KL: what every controller comes to over the steps, and how
`target` finds its target."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from parts.kl.arms import ARMS, CONTROL_ARMS, CONTROL_NATS, MATCHED, TOLERANCE
from parts.kl.table import NO_PENALTY, floats, running_mean
from parts.shared.stats import Floats
from rl_llm.report.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PINK,
    VIOLET,
    canvas,
    from_zero,
    legend_above,
    log_axis,
    step_axis,
)

Run = Mapping[str, Any]

DASHES, DOTS = (0, (5, 2)), (0, (1, 1.5))
STYLES: dict[str, tuple[str, Any]] = {
    NO_PENALTY: (INK, "-"),
    "constant-low": (GREY, DOTS),
    MATCHED: (GREY, "-"),
    "constant-high": (GREY, DASHES),
    "grpo_d": (BLUE, "-"),
    "grpo_d-reversed": (BLUE, DASHES),
    "target": (ORANGE, "-"),
    "accuracy": (GREEN, "-"),
}
"""Constants are grey, the dark line has no penalty."""

CONTROL_COLOURS = dict(zip(CONTROL_ARMS, (VIOLET, PINK), strict=True))


def draw(measured: Sequence[Run], control: Sequence[Run], folder: Path) -> list[Path]:
    """Write the plots of the stages that there are runs of, and return their files."""
    files = []
    if measured:
        files.append(folder / "kl-curves.png")
        _draw_curves(measured, files[-1])
    if control:
        files.append(folder / "kl-control.png")
        _draw_control(control, files[-1])
    return files


def _draw_curves(runs: Sequence[Run], file: Path) -> None:
    """Draw accuracies, KL and beta over steps: means over seeds."""
    with canvas(file.stem, size=(8.4, 9.6), heights=(3, 3, 3, 2)) as drawn:
        trained, untrained, nats, betas = drawn.panels
        for arm in ARMS:
            own = [run for run in runs if run["arm"] == arm]
            if not own:
                continue
            steps = own[0]["curve"]["step"]
            for panel, name in (
                (trained, "trained"),
                (untrained, "untrained"),
                (nats, "trained_ref_nats"),
            ):
                _line(panel, arm, steps, _mean(own, lambda run, key=name: run["curve"][key]))
            updates = _mean(own, lambda run: run["updates"]["beta"])
            _line(betas, arm, range(1, len(updates) + 1), updates)
        for panel, label in (
            (trained, "held out, trained task"),
            (untrained, "held out, untrained task"),
        ):
            panel.set_ylabel(label)
            panel.yaxis.set_major_locator(MaxNLocator(6))
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        from_zero(nats, "KL to ref, nats per token")
        from_zero(betas, "beta")
        step_axis(betas)
        legend_above(trained, columns=4)
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _draw_control(runs: Sequence[Run], file: Path) -> None:
    """Draw KL, as running means, and beta over steps, a line a run, with the target and what is
    near it."""
    with canvas(file.stem, size=(8.4, 5.6), heights=(3, 2)) as drawn:
        nats, betas = drawn.panels
        named = set()
        for run in sorted(runs, key=lambda run: (run["arm"], run["seed"])):
            arm, updates = run["arm"], run["updates"]
            style: dict[str, Any] = {"color": CONTROL_COLOURS[arm], "lw": 1.3, "alpha": 0.8}
            style["label"] = None if arm in named else f"beta {arm.replace('-', ' ')}"
            named.add(arm)
            steps = np.arange(1, len(updates["beta"]) + 1)
            measured = np.asarray(updates["trained_tokens"]) > 0
            means = running_mean(floats(updates["ref_nats_per_token"]), measured)
            nats.plot(steps, means, **style)
            betas.plot(steps, updates["beta"], **style)
        nats.axhspan(
            CONTROL_NATS * (1 - TOLERANCE), CONTROL_NATS * (1 + TOLERANCE), color=GREEN, alpha=0.12
        )
        nats.axhline(CONTROL_NATS, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        from_zero(nats, "KL to ref, nats per token")
        log_axis(betas, "beta")
        step_axis(betas)
        legend_above(nats)
        drawn.figure.savefig(file, facecolor="white", dpi=130)


def _line(panel: Axes, arm: str, steps: Sequence[int] | range, means: Floats) -> None:
    colour, style = STYLES[arm]
    panel.plot(steps, means, color=colour, ls=style, lw=1.6, label=arm)


def _mean(runs: Sequence[Run], values: Callable[[Run], Sequence[float]]) -> Floats:
    means: Floats = np.mean([values(run) for run in runs], axis=0)
    return means
