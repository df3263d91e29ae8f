"""`rl-llm compare`: the difference of two runs, or of two evaluations, on the same problems."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl_llm.cli.tables import bucket_table, unscored
from rl_llm.pass_rates import Difference
from rl_llm.report.compare import SHOWN_METRICS, Comparison, Side, compare, read_side

NAME = "compare"
HELP = "compare two runs, or two evaluations, on the held-out problems that both were measured on"

_TITLE = "held-out pass rate; A > B counts the problems that A solves more often"
_HEADINGS = ("problems", "A", "B", "B - A", "95 % interval", "A > B", "B > A")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm compare runs/quickstart runs/slower"
    for name in ("a", "b"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            type=Path,
            help="a run's folder, of which the last evaluation counts, or a file that "
            "`rl-llm evaluate RUN --out FILE.json` wrote",
        )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    found = compare(read_side(args.a), read_side(args.b))
    if args.json:
        print(json.dumps(_tree(found), indent=1, ensure_ascii=False))
        return 0
    console = Console()
    for line in _lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    rows = [(bucket, _cells(each)) for bucket, each in found.by_bucket]
    console.print(bucket_table(_TITLE, _HEADINGS, rows))
    metrics = {key: found.metrics[key] for key in SHOWN_METRICS if key in found.metrics}
    shown = {key: (_number(a), _number(b)) for key, (a, b) in metrics.items()}
    console.print(_pairs("last value of each metric", shown, justify="right"))
    if found.settings:
        console.print(_pairs("settings that differ", dict(found.settings), justify="left"))
    else:
        console.print("no setting differs")
    return 0


def _lines(found: Comparison) -> Iterator[str]:
    """Say what is compared, what is left out, and what counts as wrong without having been
    scored."""
    for name, side in (("A", found.a), ("B", found.b)):
        yield f"{name}  {side.source}, {_samples(side)}"
    alone = [len(side.problems) - found.num_common for side in (found.a, found.b)]
    if any(alone):
        yield (
            f"{found.num_common} problems are compared; left out, as the other lacks them: "
            f"{alone[0]} of A, {alone[1]} of B"
        )
    for name, side in (("A", found.a), ("B", found.b)):
        masked = sum(result.masked for result in side.problems.values())
        if masked:
            yield f"{name}: {unscored(masked, _num_samples(side))}"


def _samples(side: Side) -> str:
    each = sorted({result.samples for result in side.problems.values()})
    counts = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
    return f"{len(side.problems)} problems, {counts} sample{'s' * (each != [1])} of each"


def _num_samples(side: Side) -> int:
    return sum(result.samples for result in side.problems.values())


def _cells(each: Difference) -> tuple[str, ...]:
    interval = "-" if each.low is None else f"{each.low:+.3f} to {each.high:+.3f}"
    return (
        str(each.num_problems),
        f"{each.a:.3f}",
        f"{each.b:.3f}",
        f"{each.difference:+.3f}",
        interval,
        str(each.higher_a),
        str(each.higher_b),
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _pairs(title: str, rows: dict[str, tuple[str, str]], *, justify: Any) -> Table:
    table = Table(title=title)
    table.add_column("key", overflow="fold")
    for heading in ("A", "B"):
        table.add_column(heading, justify=justify, overflow="fold")
    for key, both in rows.items():
        table.add_row(*map(escape, (key, *both)))
    return table


def _tree(found: Comparison) -> dict[str, Any]:
    """Return the comparison as it is printed for scripts."""
    return {
        "a": found.a.source,
        "b": found.b.source,
        "left_out": {
            "a": len(found.a.problems) - found.num_common,
            "b": len(found.b.problems) - found.num_common,
        },
        "differences": [
            {"source": bucket.source, "level": bucket.level, **asdict(each)}
            for bucket, each in found.by_bucket
        ],
        "metrics": found.metrics,
        "settings": found.settings,
    }
