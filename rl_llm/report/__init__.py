"""The HTML report of a run: one file that needs nothing but itself."""

from pathlib import Path

from rl_llm.errors import InputError
from rl_llm.report.html import render
from rl_llm.report.read import read_run

__all__ = ["write_report"]

REPORT_FILE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder and return its path.

    The report shows what the folder holds: a run that is still going, has one row or never
    evaluated gives a shorter page. The same folder gives the same bytes. Raises `InputError` when
    the folder is no run's, or cannot be written to.
    """
    page = render(read_run(run_dir))
    target = run_dir / REPORT_FILE
    aside = run_dir / f".{REPORT_FILE}.partial"
    try:
        aside.write_text(page, encoding="utf-8", errors="replace")
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {str(target)!r}: {error.strerror}; make the folder writable, or copy it"
        ) from None
    return target
