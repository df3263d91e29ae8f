"""The HTML report of a run: one file that needs nothing but itself."""

from collections.abc import Iterable
from pathlib import Path

from rl_llm.errors import InputError
from rl_llm.records import Problem
from rl_llm.report.html import render
from rl_llm.report.moved import read_moved
from rl_llm.report.pair import render_pair
from rl_llm.report.read import read_run

__all__ = ["write_pair", "write_report"]

REPORT_FILE = "report.html"


def write_report(run_dir: Path, *, problems: Iterable[Problem] = ()) -> Path:
    """Write `report.html` into a run's folder and return its path.

    The report shows what the folder holds: a run that is still going, has one row or never
    evaluated gives a shorter page. The folder holds the texts of some problems alone; `problems`
    gives those of more. The same folder gives the same bytes. Raises `InputError` when
    the folder is no run's, or cannot be written to.
    """
    run = read_run(run_dir)
    page = render(run, read_moved(run_dir, run, problems))
    return _write(page, run_dir / REPORT_FILE)


def write_pair(first_dir: Path, second_dir: Path) -> Path:
    """Write a page about two runs into the folder of the first, called by that of the second, and
    return its path; raises what `write_report` does."""
    first, second = read_run(first_dir), read_run(second_dir)
    names = (first.name, second.name)
    if first.name == second.name:
        names = (str(first_dir), str(second_dir))
    page = render_pair(first, second, names=names)
    return _write(page, first_dir / f"report-and-{second_dir.resolve().name}.html")


def _write(page: str, target: Path) -> Path:
    aside = target.with_name(f".{target.name}.partial")
    try:
        aside.write_text(page, encoding="utf-8", errors="replace")
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {str(target)!r}: {error.strerror}; make the folder writable, or copy it"
        ) from None
    return target
