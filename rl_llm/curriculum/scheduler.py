"""The difficulty-aware dataloader: beliefs -> which prompts, and which of their groups are kept.

Legend: N problems of the training pool, named by their position in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.gates import Gate, counted_scores
from rl_llm.curriculum.pool import Indices, Outcomes, StateDict
from rl_llm.curriculum.samplers import Sampler
from rl_llm.errors import DataError, PluginError
from rl_llm.records import Problem, Request, Sampling, ScoredGroup
from rl_llm.seeds import derive_seed

_NUM_BINS = 10
_SAMPLER_PREFIX = "sampler."


class Scheduler:
    """Plans the requests of a step, learns from the scored groups, keeps those that teach, and
    replaces the others within bounds.

    Given the same groups it decides the same on every rank. It never holds groups: what `admit`
    returned is the caller's to keep over the rounds of a refill.
    """

    def __init__(
        self,
        *,
        problems: Sequence[Problem],
        sampler: Sampler,
        gates: Sequence[Gate],
        num_problems: int,
        group_size: int,
        sampling: Sampling,
        seed: int,
        max_refill_rounds: int,
    ) -> None:
        """Schedule `num_problems` of the pool a step, `group_size` completions of each.

        Raises `DataError` for an empty pool and for a key that stands in it twice.
        """
        self._problems = problems
        self._sampler = sampler
        self._gates = tuple(gates)
        self._num_problems = num_problems
        self._group_size = group_size
        self._sampling = sampling
        self._seed = seed
        self._max_refill_rounds = max_refill_rounds
        self._position = _positions(problems)
        self._visits_N = np.zeros(len(problems), np.uint16)
        self._drawn_in_step_N = np.zeros(len(problems), np.bool_)
        self._planned_step: int | None = None

    @property
    def keys(self) -> list[str]:
        """The content keys of the pool, in its order: what `store` names the rows by."""
        return list(self._position)

    def plan(self, step: int) -> list[Request]:
        """Return the first requests of a step; fewer than `num_problems` when the pool is smaller
        than that."""
        self._planned_step = step
        self._drawn_in_step_N[:] = False
        return self._draw(step, round=0, count=self._num_problems)

    def refill(self, step: int, *, round: int, num_missing: int) -> list[Request]:
        """Return `num_missing` requests for prompts that this step has not drawn yet.

        `round` counts from 1. The list is empty when nothing is missing, when `round` is past
        `max_refill_rounds`, and when the step has drawn the whole pool.
        """
        assert step == self._planned_step, "refill belongs to the step that was planned last"
        if num_missing <= 0 or round > self._max_refill_rounds:
            return []
        return self._draw(step, round=round, count=num_missing)

    def _draw(self, step: int, *, round: int, count: int) -> list[Request]:
        exclude_N = self._drawn_in_step_N.copy()
        chosen = self._sampler.plan(step, count, round=round, exclude=exclude_N)
        self._check_plan(chosen, exclude_N, count)
        self._drawn_in_step_N[chosen] = True
        problems = [self._problems[position] for position in chosen.tolist()]
        return [
            Request(
                problem=problem,
                num_completions=self._group_size,
                sampling=self._sampling,
                stream_key=derive_seed(self._seed, "rollout", step, round, problem.key),
            )
            for problem in problems
        ]

    def _check_plan(self, chosen: Indices, exclude_N: NDArray[np.bool_], count: int) -> None:
        """Refuse a plan that breaks the promise of `Sampler.plan`; a sampler may be anybody's."""
        distinct = len(np.unique(chosen)) == len(chosen)
        if len(chosen) > count or not distinct or exclude_N[chosen].any():
            raise PluginError(
                f"sampler {type(self._sampler).__name__} planned {chosen.tolist()[:20]} for "
                f"{count} problems: at most {count} distinct positions are allowed, and none where "
                "`exclude` is True"
            )

    def observe(self, scored: Sequence[ScoredGroup], *, step: int) -> None:
        """Let beliefs learn from every group of a round, those that gates will drop too.

        Only `correct` counts. A completion whose reward failed counts in neither the correct ones
        nor the size of its group.
        """
        counted = [counted_scores(group) for group in scored]
        outcomes = Outcomes(
            indices=np.array([self._position[g.group.problem.key] for g in scored], np.int64),
            num_correct=np.array([sum(s.correct for s in scores) for scores in counted], np.int64),
            num_counted=np.array([len(scores) for scores in counted], np.int64),
            step=step,
        )
        visited = outcomes.indices[outcomes.num_counted > 0]
        most = np.iinfo(self._visits_N.dtype).max
        self._visits_N[visited] += self._visits_N[visited] < most
        self._sampler.observe(outcomes)

    def admit(self, scored: Sequence[ScoredGroup]) -> list[ScoredGroup]:
        """Return the groups that every gate lets through, in their order."""
        return [group for group in scored if all(gate.admit(group) for gate in self._gates)]

    def belief_of(self, key: str) -> float | None:
        """Return the expected pass rate of a problem, or None if the sampler keeps no beliefs."""
        beliefs = self._sampler.beliefs(np.array([self._position[key]], np.int64))
        return None if beliefs is None else float(beliefs[0])

    def belief_histogram(self) -> list[int]:
        """Return how many problems are believed to have a pass rate of 0 to .1, and so on to 1.

        All 0 if the sampler keeps no beliefs.
        """
        beliefs = self._sampler.beliefs()
        if beliefs is None:
            return [0] * _NUM_BINS
        counts, _ = np.histogram(beliefs, bins=_NUM_BINS, range=(0.0, 1.0))
        return [int(count) for count in counts]

    def metrics(self) -> dict[str, float]:
        """Return `curriculum/visited_share`, the share of the pool with at least one scored group,
        and, if the sampler keeps beliefs, `curriculum/belief_mean`, their mean over the pool."""
        found = {"curriculum/visited_share": float(np.mean(self._visits_N > 0))}
        beliefs = self._sampler.beliefs()
        if beliefs is not None:
            found["curriculum/belief_mean"] = float(beliefs.mean())
        return found

    def state_dict(self) -> StateDict:
        """Return everything that the plans of later steps depend on."""
        sampler = self._sampler.state_dict()
        columns: dict[str, NDArray[Any]] = {"visits": self._visits_N.copy()}
        columns |= {_SAMPLER_PREFIX + name: array for name, array in sampler["columns"].items()}
        return {"columns": columns, "rest": {"sampler": sampler["rest"]}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned; the next call must be `plan`."""
        self._visits_N[:] = state["columns"]["visits"]
        columns = {
            name.removeprefix(_SAMPLER_PREFIX): array
            for name, array in state["columns"].items()
            if name.startswith(_SAMPLER_PREFIX)
        }
        self._sampler.load_state_dict({"columns": columns, "rest": state["rest"]["sampler"]})
        self._planned_step = None


def _positions(problems: Sequence[Problem]) -> Mapping[str, int]:
    """Return the position of every key."""
    if not problems:
        raise DataError("the training pool is empty; give data.train a source that yields problems")
    positions: dict[str, int] = {}
    for position, problem in enumerate(problems):
        first = positions.setdefault(problem.key, position)
        if first != position:
            raise DataError(
                f"problems {first} and {position} of the training pool have the same key "
                f"{problem.key}; keep one"
            )
    return positions
