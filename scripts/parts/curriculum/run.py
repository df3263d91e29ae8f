"""One run of `bench_curriculum.py`: a child process on one core, and the row that it leaves.

PYTHONPATH=scripts python -m parts.curriculum.run run|check-oracle SPEC OUT.json [--core N]

SPEC is a JSON object with the fields of `Spec`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from parts.curriculum.arms import BINS, Spec
from parts.curriculum.oracle import Oracle, WorkedSolutions, mixed_probability
from parts.shared.child import built, child_main, mean_rate
from rl_llm.cli.parts import sampling_of
from rl_llm.curriculum.samplers import SAMPLERS
from rl_llm.records import Problem, Request
from rl_llm.seeds import derive_seed
from rl_llm.trainer import Evaluation, Parts, Trainer

NUM_CHECKED, NUM_SAMPLES = 64, 64

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run that has not begun."""

    parts: Parts
    problems: Sequence[Problem]
    rates: WorkedSolutions


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one run, or check what the oracle knows, and write the row when all is done."""
    modes = {
        "run": partial(_with_subject, measure),
        "check-oracle": partial(_with_subject, check_oracle),
    }
    return child_main(arguments, __doc__, modes)


def _with_subject(work: Callable[[Spec, Subject], Row], fields: Mapping[str, Any]) -> Row:
    spec = Spec(**fields)
    with subject_of(spec) as subject:
        return work(spec, subject)


@contextmanager
def subject_of(spec: Spec) -> Iterator[Subject]:
    """Put the parts of `rl-llm train` together, and let the oracle see the policy."""
    SAMPLERS["oracle"] = Oracle
    with built(spec.recipe()) as run:
        problems = run.data.train.problems
        rates = WorkedSolutions(
            run.model, problems, temperature=run.parts.recipe.rollout.temperature or 1.0
        )
        Oracle.true_rates = rates
        yield Subject(parts=run.parts, problems=problems, rates=rates)


def measure(spec: Spec, subject: Subject) -> Row:
    """Train until the budget is spent, evaluating at the first step past each multiple of
    `evaluate_every` completions."""
    parts, trainer = subject.parts, Trainer(subject.parts)
    start_rates = subject.rates(range(len(subject.problems)))
    curve: list[Row] = [_point(parts, parts.evaluator(), share=None)]
    num_mixed = num_generated = 0.0
    while parts.counters.completions < spec.budget:
        before = parts.counters.completions
        mixed, generated = _mixed_completions(parts, trainer.take_one_step(), since=before)
        num_mixed, num_generated = num_mixed + mixed, num_generated + generated
        if before // spec.evaluate_every < parts.counters.completions // spec.evaluate_every:
            curve.append(_point(parts, parts.evaluator(), share=num_mixed / num_generated))
            num_mixed = num_generated = 0.0
    return {
        **asdict(spec),
        "settings": spec.settings,
        "steps": parts.counters.step,
        "pool": {
            "histogram": np.histogram(start_rates, bins=BINS)[0].tolist(),
            "informative": _mean_mixed(parts, start_rates),
        },
        "curve": {key: [point[key] for point in curve] for key in curve[0]},
    }


def _point(parts: Parts, evaluation: Evaluation, *, share: float | None) -> Row:
    """Return one evaluation; `share` is that of the completions since the last one that stood in
    informative groups.

    `pass_rate` is that of the levels that are trained on; a level above them stands alone.
    """
    trained = set(parts.recipe.data.train[0].options["levels"])
    return {
        "completions": parts.counters.completions,
        "tokens": parts.counters.tokens,
        "pass_rate": mean_rate(evaluation, trained),
        "informative_share": None if share is None else round(share, 5),
        **{f"level={k}": round(rate.mean, 4) for k, rate in evaluation.by_level.items()},
    }


def _mixed_completions(parts: Parts, row: Row, *, since: int) -> tuple[float, int]:
    """Return how many of a step's completions stood in mixed groups, and how many there were.

    Where a gate admits mixed groups alone, all of those were admitted, with all their completions;
    elsewhere all groups have the same size.
    """
    generated = parts.counters.completions - since
    if parts.recipe.curriculum.gates:
        return row["train/groups_admitted"] * parts.recipe.rollout.group_size, generated
    return row["train/informative_share"] * generated, generated


def _mean_mixed(parts: Parts, rates: np.ndarray) -> float:
    mixed = mixed_probability(rates, group_size=parts.recipe.rollout.group_size)
    return round(float(mixed.mean()), 4)


def check_oracle(spec: Spec, subject: Subject) -> Row:
    """Compare what the oracle sees with sampling, before the first step and after the last."""
    parts, trainer = subject.parts, Trainer(subject.parts)
    checks = [_compare(spec, subject)]
    while parts.counters.completions < spec.budget:
        trainer.take_one_step()
    return {**asdict(spec), "checks": [*checks, _compare(spec, subject)]}


def _compare(spec: Spec, subject: Subject) -> Row:
    """Sample some problems, evenly over the pool, with the policy as it stands."""
    parts = subject.parts
    positions = np.linspace(0, len(subject.problems) - 1, NUM_CHECKED).astype(np.int64)
    requests = [
        Request(
            problem=subject.problems[position],
            num_completions=NUM_SAMPLES,
            sampling=sampling_of(parts.recipe),
            stream_key=derive_seed(spec.seed, "check-oracle", subject.problems[position].key),
        )
        for position in positions
    ]
    groups = parts.generation(requests)
    sampled = np.array([np.mean([score.correct for score in group.scores]) for group in groups])
    exact = subject.rates(positions)
    noise = np.sqrt(exact * (1.0 - exact) / NUM_SAMPLES) * np.sqrt(2.0 / np.pi)
    return {
        "completions": parts.counters.completions,
        "problems": NUM_CHECKED,
        "samples": NUM_SAMPLES,
        "mean_difference": round(float(np.mean(sampled - exact)), 5),
        "mean_absolute_difference": round(float(np.abs(sampled - exact).mean()), 5),
        "of_sampling_alone": round(float(noise.mean()), 5),
        "largest": round(float(np.abs(sampled - exact).max()), 5),
    }


if __name__ == "__main__":
    raise SystemExit(main())
