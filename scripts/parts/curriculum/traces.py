"""One recorded run for `bench_beliefs.py`: a child process on one core, and the row that it leaves.

PYTHONPATH=scripts python -m parts.curriculum.traces run SPEC OUT.json [--core N]

SPEC is a JSON object with the fields of `Spec`. The row holds every scored group, and the true pass
rates of the whole pool every few steps, by the step that they came before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from parts.curriculum.arms import Spec
from parts.curriculum.run import Subject, subject_of
from parts.curriculum.sums import pool_of
from parts.shared.child import child_main
from rl_llm.trainer import Trainer

RATES_EVERY = 16  # Steps.
_DIGITS = 4

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one run, and write the row when all is done."""
    return child_main(arguments, __doc__, {"run": _record})


def _record(fields: Mapping[str, Any]) -> Row:
    spec = Spec(**fields)
    with subject_of(spec) as subject:
        return record(spec, subject)


def record(spec: Spec, subject: Subject) -> Row:
    """Train until the budget is spent."""
    draws = _Draws()
    parts = replace(subject.parts, draw_log=draws)
    trainer, rates = Trainer(parts), {}
    while parts.counters.completions < spec.budget:
        if parts.counters.step % RATES_EVERY == 0:
            found = subject.rates(range(len(subject.problems)))
            rates[parts.counters.step + 1] = found.round(_DIGITS).tolist()
        trainer.take_one_step()
    keys = [problem.key for problem in subject.problems]
    assert keys == [problem.key for problem in pool_of(parts.recipe, spec.seed)]
    positions = {key: position for position, key in enumerate(keys)}
    groups = [
        (row["step"], positions[row["key"]], row["correct"], row["counted"]) for row in draws.rows
    ]
    return {**asdict(spec), "settings": spec.settings, "groups": groups, "rates": rates}


class _Draws:
    """A log of scored groups that stays in memory."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    raise SystemExit(main())
