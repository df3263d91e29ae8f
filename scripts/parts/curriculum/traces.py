"""One recorded run for `bench_beliefs.py`: a child process on one core, and the row that it leaves.

PYTHONPATH=scripts python -m parts.curriculum.traces run SPEC OUT.json [--core N]

SPEC is a JSON object with the fields of `Spec`. The row holds every scored group, and the true pass
rates of the whole pool every few steps, by the step that they came before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parts.curriculum.arms import Spec
from parts.curriculum.run import Subject, subject_of
from parts.shared.child import child_main
from rl_llm.trainer import Trainer
from rl_llm.trainer.draws import read_draws

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
    parts, trainer = subject.parts, Trainer(subject.parts)
    rates: dict[int, list[float]] = {}
    while parts.counters.completions < spec.budget:
        if parts.counters.step % RATES_EVERY == 0:
            found = subject.rates(range(len(subject.problems)))
            rates[parts.counters.step + 1] = found.round(_DIGITS).tolist()
        trainer.take_one_step()
    positions = {problem.key: position for position, problem in enumerate(subject.problems)}
    groups = [
        (draw.step, positions[draw.key], draw.num_correct, draw.num_counted)
        for draw in read_draws(parts.folder.draws)
    ]
    return {**asdict(spec), "settings": spec.settings, "groups": groups, "rates": rates}


if __name__ == "__main__":
    raise SystemExit(main())
