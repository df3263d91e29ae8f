"""`rl-llm runs`: the runs in a folder, oldest first."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl_llm.cli.tables import plain_lines
from rl_llm.errors import InputError
from rl_llm.report.runs import RunSummary, find_runs, summarise
from rl_llm.report.summary import PassRate

NAME = "runs"
HELP = "list the runs in a folder, the one that wrote last at the end"

_HEADINGS = ("name", "state", "step", "model", "algorithm", "first", "last", "written")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm runs runs --json"
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        default=Path("runs"),
        help="the folder that holds the folders of runs (default: runs)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> int:
    """Print a line for each run, and on stderr what is damaged."""
    found = sorted(_summaries(args.folder), key=lambda each: (each.at, each.name))
    if args.json:
        print(json.dumps([_tree(each) for each in found], indent=1, ensure_ascii=False))
        return 0
    console = Console()
    rows = [_cells(each) for each in found]
    if not rows:
        print(f"{args.folder} holds no run")
    elif console.is_terminal:
        console.print(_table(rows, width=console.width))
    else:
        print("\n".join(plain_lines([_HEADINGS, *rows])))
    return 0


def _summaries(folder: Path) -> Iterator[RunSummary]:
    for run_dir in find_runs(folder):
        try:
            yield summarise(run_dir)
        except InputError as error:
            print(f"{run_dir.name} is left out: {error}", file=sys.stderr)


def _cells(each: RunSummary) -> tuple[str, ...]:
    return (
        each.name,
        each.state,
        f"{each.step}/{each.steps}",
        Path(each.model).name,
        Path(each.algorithm).name,
        _rate(each.first),
        _rate(each.last),
        each.at.astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _rate(rate: PassRate | None) -> str:
    if rate is None:
        return "-"
    return f"{rate.mean:.3f}" if rate.error is None else f"{rate.mean:.3f} +-{rate.error:.3f}"


def _table(rows: list[tuple[str, ...]], *, width: int) -> Table:
    """Return the table; where it would be too wide, cells of several words stand on several
    lines, and what is still too long of a name is folded."""
    table = Table(title="first and last held-out pass rate of each run")
    for heading in ("name", "state", "step", "model", "first", "last", "written"):
        least = 8 if heading == "name" else None
        table.add_column(heading, no_wrap=least is None, min_width=least, overflow="fold")
    # With two spaces and a line for each cell, and the line at the end.
    num_wide = sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True))
    between = " " if num_wide < width else "\n"
    for name, state, step, model, algorithm, *rest in rows:
        cells = (name, state, step, f"{model} {algorithm}", *rest)
        table.add_row(*(escape(cell.replace(" ", between)) for cell in cells))
    return table


def _tree(each: RunSummary) -> dict[str, Any]:
    return asdict(each) | {"at": each.at.isoformat(timespec="seconds")}
