"""What a person sees of a run: a live bar and tables in a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rl_llm.cli.tables import unscored
from rl_llm.trainer import Evaluation

Row = dict[str, Any]

SECONDS_BETWEEN_LINES = 30.0  # Of a tally, where there is no bar.
SLOW_SCORING_S = 5.0
"""Scoring that takes longer, and more than half of a step, is named beside it."""
_SHOWN_GROUPS = 2
_SHOWN_CHARACTERS = 160


class PatientConsole(Console):
    """A console that goes silent where nobody reads on, as when `tee` hears the same Ctrl-C: what
    is under way is finished."""

    def on_broken_pipe(self) -> None:
        """Print no more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_lines(console: Console, lines: Iterable[str], *, style: str | None = None) -> None:
    """Print lines as they are, however long."""
    for line in lines:
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


class ConsoleWatcher:
    """A `Watcher` that writes to a console; use it as a context manager."""

    def __init__(self, console: Console, *, total_steps: int, first_step: int) -> None:
        """`first_step` is where a resumed run starts."""
        self._console = console
        self._total_steps = total_steps
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=first_step)

    def __enter__(self) -> "ConsoleWatcher":
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._progress.stop()

    def stepped(self, row: Row) -> None:
        """Move the bar, or write a line."""
        if row["step"] == 0:
            return
        if self._console.is_terminal:
            self._progress.update(self._task, completed=row["step"], description=_summary(row))
        else:
            self._console.print(
                f"step {row['step']}/{self._total_steps}  {_summary(row)}  {row['step_s']:.1f} s",
                highlight=False,
                soft_wrap=True,
            )

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Write the held-out pass rate."""
        rate = evaluation.overall
        self._console.print(
            f"held-out pass rate after step {step}: {rate.mean:.3f} +- {rate.standard_error:.3f} "
            f"({rate.num_problems} problems, {evaluation.elapsed_s:.1f} s)",
            highlight=False,
            soft_wrap=True,
        )
        if evaluation.num_masked:
            self.said(unscored(evaluation.num_masked, evaluation.num_completions))

    def sampled(self, samples: Sequence[Row]) -> None:
        """Show some of the training completions with their rewards."""
        training = _best_and_worst(samples)
        if not training:
            return
        table = Table(
            title=f"best and worst completions of step {training[0]['step']}", show_lines=False
        )
        has_advantages = training[0]["advantage"] is not None
        numbers = ["reward", "advantage"] if has_advantages else ["reward"]
        for heading in ("prompt", "completion", *numbers):
            table.add_column(heading, justify="right" if heading in numbers else "left")
        for row in training:
            cells = [_clip(_prompt_text(row["prompt"])), _clip(row["text"]), f"{row['total']:.2f}"]
            table.add_row(*cells, *([f"{row['advantage']:+.2f}"] if has_advantages else []))
        self._console.print(table, markup=False)

    def saved(self, checkpoint: Path) -> None:
        """Say nothing: it is there."""

    def said(self, message: str) -> None:
        """Write the message."""
        self._console.print(message, style="yellow", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def tally(console: Console, *, total: int) -> Iterator[Callable[[int], None]]:
    """Count the problems of an evaluation as they are scored, `total` in all: a bar in a terminal,
    elsewhere a line now and then. What it gives takes how many more were scored."""
    num_done, said_at = 0, time.monotonic()
    columns = (TextColumn("problems"), MofNCompleteColumn(), BarColumn(bar_width=20))
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=total)

        def add(num_problems: int) -> None:
            nonlocal num_done, said_at
            num_done = min(num_done + num_problems, total)
            progress.update(task, completed=num_done)
            now = time.monotonic()
            if not console.is_terminal and now - said_at >= SECONDS_BETWEEN_LINES:
                said_at = now
                print_lines(console, [f"{num_done:,} of {total:,} problems"])

        yield add


class SilentWatcher:
    """A `Watcher` for the ranks that print nothing, and for tests."""

    def stepped(self, row: Row) -> None:
        """Ignore it."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Ignore it."""

    def sampled(self, samples: Sequence[Row]) -> None:
        """Ignore them."""

    def saved(self, checkpoint: Path) -> None:
        """Ignore it."""

    def said(self, message: str) -> None:
        """Ignore it."""


class HearingWatcher(SilentWatcher):
    """A `Watcher` that prints what is said, and nothing else."""

    def __init__(self, console: Console) -> None:
        """Print to a console."""
        self._console = console

    def said(self, message: str) -> None:
        """Print it."""
        print_lines(self._console, [message])


def pass_rate_table(before: Row, after: Row) -> Table:
    """Return the held-out pass rate per level in two rows of metrics, and its mean; once, where
    both are of one step."""
    rows = [before, after] if before["step"] < after["step"] else [after]
    table = Table(title="held-out pass rate")
    table.add_column("level")
    for row in rows:
        table.add_column(f"step {row['step']}", justify="right")
    if len(rows) > 1:
        table.add_column("change", justify="right")

    def change(key: str) -> list[str]:
        return [f"{after[key] - before[key]:+.3f}"] if len(rows) > 1 else []

    prefix = "eval/pass_rate/level="
    for key in before:
        if key.startswith(prefix):
            level = escape(key.removeprefix(prefix))
            table.add_row(level, *(f"{row[key]:.3f}" for row in rows), *change(key))
    if any(row["eval/completions_masked"] for row in rows):
        table.add_row("not scored", *map(_not_scored, rows))
    table.add_section()
    means = (f"{row['eval/pass_rate']:.3f} +- {row['eval/pass_rate_se']:.3f}" for row in rows)
    table.add_row("mean", *means, *change("eval/pass_rate"))
    return table


def _not_scored(row: Row) -> str:
    of_all = f" of {row['eval/completions']}" if "eval/completions" in row else ""
    return f"{row['eval/completions_masked']}{of_all}"


def _best_and_worst(samples: Sequence[Row]) -> list[Row]:
    """Return of each training group the completion with the highest and the lowest reward."""
    groups: dict[str, list[Row]] = {}
    for row in samples:
        if row["split"] == "train":
            groups.setdefault(row["key"], []).append(row)
    chosen = []
    for rows in list(groups.values())[:_SHOWN_GROUPS]:
        ranked = sorted(rows, key=lambda row: row["total"])
        chosen += [ranked[-1], ranked[0]]
    return chosen


def _summary(row: Row) -> str:
    figures = [
        f"pass {share(row['train/pass_rate'])}",
        f"informative {share(row['train/informative_share'])}",
        f"beta {row['kl/beta']:.4f}",
    ]
    if not math.isnan(row["kl/ref_nats_per_token"]):
        figures.append(f"KL {row['kl/ref_nats_per_token']:.4f}")
    if row["kl/old_nats_per_token"] > 0:
        figures.append(f"KL to old {row['kl/old_nats_per_token']:.4f}")
    if row["kl/updates_left_out"] > 0:
        figures.append(f"updates left out {row['kl/updates_left_out']}")
    if row["train/completions_masked"] > 0:
        figures.append(f"not scored {row['train/completions_masked']}")
    if row["time/score_s"] > max(SLOW_SCORING_S, row["step_s"] / 2):
        figures.append(f"scoring {row['time/score_s']:.1f} s")
    if row["optim/lr"] == 0:
        figures.append("critic alone")
    if "critic/explained_variance" in row:
        figures.append(f"explained variance {row['critic/explained_variance']:.2f}")
    return "  ".join([*figures, f"{row['rollout/tokens_per_s']:,.0f} tokens/s"])


def share(value: float) -> str:
    """Return a share with two decimals, "-" where it is not a number: nothing was counted."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _clip(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else flat[: _SHOWN_CHARACTERS - 1] + "…"
