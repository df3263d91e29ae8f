"""What a finished run came to, and where to go next."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from rl_llm.cli.progress import pass_rate_table, print_lines
from rl_llm.report import REPORT_FILE
from rl_llm.trainer import Parts, read_rows


def show_outcome(parts: Parts, console: Console, *, source: Path) -> None:
    """Print pass rates before and after, where the results lie, and where to go next."""
    folder = parts.folder
    evaluated = [row for row in read_rows(folder.metrics) if "eval/pass_rate" in row]
    if evaluated:
        console.print(pass_rate_table(evaluated[0], evaluated[-1]))
    lines = [f"adapter  {folder.adapter}", f"report   {folder.path / REPORT_FILE}", "", "next:"]
    lines += [f"  {_program()} {shlex.join(words)}" for words in _next_commands(parts, source)]
    print_lines(console, lines)


def _next_commands(parts: Parts, source: Path) -> Iterator[tuple[str, ...]]:
    run_dir = parts.folder.path
    if parts.evaluator.has_problems:
        yield "evaluate", str(run_dir)
    yield "data", "preview", str(source)
    is_uniform = parts.recipe.curriculum.sampler.name == "uniform"
    other = "posterior" if is_uniform else "uniform"
    name = f"{run_dir.name}-{other}"
    yield "train", str(source), f"run.name={name}", f"curriculum.sampler={{name: {other}}}"
    if parts.evaluator.has_problems:
        yield "compare", str(run_dir.with_name(name)), str(run_dir)


def _program() -> Any:
    """Return how this program was called, for a person to call it again."""
    called = Path(sys.argv[0])
    if called.name != "rl-llm":
        return "rl-llm"
    found = shutil.which("rl-llm")
    if found and Path(found).resolve() == called.resolve():
        return "rl-llm"
    here = Path.cwd()
    return called.relative_to(here) if called.is_relative_to(here) else called
