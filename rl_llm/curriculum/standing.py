"""Which problems rest: those that are mastered, and those that were never solved.

Legend: N problems, K buckets. A *visit* of a problem is a group of it with counted completions.
Steps count from 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from rl_llm.curriculum.belief import Floats, PoolBelief, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.errors import ConfigError

RETURN_CERTAINTY = 0.5
"""A retired problem comes back when P(p > pass_rate) is below this."""

ALARM_STEPS = 10
"""For so many steps after an alarm the review of a bucket is raised."""

ALARM_SHARE_PERCENT = 10
"""While an alarm lasts, so much of a step (at least one problem) is further reviews."""

_MOST_STREAK = np.iinfo(np.uint8).max
_LAST_STEP = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class Retire:
    """A problem retires when P(p > `pass_rate`) > `certainty`; `review_share` of the drawn problems
    are reviews of retired ones.

    Raises `ConfigError` for a value out of range; below `RETURN_CERTAINTY`, `certainty` would
    retire what comes back at its next visit.
    """

    pass_rate: float = 0.9
    certainty: float = 0.9
    review_share: float = 0.02

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("pass_rate", self.pass_rate), ("certainty", self.certainty)):
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name}={value}: must be above 0 and below 1")
        check_range("certainty", self.certainty, least=RETURN_CERTAINTY)
        check_range("review_share", self.review_share, least=0.0, most=1.0)


@dataclass(frozen=True, kw_only=True)
class Defer:
    """After `after` all-wrong groups in a row a problem waits `first_steps` steps, and twice as
    long after each further one, up to `most_steps`.

    A wait of w steps after a visit in step t ends with step t + w, in which the problem may be
    drawn. Raises `ConfigError` for a value out of range.
    """

    after: int = 2
    first_steps: int = 4
    most_steps: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("after", self.after, least=1, most=int(_MOST_STREAK))
        check_range("first_steps", self.first_steps, least=1)
        if self.most_steps < self.first_steps:
            raise ConfigError(
                f"most_steps={self.most_steps} with first_steps={self.first_steps}: the longest "
                "wait must not be shorter than the first; raise most_steps or lower first_steps"
            )


class Standing:
    """Keeps mastered problems to reviews and lets unsolved ones wait; none is given up.

    A retired problem is drawn in reviews alone, the one not visited for longest first, and comes
    back when a review leaves P(p > pass_rate) below `RETURN_CERTAINTY`. A deferred problem waits,
    and a group of it with any correct completion ends its waits. Problems of endless buckets are
    neither retired nor deferred, and have no last visit.

    Without `retire` or `defer` that half is off. Nothing here is random. Memory: 10 bytes a
    problem.
    """

    def __init__(
        self, index: PoolIndex, belief: PoolBelief, *, retire: Retire | None, defer: Defer | None
    ) -> None:
        """Start with every problem active and never visited."""
        self._index = index
        self._belief = belief
        self._retire = retire
        self._defer = defer
        self._retired_N = np.zeros(index.num_problems, np.bool_)
        self._deferred_until_N = np.zeros(index.num_problems, np.int32)
        self._all_wrong_N = np.zeros(index.num_problems, np.uint8)
        self._last_visit_N = np.zeros(index.num_problems, np.int32)
        self._alarm_until_K = np.zeros(index.num_buckets, np.int64)

    def observe(self, outcomes: Outcomes) -> None:
        """Take note of one round, from which the belief has learnt already."""
        own = outcomes.where(
            (outcomes.num_counted > 0)
            & ~self._index.endless_K[self._index.bucket_ids[outcomes.indices]]
        )
        self._last_visit_N[own.indices] = own.step
        if self._defer is not None:
            self._observe_waits(own, self._defer)
        if self._retire is not None:
            self._observe_mastery(own.indices, self._retire)

    def _observe_waits(self, own: Outcomes, defer: Defer) -> None:
        wrong = own.num_correct == 0
        before = self._all_wrong_N[own.indices].astype(np.int64)
        streak = np.where(wrong, np.minimum(before + 1, _MOST_STREAK), 0)
        doublings = np.maximum(streak - defer.after, 0)
        wait = np.minimum(defer.first_steps * np.exp2(doublings), defer.most_steps)
        until = np.where(streak >= defer.after, np.minimum(own.step + wait, _LAST_STEP), 0)
        self._all_wrong_N[own.indices] = streak
        self._deferred_until_N[own.indices] = until

    def _observe_mastery(self, where: Indices, retire: Retire) -> None:
        """Retire and bring back."""
        needed = np.where(
            self._retired_N[where], RETURN_CERTAINTY, np.nextafter(retire.certainty, 1.0)
        )
        self._retired_N[where] = self._mastery(where, retire) >= needed

    def _mastery(self, where: Indices, retire: Retire) -> Floats:
        """Return P(p > pass_rate)."""
        belief = self._belief.beta(where)
        a, b = np.asarray(belief.a, np.float64), np.asarray(belief.b, np.float64)
        mastery: Floats = 1.0 - betainc(a, b, retire.pass_rate)  # `betaincc` takes 10 times as long
        return mastery

    def alarm(self, bucket_ids: Sequence[int], step: int) -> None:
        """Raise the review of buckets in the `ALARM_STEPS` steps after this one."""
        self._alarm_until_K[list(bucket_ids)] = step + ALARM_STEPS

    def excluded(self, step: int) -> NDArray[np.bool_]:
        """Return which problems (N) are not drawn in this step but as a review or a last resort."""
        return self._retired_N | (self._deferred_until_N > step)

    def due(
        self, step: int, num_problems: int, *, exclude: NDArray[np.bool_] | None = None
    ) -> Indices:
        """Return the retired problems to review in a step of `num_problems`, at most as many, none
        where `exclude` (N) is True.

        Those not visited for longest come first, ties by position. Over the steps 1 to t they are
        floor(`review_share` * `num_problems` * t), where so many are retired. Under an alarm,
        further ones of the buckets concerned follow.
        """
        if self._retire is None or not self._retired_N.any():
            return np.empty(0, np.int64)
        per_step = self._retire.review_share * num_problems
        count = _floor(per_step * step) - _floor(per_step * (step - 1))
        retired_N = self._retired_N if exclude is None else self._retired_N & ~exclude
        reviews = self._oldest(retired_N, min(count, num_problems))
        alarmed_K = self._alarm_until_K >= step
        if not alarmed_K.any():
            return reviews
        waiting_N = retired_N & alarmed_K[self._index.bucket_ids]
        waiting_N[reviews] = False
        raised = max(1, num_problems * ALARM_SHARE_PERCENT // 100)
        more = self._oldest(waiting_N, min(raised, num_problems - len(reviews)))
        return np.concatenate([reviews, more])

    def spare(self, step: int, exclude: NDArray[np.bool_], count: int) -> Indices:
        """Return up to `count` resting problems, none where `exclude` (N) is True: a last resort.

        First the deferred ones whose wait ends soonest, then the retired ones not visited for
        longest; ties by position.
        """
        deferred_N = (self._deferred_until_N > step) & ~self._retired_N & ~exclude
        deferred = np.flatnonzero(deferred_N)
        soonest = deferred[_smallest(self._deferred_until_N[deferred], count)]
        oldest = self._oldest(self._retired_N & ~exclude, count - len(soonest))
        return np.concatenate([soonest, oldest])

    def _oldest(self, among_N: NDArray[np.bool_], count: int) -> Indices:
        """Return up to `count` of some problems, those not visited for longest first."""
        if count <= 0:
            return np.empty(0, np.int64)
        positions = np.flatnonzero(among_N)
        return positions[_smallest(self._last_visit_N[positions], count)]

    def status(self, position: int, step: int) -> str:
        """Say whether a problem is active, retired or deferred in this step, and why."""
        if self._retire is not None and self._retired_N[position]:
            return self._describe_retired(position, self._retire)
        until, streak = self._deferred_until_N[position], self._all_wrong_N[position]
        if until > step:
            groups = "1 group" if streak == 1 else f"{streak} groups in a row"
            return f"deferred until step {until}: {groups} all wrong"
        return "active"

    def _describe_retired(self, position: int, retire: Retire) -> str:
        queue = np.flatnonzero(self._retired_N)
        visits, own = self._last_visit_N[queue], self._last_visit_N[position]
        before = np.count_nonzero((visits < own) | ((visits == own) & (queue < position)))
        mastery = self._mastery(np.array([position]), retire)[0]
        return (
            f"retired: P(p > {retire.pass_rate:g}) = {mastery:.2f}; last seen in step {own}, next "
            f"in line for review {before + 1} of {len(queue)}"
        )

    def next_draw(
        self, position: int, step: int, num_problems: int, *, exclude: NDArray[np.bool_]
    ) -> str | None:
        """Say when a problem that rests is drawn, seen from before a step of `num_problems` that
        draws none where `exclude` (N) is True; None where it does not rest."""
        if self._retire is not None and self._retired_N[position]:
            is_due = position in self.due(step, num_problems, exclude=exclude)
            when = "it is due in this step" if is_due else "it is due when its turn comes"
            alarm_until = self._alarm_until_K[self._index.bucket_ids[position]]
            more = f", and {ALARM_SHARE_PERCENT} % more for its level until step {alarm_until}"
            return (
                f"as a review: {when}; reviews take up to {100 * self._retire.review_share:g} % of "
                f"a step{more if alarm_until >= step else ''}"
            )
        until = self._deferred_until_N[position]
        if until > step:
            return f"from step {until} on; sooner only where a step has too few others"
        return None

    def staleness_mean_steps(self, step: int) -> float:
        """Return how many steps ago visited problems had their last visit, on average; 0 if none
        was visited."""
        visited = self._last_visit_N[self._last_visit_N > 0]
        return float(step - visited.mean()) if visited.size else 0.0

    def metrics(self, step: int) -> dict[str, float]:
        """Return how many problems are retired, and how many others are deferred past this step."""
        deferred_N = (self._deferred_until_N > step) & ~self._retired_N
        return {
            "curriculum/retired_count": float(np.count_nonzero(self._retired_N)),
            "curriculum/deferred_count": float(np.count_nonzero(deferred_N)),
        }

    def state_dict(self) -> StateDict:
        """Return copies of the standing of every problem, and the alarms by bucket."""
        columns: dict[str, NDArray[Any]] = {
            "standing_retired": self._retired_N.copy(),
            "standing_deferred_until": self._deferred_until_N.copy(),
            "standing_all_wrong": self._all_wrong_N.copy(),
            "standing_last_visit": self._last_visit_N.copy(),
        }
        alarms = zip(self._index.bucket_names, self._alarm_until_K.tolist(), strict=True)
        return {
            "columns": columns,
            "rest": {"alarm_until": {name: until for name, until in alarms if until}},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the standing; a bucket that the state does not know has no alarm."""
        self._retired_N[:] = state["columns"]["standing_retired"]
        self._deferred_until_N[:] = state["columns"]["standing_deferred_until"]
        self._all_wrong_N[:] = state["columns"]["standing_all_wrong"]
        self._last_visit_N[:] = state["columns"]["standing_last_visit"]
        alarms = state["rest"]["alarm_until"]
        self._alarm_until_K[:] = [alarms.get(name, 0) for name in self._index.bucket_names]


def _floor(value: float) -> int:
    """Return the floor, forgiving what rounding took from a whole number (100 * 0.29 < 29)."""
    return int(np.floor(value + 1e-9))


def _smallest(values: NDArray[np.int32], count: int) -> Indices:
    """Return the positions of the `count` smallest values in ascending order, ties by position."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count < len(values):
        candidates = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")][:count]
