"""What pictures of benchmarks share: a mark for the target, and their places on the pages."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from parts.shared.docs import write_between
from rl_llm.report.canvas import MUTED


def mark_target(panel: Axes, height: float) -> None:
    """Draw a dashed line across a panel, called "target" at its right end."""
    panel.axhline(height, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    panel.annotate(
        "target",
        (1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        annotation_clip=False,
    )


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
