"""Tables of results by source and level, and lines in columns where nobody looks at a terminal."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from rl_llm.pass_rates import Bucket, PassRate


def bucket_table(
    title: str, headings: Sequence[str], rows: Sequence[tuple[Bucket, Sequence[str]]]
) -> Table:
    """Return a row of cells for each bucket; sources stand in the table where there are several."""
    has_sources = len({bucket.source for bucket, _ in rows}) > 2
    table = Table(title=title)
    for heading in ("source", "level") if has_sources else ("level",):
        table.add_column(heading, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for bucket, cells in rows:
        source = "all" if bucket.source is None else bucket.source
        level = "all" if bucket.level is None else str(bucket.level)
        if bucket.source is None:
            table.add_section()
        names = (source, level) if has_sources else (level,)
        table.add_row(*map(escape, names), *cells, end_section=bucket.level is None)
    return table


def with_error(rate: PassRate) -> str:
    """Return a mean and its standard error, in two words that a narrow table puts on two lines."""
    return f"{rate.mean:.3f} +-{rate.standard_error:.3f}"


def unscored(num_masked: int, num_completions: int) -> str:
    """Say of an evaluation for how many completions no reward could be had."""
    return (
        f"{num_masked} of {num_completions} completions could not be scored (a reward failed or "
        "gave no number); they count as wrong"
    )


def plain_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return one line a row, in columns as wide as their widest entry."""
    cells = [*rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
