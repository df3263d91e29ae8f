"""Pictures of benchmarks on the pages that ask for them."""

from collections.abc import Sequence
from pathlib import Path

from bench_runs_docs import write_between


def links(files: Sequence[Path]) -> list[str]:
    """Return the Markdown that shows each picture on a page of docs."""
    return [f"![{file.stem}](benchmarks/{file.name})" for file in files]


def hang(files: Sequence[Path], pages: Path) -> list[Path]:
    """Put each picture on every page of a folder that holds the markers `STEM:begin` and
    `STEM:end` of its name, and return those pages."""
    hung = []
    for page in sorted(pages.glob("*.md")):
        for file, link in zip(files, links(files), strict=True):
            if f"<!-- {file.stem}:begin -->" in page.read_text(encoding="utf-8"):
                write_between(page, file.stem, link)
                hung.append(page)
    return hung
