"""Which alarms a run raised, from the keys of its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rl_llm.report.canvas import label
from rl_llm.report.read import RunRecord

PREFIX = "alarms/"

_LONGEST_NAME = 80
_MEANINGS = {
    "reward": "this reward rose on held-out problems, and their pass rate did not",
    "overfit": "the pass rate of training problems rose, and that of held-out ones fell",
    "collapse": "the held-out pass rate fell far below the best before",
    "length": "completions grew by half or more within some steps",
    "truncation": "more completions were cut at the limit",
    "one_answer": "most completions gave the same answer to different problems",
    "duplicates": "wrong groups held the same text again and again",
}


@dataclass(frozen=True, kw_only=True)
class Stand:
    """An alarm from the step that raised it to the last at which it stood; `is_open` where nothing
    has cleared it since."""

    name: str
    first: int
    last: int
    is_open: bool

    @property
    def when(self) -> str:
        """The steps, in words."""
        if self.is_open:
            return f"from step {self.first} to the end"
        if self.first == self.last:
            return f"at step {self.first}"
        return f"steps {self.first} to {self.last}"

    @property
    def meaning(self) -> str:
        """What it says; nothing of an alarm that is not known here."""
        return _MEANINGS.get(self.name.partition("/")[0], "")


def stands(run: RunRecord) -> tuple[Stand, ...]:
    """Return every alarm that was raised, in the order of their steps."""
    found = [stand for name in run.names_between(PREFIX) for stand in _stands_of(run, name)]
    return tuple(sorted(found, key=lambda stand: (stand.first, stand.name)))


def raised_at(run: RunRecord, *kinds: str) -> list[int]:
    """Return the steps at which alarms of some kinds were raised, each once."""
    return sorted({s.first for s in stands(run) if s.name.partition("/")[0] in kinds})


def _stands_of(run: RunRecord, name: str) -> Iterator[Stand]:
    series = run.series(f"{PREFIX}{name}")
    pairs = zip(series.steps, series.values, strict=True)
    for is_raised, group in groupby(pairs, key=lambda pair: pair[1] > 0):
        steps = [step for step, _ in group]
        if is_raised:
            is_open = steps[-1] == series.steps[-1]
            yield Stand(
                name=label(name, longest=_LONGEST_NAME),
                first=steps[0],
                last=steps[-1],
                is_open=is_open,
            )
