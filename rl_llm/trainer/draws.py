"""The log of every scored group: what was believed of a problem when it was drawn, and what came
of it.

`draws.jsonl` lies beside metrics.jsonl and is written and cut by the same `JsonlSink`; its fields
are explained in docs/metrics.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rl_llm.curriculum.draw_record import Draw
from rl_llm.curriculum.gates import counted_scores
from rl_llm.records import Level, ScoredGroup
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.metrics import Row, iter_rows

_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class LoggedDraw:
    """One line of the log: `num_correct` of `num_counted` completions of a problem were correct,
    and Beta(`belief_a`, `belief_b`) was believed before that."""

    step: int
    round: int
    key: str
    source: str
    level: Level
    num_correct: int
    num_counted: int
    belief_a: float
    belief_b: float
    informative: float
    admitted: bool
    why: str


def draw_rows(harvest: Harvest, *, step: int) -> list[Row]:
    """Return one row for each scored group of a step, in their order."""
    admitted_keys = {group.group.problem.key for group in harvest.admitted}
    return [
        _row(group, draw, admitted=group.group.problem.key in admitted_keys, step=step)
        for group, draw in zip(harvest.scored, harvest.draws, strict=True)
    ]


def _row(group: ScoredGroup, draw: Draw, *, admitted: bool, step: int) -> Row:
    problem, counted = group.group.problem, counted_scores(group)
    return {
        "step": step,
        "round": draw.round,
        "key": problem.key,
        "source": problem.source,
        "level": problem.level,
        "correct": sum(score.correct for score in counted),
        "counted": len(counted),
        "belief": [round(draw.belief_a, _DIGITS), round(draw.belief_b, _DIGITS)],
        "informative": round(draw.informative, _DIGITS),
        "admitted": admitted,
        "why": draw.why,
    }


def read_draws(path: Path, *, prefix: str = "") -> Iterator[LoggedDraw]:
    """Yield the logged draws of problems whose key begins with `prefix`, oldest first.

    Nothing comes of a file that is not there; a last line that was cut off in writing is left out.
    """
    for row in iter_rows(path):
        if row["key"].startswith(prefix):
            belief_a, belief_b = row["belief"]
            yield LoggedDraw(
                step=row["step"],
                round=row["round"],
                key=row["key"],
                source=row["source"],
                level=row["level"],
                num_correct=row["correct"],
                num_counted=row["counted"],
                belief_a=belief_a,
                belief_b=belief_b,
                informative=row["informative"],
                admitted=row["admitted"],
                why=row["why"],
            )
