"""Alarms over evaluations: what is rewarded, or trained on, and the held-out pass rate part ways;
or the latter collapses.

Where two things part, the last two evaluations are compared with an earlier one, so that one
evaluation off alone raises nothing. The earlier one is any whose own mean was the highest so far:
what only wins back what it had does not rise. Changes are counted in standard errors of the
difference, as if both evaluations were independent: they are of the same problems with the same
randomness, so real noise is less.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Row = Mapping[str, Any]

SURE = 3.0
"""So many standard errors up or down are no noise."""
LEAST_EFFECT = 0.5
"""Where the held-out pass rate did not fall, a side reward counts from half a standard deviation
between problems: of many problems what hardly matters is sure, too."""
COLLAPSED = 4.0
"""So many standard errors below the best of few evaluations is a collapse, if it is by a third."""
KEPT = 2 / 3
"""What keeps this share of the best pass rate has not collapsed."""
FLAT = 1.0
"""What has not risen by so many has not risen."""
LEAST_PROBLEMS = 8
"""Of fewer held-out problems a standard error says little, and of one nothing."""
LEAST_STEPS = 4
"""Steps whose spread gives a standard error to the training pass rate between evaluations."""


@dataclass(frozen=True)
class Measured:
    """A mean and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        """Return both as they stand in messages."""
        return f"{self.mean:.3f} +- {self.error:.3f}"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation measured: the held-out pass rate, and whatever else by name."""

    step: int
    num_problems: float
    held_out: Measured
    others: Mapping[str, Measured] = field(default_factory=dict)


def errors_between(before: Measured, after: Measured) -> float:
    """Return the change in standard errors of the difference; infinite where neither has one."""
    change, error = after.mean - before.mean, math.hypot(before.error, after.error)
    if abs(change) < 1e-9:  # Rounding, of means over one and the same number.
        return 0.0
    return change / error if error > 0 else math.copysign(math.inf, change)


class SideReward:
    """Raised for a reward off channel `correctness` whose held-out mean rose by `SURE` standard
    errors, while the held-out pass rate fell by as many; or did not rise by `FLAT`, where the
    reward rose by `LEAST_EFFECT`, too.

    A pass rate that lies within `SURE` standard errors of 1 cannot be asked to rise: then it has to
    have fallen.
    """

    def __init__(self, rewards: Collection[str], *, samples_per_problem: int) -> None:
        """Watch these rewards, each as an alarm of its own."""
        self._rewards = tuple(rewards)
        self._samples_per_problem = samples_per_problem
        self._past: list[Evaluated] = []

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge an evaluated row."""
        now = _evaluated(row, self._samples_per_problem)
        if now is None:
            return {}
        keys = {name: f"eval/reward/{name}_mean" for name in self._rewards}
        others = {name: found for name, key in keys.items() if (found := _measured(row, key))}
        self._past.append(replace(now, others=others))
        return {f"reward/{name}": self._why(name) for name in others}

    def _why(self, name: str) -> str | None:
        for start, later in _comparisons(self._past, name):
            if all(_parted(start, each, name) for each in later):
                now = later[-1]
                went = "fell" if _fell(start, now) else "did not rise"
                return (
                    f"from step {start.step} to step {now.step} the held-out mean of reward "
                    f"{name!r} rose from {start.others[name]} to {now.others[name]}, and the "
                    f"held-out pass rate {went}: {start.held_out} to {now.held_out}. The policy "
                    "may be collecting it without solving problems: lower its weight, or let it "
                    "count with the correct answer alone (only_if)"
                )
        return None


class Overfit:
    """Raised where the pass rate of training problems rose and that of held-out ones fell, both by
    `SURE` standard errors.

    The former is `eval/train_pass_rate` where there is one, else the mean of `train/pass_rate` over
    the steps since the evaluation before.
    """

    def __init__(self, *, samples_per_problem: int) -> None:
        """Start with nothing seen."""
        self._samples_per_problem = samples_per_problem
        self._past: list[Evaluated] = []
        self._rates: list[float] = []

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Take note of a step, and judge an evaluated row."""
        if "train/pass_rate" in row:
            self._rates.append(row["train/pass_rate"])
        now = _evaluated(row, self._samples_per_problem)
        if now is None:
            return {}
        train = _measured(row, "eval/train_pass_rate") or _mean_of(self._rates)
        self._rates = []
        others = {"train": train} if train else {}
        self._past.append(replace(now, others=others))
        return {"overfit": self._why()} if train else {}

    def _why(self) -> str | None:
        for start, later in _comparisons(self._past, "train"):
            if all(_rise(start, each, "train") >= SURE and _fell(start, each) for each in later):
                now = later[-1]
                return (
                    f"from step {start.step} to step {now.step} the pass rate of training problems "
                    f"rose from {start.others['train']} to {now.others['train']}, and that of "
                    f"held-out ones fell from {start.held_out} to {now.held_out}. What is learnt "
                    "does not carry over: add problems, lower optim.lr or raise beta"
                )
        return None


class Collapse:
    """Raised where the held-out pass rate lies below `KEPT` of the best before, by more standard
    errors than noise alone brings about: `COLLAPSED`, and more behind many evaluations.

    The best of k evaluations is the luckiest of them, so the square of what is asked for grows by
    2 ln k. The standard error is that of two evaluations of one policy: their difference itself
    counts as spread between problems, so that few problems of which by chance all were solved, or
    none, do not have an error of 0.
    """

    def __init__(self, side_rewards: Collection[str], *, samples_per_problem: int) -> None:
        """`side_rewards`, those off channel `correctness`, are named as a likely cause."""
        self._side_rewards = tuple(side_rewards)
        self._samples_per_problem = samples_per_problem
        self._best: Evaluated | None = None
        self._num_before = 0

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge an evaluated row."""
        now = _evaluated(row, self._samples_per_problem)
        if now is None:
            return {}
        why = None
        if self._best is not None and self._has_collapsed(self._best, now):
            why = (
                f"the held-out pass rate fell from {self._best.held_out} at step "
                f"{self._best.step}, the best so far, to {now.held_out} at step {now.step}. "
                f"Likely: {', or '.join(self._causes(row))}"
            )
        if self._best is None or now.held_out.mean > self._best.held_out.mean:
            self._best = now
        self._num_before += 1
        return {"collapse": why}

    def _has_collapsed(self, best: Evaluated, now: Evaluated) -> bool:
        fall = best.held_out.mean - now.held_out.mean
        between = (fall / 2) ** 2 * (1 / best.num_problems + 1 / now.num_problems)
        variance = best.held_out.error**2 + now.held_out.error**2 + between
        least = COLLAPSED**2 + 2 * math.log(self._num_before)
        return now.held_out.mean < KEPT * best.held_out.mean and fall**2 > least * variance

    def _causes(self, row: Row) -> Iterator[str]:
        yield "optim.lr is too high (lower it)"
        if self._side_rewards:
            named = ", ".join(map(repr, self._side_rewards))
            yield f"a side reward pays for something else ({named}: lower its weight, or only_if)"
        if row.get("kl/beta") == 0:
            yield "nothing holds the policy near the start (kl/beta is 0: set a beta under kl)"


def _evaluated(row: Row, samples_per_problem: int) -> Evaluated | None:
    """Return what a row says of held-out problems; None where there are none, or too few."""
    held_out = _measured(row, "eval/pass_rate")
    num_problems = row.get("eval/completions", 0) / samples_per_problem
    if held_out is None or num_problems < LEAST_PROBLEMS:
        return None
    return Evaluated(step=row["step"], num_problems=num_problems, held_out=held_out)


def _measured(row: Row, key: str) -> Measured | None:
    mean, error = row.get(key), row.get(f"{key}_se")
    return None if mean is None or error is None else Measured(mean, error)


def _mean_of(rates: Sequence[float]) -> Measured | None:
    """Return the mean over steps, with the standard error that their spread gives."""
    if len(rates) < LEAST_STEPS:
        return None
    return Measured(float(np.mean(rates)), float(np.std(rates, ddof=1)) / len(rates) ** 0.5)


def _comparisons(
    past: Sequence[Evaluated], name: str
) -> Iterator[tuple[Evaluated, tuple[Evaluated, ...]]]:
    """Yield each evaluation with the highest mean of `name` so far, and the last two to compare
    with it."""
    having = [each for each in past if name in each.others]
    highest = -math.inf
    for start in having[:-2]:
        if start.others[name].mean > highest:
            highest = start.others[name].mean
            yield start, tuple(having[-2:])


def _parted(start: Evaluated, now: Evaluated, name: str) -> bool:
    """Whether the reward rose and the held-out pass rate did not, though it could have."""
    rise = _rise(start, now, name)
    if rise < SURE or _fell(start, now):
        return rise >= SURE
    if start.held_out.mean + SURE * start.held_out.error >= 1:
        return False
    # The deviation between n problems is sqrt(n / 2) standard errors of a difference.
    matters = rise >= LEAST_EFFECT * math.sqrt(start.num_problems / 2)
    return matters and errors_between(start.held_out, now.held_out) < FLAT


def _rise(start: Evaluated, now: Evaluated, name: str) -> float:
    return errors_between(start.others[name], now.others[name])


def _fell(start: Evaluated, now: Evaluated) -> bool:
    return errors_between(start.held_out, now.held_out) <= -SURE
