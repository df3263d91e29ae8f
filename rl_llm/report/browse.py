"""The kept completions of a run as a list to search: as many as a page can hold, over all of its
steps."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rl_llm.records import level_order
from rl_llm.report.pages import sample_macro, within
from rl_llm.report.read import RunRecord, Sample


@dataclass(frozen=True, kw_only=True)
class Browsable:
    """`rows` of `num_kept` completions, from `steps` of `num_steps` steps, newest first."""

    rows: Sequence[Markup]
    num_kept: int
    steps: Sequence[int]
    num_steps: int
    levels: Sequence[str]
    splits: Sequence[str]


def browsable(run: RunRecord, *, most_bytes: int) -> Browsable:
    """Return rows that take at most so many bytes.

    What does not fit is left out by steps: the last one stays longest, then the first, then those
    that halve the widest gap.
    """
    row, weights = sample_macro("row"), _weights(run)
    by_step: dict[int, list[Sample]] = {}
    for sample in run.samples:
        by_step.setdefault(sample.step, []).append(sample)
    ordered = [sample for step in spread_out(sorted(by_step)) for sample in by_step[step]]
    rendered = within((row(sample, weights) for sample in ordered), most_bytes=most_bytes)
    kept = list(zip(ordered, rendered, strict=False))
    kept.sort(key=lambda pair: -pair[0].step)  # Stable: a step's samples stay as they were written.
    samples = [sample for sample, _ in kept]
    return Browsable(
        rows=[markup for _, markup in kept],
        num_kept=len(run.samples),
        steps=sorted({sample.step for sample in samples}, reverse=True),
        num_steps=len(by_step),
        levels=sorted({sample.level for sample in samples}, key=level_order),
        splits=sorted({sample.split for sample in samples}),
    )


def spread_out(steps: Sequence[int]) -> Iterator[int]:
    """Yield sorted steps, the last and the first before others, then the middle of each gap, wide
    gaps first."""
    yield from reversed([*steps[:1], *steps[-1:]] if len(steps) > 1 else steps)
    gaps = deque([(0, len(steps) - 1)])
    while gaps:
        low, high = gaps.popleft()
        middle = (low + high) // 2
        if low < middle < high:
            yield steps[middle]
            gaps += [(low, middle), (middle, high)]


def _weights(run: RunRecord) -> dict[str, float]:
    """Return the weight of each reward by its name, as far as the recipe says it once."""
    uses = run.setting("rewards")
    told = [use for use in uses if isinstance(use, dict)] if isinstance(uses, list) else []
    names = [str(use.get("use")).rpartition(":")[2] for use in told]
    return {
        name: use["weight"]
        for name, use in zip(names, told, strict=True)
        if Counter(names)[name] == 1 and isinstance(use.get("weight"), int | float)
    }
