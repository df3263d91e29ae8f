"""What the report says in numbers and in samples: the headline, and completions put side by
side."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from rl_llm.records import level_order
from rl_llm.report.read import RunRecord, Sample, Series

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """A held-out pass rate at a step, with its standard error where it was written; `num_masked` of
    the completions could not be scored, and count as wrong."""

    step: int
    mean: float
    error: float | None
    num_masked: int = 0
    num_completions: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One held-out problem as it was answered at the first and at the last evaluation."""

    before: Sample
    after: Sample


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How many paired problems went from one outcome to another; in those of `failed` one of the
    two completions could not be scored, so it is neither right nor wrong."""

    learnt: int
    kept: int
    lost: int
    open: int
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class SampledGroup:
    """Completions of one training problem in one step."""

    completions: tuple[Sample, ...]

    @property
    def problem(self) -> Sample:
        """The first completion, for what all of them share: prompt, answer, level, belief."""
        return self.completions[0]

    @property
    def shown(self) -> tuple[Sample, ...]:
        """All of up to four completions, else the two with the highest and the two with the lowest
        reward."""
        ordered = sorted(self.completions, key=lambda sample: -(sample.total or 0.0))
        return tuple(ordered if len(ordered) <= 4 else (*ordered[:2], *ordered[-2:]))


def held_out(run: RunRecord) -> tuple[PassRate, ...]:
    """Return the held-out pass rate at the first and at the last evaluation: none, one or two."""
    mean, error = run.series("eval/pass_rate"), run.series("eval/pass_rate_se")
    errors = dict(zip(error.steps, error.values, strict=True))
    masked, counts = (_by_step(run, f"eval/completions{end}") for end in ("_masked", ""))
    points = [
        PassRate(
            step=step,
            mean=value,
            error=errors.get(step),
            num_masked=masked.get(step, 0),
            num_completions=counts.get(step),
        )
        for step, value in zip(mean.steps, mean.values, strict=True)
    ]
    return tuple(points if len(points) < 2 else (points[0], points[-1]))


def _by_step(run: RunRecord, key: str) -> dict[int, int]:
    series = run.series(key)
    return {step: int(value) for step, value in zip(series.steps, series.values, strict=True)}


def pass_rate_for_completions(run: RunRecord) -> list[tuple[float, float]]:
    """Return `(completions generated up to then, held-out pass rate)` of each evaluation; none
    where the run has not counted completions."""
    mean, spent = run.series("eval/pass_rate"), run.series("rollout/completions")
    completions = {0: 0.0, **dict(zip(spent.steps, spent.values, strict=True))}
    points = zip(mean.steps, mean.values, strict=True)
    return [(completions[step], value) for step, value in points if step in completions and spent]


def last_value(series: Series) -> float | None:
    """Return the newest value, or None for a series without points."""
    return series.values[-1] if series else None


def wall_seconds(run: RunRecord) -> float | None:
    """Return the seconds of all steps, evaluations and checkpoints; None when no row has a time."""
    parts = [run.series(key) for key in ("step_s", "time/eval_s", "time/checkpoint_s")]
    return sum(series.total for series in parts) if any(parts) else None


def pairs(run: RunRecord) -> tuple[Pair, ...]:
    """Pair the held-out samples of the first and the last evaluation by problem.

    Levels take turns, and within a level problems stand in the order of their keys, so what is
    shown first does not depend on how it turned out. Of several samples of a problem the first
    counts.
    """
    rows = [sample for sample in run.samples if sample.split == "eval"]
    steps = sorted({sample.step for sample in rows})
    if len(steps) < 2:
        return ()
    before = _first_by_key(sample for sample in rows if sample.step == steps[0])
    after = _first_by_key(sample for sample in rows if sample.step == steps[-1])
    shared = [Pair(before=before[key], after=after[key]) for key in sorted(before.keys() & after)]
    return _by_turns(shared, level_of=lambda pair: pair.before.level)


def outcomes(pairs: tuple[Pair, ...]) -> Outcomes:
    """Count the pairs by whether the first and the last completion are correct."""
    scored = [pair for pair in pairs if not (pair.before.error or pair.after.error)]
    seen = [(pair.before.correct, pair.after.correct) for pair in scored]
    return Outcomes(
        learnt=seen.count((False, True)),
        kept=seen.count((True, True)),
        lost=seen.count((True, False)),
        open=seen.count((False, False)),
        failed=len(pairs) - len(scored),
    )


def lone_evaluation(run: RunRecord) -> tuple[Sample, ...]:
    """Return the held-out samples of a run that has evaluated only once, as `pairs` orders them."""
    rows = [sample for sample in run.samples if sample.split == "eval"]
    is_lone = len({sample.step for sample in rows}) == 1
    ordered = sorted(_first_by_key(rows).values(), key=lambda sample: sample.key)
    return _by_turns(ordered, level_of=lambda sample: sample.level) if is_lone else ()


def last_training_groups(run: RunRecord) -> tuple[SampledGroup, ...]:
    """Return the training samples of the newest step that has any, by problem; levels take
    turns."""
    rows = [sample for sample in run.samples if sample.split == "train"]
    newest = max((sample.step for sample in rows), default=0)
    by_key: dict[str, list[Sample]] = {}
    for sample in rows:
        if sample.step == newest:
            by_key.setdefault(sample.key, []).append(sample)
    groups = [SampledGroup(completions=tuple(samples)) for samples in by_key.values()]
    return _by_turns(groups, level_of=lambda group: group.problem.level)


def _by_turns(items: Sequence[Item], *, level_of: Callable[[Item], str]) -> tuple[Item, ...]:
    """Put one item of each level first, then a second of each, and so on; within a level the order
    stays."""
    by_level: dict[str, list[Item]] = {}
    for item in items:
        by_level.setdefault(level_of(item), []).append(item)
    turns = zip_longest(*(by_level[level] for level in sorted(by_level, key=level_order)))
    return tuple(item for turn in turns for item in turn if item is not None)


def _first_by_key(samples: Iterable[Sample]) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    for sample in samples:
        found.setdefault(sample.key, sample)
    return found
