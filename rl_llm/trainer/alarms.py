"""Alarms over the rows of metrics.jsonl: what looks wrong, said once, while the run goes on.

All that an alarm remembers follows from the rows before, so a resumed run that is shown its rows
again goes on as one that never stopped.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rl_llm.config import Recipe
from rl_llm.trainer.held_out_alarms import Collapse, Overfit, SideReward
from rl_llm.trainer.rollout_alarms import Duplicates, Length, OneAnswer, Truncation

Row = Mapping[str, Any]

PREFIX = "alarms/"


class Alarm(Protocol):
    """Takes note of row after row."""

    def __call__(self, row: Row) -> Mapping[str, str | None]:
        """Return by name what looks wrong, None where nothing does; nothing at all for a row that
        it cannot judge."""
        ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the alarms say of a row: its keys, 1 where an alarm stands, and a message for each that
    was raised by this row."""

    keys: Mapping[str, int]
    messages: tuple[str, ...]


class Alarms:
    """Asks every alarm about every row; one that stands speaks again only after it has cleared."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        """Start with no row seen."""
        self._alarms = tuple(alarms)
        self._standing: set[str] = set()

    def recall(self, rows: Iterable[Row]) -> None:
        """Take note of the rows of an earlier part of the run, in silence."""
        for row in rows:
            self(row)

    def __call__(self, row: Row) -> Found:
        """Take note of the next row, and return what there is to say of it."""
        finite = {key: value for key, value in row.items() if not _is_nothing(value)}
        verdicts = {name: why for alarm in self._alarms for name, why in alarm(finite).items()}
        messages = [
            f"alarm {name}: {why}"
            for name, why in verdicts.items()
            if why is not None and name not in self._standing
        ]
        raised = {name for name, why in verdicts.items() if why is not None}
        self._standing = (self._standing - verdicts.keys()) | raised
        keys = {f"{PREFIX}{name}": int(name in raised) for name in verdicts}
        return Found(keys=keys, messages=tuple(messages))


def build_alarms(recipe: Recipe, *, side_rewards: Collection[str]) -> Alarms:
    """Build the alarms that a recipe asks for; `side_rewards` are on no channel `correctness`."""
    rollout, samples = recipe.rollout, recipe.eval.samples_per_problem
    build: Mapping[str, Callable[[], Alarm]] = {
        "reward": lambda: SideReward(side_rewards, samples_per_problem=samples),
        "overfit": lambda: Overfit(samples_per_problem=samples),
        "collapse": lambda: Collapse(side_rewards, samples_per_problem=samples),
        "length": Length,
        "truncation": lambda: Truncation(problems_per_step=rollout.problems_per_step),
        "one_answer": lambda: OneAnswer(problems_per_step=rollout.problems_per_step),
        "duplicates": lambda: Duplicates(group_size=rollout.group_size),
    }
    return Alarms([build[name]() for name in dict.fromkeys(recipe.alarms.watch)])


def _is_nothing(value: Any) -> bool:
    """Whether a row says nothing by it: null in the file is NaN before it is written."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))
