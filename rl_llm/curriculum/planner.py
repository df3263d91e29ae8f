"""Which problems are drawn: reviews that are due, the sampler's choice, and who is left.

Legend: N problems of the training pool, named by their position in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.prerequisites import Prerequisites
from rl_llm.curriculum.quotas import Quotas
from rl_llm.curriculum.samplers import Sampler
from rl_llm.curriculum.samplers.protocol import Part, plans_parts
from rl_llm.curriculum.standing import Standing
from rl_llm.errors import PluginError

Reason = Literal["sampler", "review", "spare"]


class Fact(NamedTuple):
    """A sentence about a problem, and what of it that is about."""

    about: str
    said: str


class Stateful(Protocol):
    """Whatever remembers something over a restart."""

    def state_dict(self) -> StateDict:
        """Return everything that later plans depend on."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned."""
        ...


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Draws problems for a step, none twice, and remembers why each was drawn."""

    index: PoolIndex
    sampler: Sampler
    standing: Standing
    quotas: Quotas
    prerequisites: Prerequisites

    def begin(self, step: int) -> "StepDraws":
        """Return the draws of a step, none made yet."""
        return StepDraws(self, step)

    def unavailable(self, step: int) -> NDArray[np.bool_]:
        """Return which problems (N) the sampler may not choose in this step, whatever it has drawn:
        those that are retired, deferred or locked."""
        return self.standing.excluded(step) | self.prerequisites.locked()

    def observe(self, outcomes: Outcomes) -> None:
        """Learn from one round; the belief has learnt from it before."""
        self.sampler.observe(outcomes)
        self.standing.observe(outcomes)
        self.prerequisites.observe(outcomes.step)

    def explain(
        self, position: int, *, step: int, num_drawn: int, held: Indices | None = None
    ) -> list[Fact]:
        """Say what decides whether a problem is drawn in a step that draws `num_drawn`, and none of
        `held`, whose groups are not whole."""
        bucket_id = int(self.index.bucket_ids[position])
        held_N = np.zeros(self.index.num_problems, np.bool_)
        held_N[[] if held is None else held] = True
        facts = [
            Fact("standing", self.standing.status(position, step)),
            Fact("its level", self.prerequisites.status(bucket_id)),
            Fact("its source", self._quota(bucket_id, num_drawn)),
            Fact("next draw", self._next_draw(position, step, num_drawn, held_N)),
        ]
        return [fact for fact in facts if fact.said]

    def _quota(self, bucket_id: int, num_drawn: int) -> str:
        """Say what a source may have of a step; nothing where no source has a quota."""
        counts, source = self.quotas.split(num_drawn), self.index.bucket_sources[bucket_id]
        if counts.keys() == {None}:
            return ""
        if source in counts:
            return f"{source} has {counts[source]} of the {num_drawn} problems of this step"
        return f"sources without a quota share {counts[None]} of the {num_drawn} of this step"

    def _next_draw(
        self, position: int, step: int, num_drawn: int, held_N: NDArray[np.bool_]
    ) -> str:
        """Say when a problem may be drawn, or what the sampler says of it, if anything."""
        locked_N = self.prerequisites.locked()
        if locked_N[position]:
            return "not before its level opens"
        if held_N[position]:
            return "not before its group is whole"
        if position in self._spare(step, num_drawn, held_N):
            return f"in this step, for too few others are left for its {num_drawn} problems"
        resting = self.standing.next_draw(position, step, num_drawn, exclude=locked_N | held_N)
        if resting is not None or not hasattr(self.sampler, "explain"):
            return resting or ""
        source = self.index.bucket_sources[self.index.bucket_ids[position]]
        exclude_N = self.unavailable(step) | held_N | self.quotas.mask(source)
        said: str = self.sampler.explain(position, exclude=exclude_N)
        return said

    def _spare(self, step: int, num_drawn: int, held_N: NDArray[np.bool_]) -> Indices:
        """Return the resting problems that fill a step, whose reviews and sampler find too few."""
        barred_N = self.prerequisites.locked() | held_N
        reviews = self.standing.due(step, num_drawn, exclude=barred_N)
        barred_N[reviews] = True
        num_eligible = np.count_nonzero(~(self.unavailable(step) | barred_N))
        return self.standing.spare(step, barred_N, num_drawn - len(reviews) - int(num_eligible))

    def metrics(self, step: int) -> dict[str, Any]:
        """Return what the parts say of themselves after a step."""
        return {
            "curriculum/staleness_mean_steps": self.standing.staleness_mean_steps(step),
            **self.standing.metrics(step),
            **self.prerequisites.metrics(),
        }

    def stateful(self) -> dict[str, Stateful]:
        """Return the parts that remember something, by name."""
        return {
            "sampler": self.sampler,
            "standing": self.standing,
            "prerequisites": self.prerequisites,
            "quotas": self.quotas,
        }


class StepDraws:
    """What one step has drawn so far."""

    def __init__(self, planner: Planner, step: int) -> None:
        """Start with nothing drawn."""
        self._planner = planner
        self._step = step
        self._calls = 0
        self._drawn_N = np.zeros(planner.index.num_problems, np.bool_)
        self._reasons: dict[int, Reason] = {}

    @property
    def step(self) -> int:
        """The step that is planned."""
        return self._step

    def reason(self, position: int) -> Reason:
        """Say who chose a problem that was drawn."""
        return self._reasons[position]

    def count(self, reason: Reason) -> int:
        """Return how many problems were drawn for a reason."""
        return sum(each == reason for each in self._reasons.values())

    def withhold(self, positions: Indices) -> None:
        """Draw none of these problems in this step; the sampler chose them before."""
        self._take(positions, "sampler")

    def first(self, count: int) -> Indices:
        """Draw the first problems of a step: reviews that are due, which count towards the quotas
        of their sources, and `anywhere` for the rest."""
        reviews = self._planner.standing.due(self._step, count, exclude=self._barred())
        self._take(reviews, "review")
        return self._by_quotas(count, drawn=reviews)

    def anywhere(self, count: int) -> Indices:
        """Draw problems of the whole pool, by the quotas of their sources; fewer than `count` only
        when the step has drawn every problem that is not locked."""
        return self._by_quotas(count, drawn=np.empty(0, np.int64))

    def _by_quotas(self, count: int, *, drawn: Indices) -> Indices:
        """Return `count` problems, `drawn` and others, of which each source has its part."""
        if not count:
            return drawn
        chosen, missing = [drawn], count - len(drawn)

        def add(more: Indices) -> None:
            nonlocal missing
            chosen.append(more)
            missing -= len(more)

        quotas, resting_N = self._planner.quotas, self._planner.unavailable(self._step)
        for source, share in quotas.split(count).items():
            other_N = quotas.mask(source)
            num_drawn = int(np.count_nonzero(~other_N[drawn]))
            num_more = max(0, min(share - num_drawn, missing))
            quotas.note(source, num_drawn + num_more)
            add(self._choose(num_more, resting_N, other_N))
        # Where a source has too few left, the others make up for it.
        add(self._choose(missing, resting_N))
        if missing:
            spare = self._planner.standing.spare(self._step, self._barred(), missing)
            self._take(spare, "spare")
            add(spare)
        return np.concatenate(chosen)

    def _barred(self) -> NDArray[np.bool_]:
        """Return which problems (N) must not be drawn, whoever asks: those drawn and locked."""
        return self._drawn_N | self._planner.prerequisites.locked()

    def in_buckets(self, counts: Mapping[int, int]) -> Indices:
        """Draw so many problems of each bucket; fewer where a bucket has too few left."""
        rests_N = self._planner.unavailable(self._step) | self._drawn_N
        parts = self._parts(counts, rests_N)
        if not parts:
            return np.empty(0, np.int64)
        sampler = self._planner.sampler
        if not plans_parts(sampler):
            return np.concatenate([self._choose_of(part) for part in parts])
        planned = sampler.plan_parts(self._step, parts, round=self._calls)
        self._calls += len(parts)
        count = sum(min(part.count, len(part.eligible)) for part in parts)
        chosen = _checked(sampler, np.concatenate(planned), rests_N, count)
        self._take(chosen, "sampler")
        return chosen

    def _parts(self, counts: Mapping[int, int], rests_N: NDArray[np.bool_]) -> list[Part]:
        """Return the buckets of which something is asked for and left."""
        parts = []
        for bucket_id, count in counts.items():
            positions = self._planner.index.positions(bucket_id)
            eligible = positions[~rests_N[positions]]
            if count > 0 and eligible.size:
                parts.append(Part(count=count, eligible=eligible))
        return parts

    def _choose_of(self, part: Part) -> Indices:
        """Ask the sampler for problems of a part."""
        exclude_N = np.ones_like(self._drawn_N)
        exclude_N[part.eligible] = False
        return self._ask(part.count, exclude_N)

    def _choose(
        self, count: int, resting_N: NDArray[np.bool_], other_N: NDArray[np.bool_] | None = None
    ) -> Indices:
        """Ask the sampler for problems that the step has not drawn, none that rest or are of
        others."""
        if count <= 0:
            return np.empty(0, np.int64)
        exclude_N = resting_N | self._drawn_N
        if other_N is not None:
            exclude_N |= other_N
        return np.empty(0, np.int64) if exclude_N.all() else self._ask(count, exclude_N)

    def _ask(self, count: int, exclude_N: NDArray[np.bool_]) -> Indices:
        """Ask the sampler, and take what it plans."""
        sampler = self._planner.sampler
        planned = sampler.plan(self._step, count, round=self._calls, exclude=exclude_N)
        self._calls += 1
        num_left = int(np.count_nonzero(~exclude_N))
        chosen = _checked(sampler, planned, exclude_N, min(count, num_left))
        self._take(chosen, "sampler")
        return chosen

    def _take(self, chosen: Indices, reason: Reason) -> None:
        self._drawn_N[chosen] = True
        self._reasons |= dict.fromkeys(chosen.tolist(), reason)


def _checked(
    sampler: Sampler, planned: Sequence[int] | Indices, exclude_N: NDArray[np.bool_], count: int
) -> Indices:
    """Refuse a plan that breaks the promise of `Sampler.plan`; a sampler may be anybody's."""
    try:
        given = np.asarray(planned).reshape(-1)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(f"positions are whole numbers, not {given.dtype}")
        chosen = given.astype(np.int64)
    except (TypeError, ValueError):
        raise PluginError(
            f"sampler {type(sampler).__name__} planned {planned!r}; plan must return positions of "
            "the pool, as whole numbers"
        ) from None
    distinct = len(np.unique(chosen)) == len(chosen)
    inside = bool(((chosen >= 0) & (chosen < len(exclude_N))).all())
    if len(chosen) != count or not distinct or not inside or exclude_N[chosen].any():
        raise PluginError(
            f"sampler {type(sampler).__name__} planned {chosen.tolist()[:20]} for {count} "
            f"problems: plan must return {count} distinct positions of the {len(exclude_N)} in the "
            "pool, and none where `exclude` is True"
        )
    return chosen
