"""Thompson sampling towards a target pass rate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.memory import (
    NOT_NOW,
    eligible_positions,
    remarks_on_endless,
    remembered,
)
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.seeds import derive_rng


class Thompson:
    """Draw a pass rate for each candidate from its Beta(a, b), and take those nearest to `target`.

    Model predictive prompt selection (MoPPS), arXiv:2507.04632. A group of G with s correct
    completions moves a problem's own belief, which starts at Beta(a0, a0) with a0 = `prior`:

        a <- lambda a + (1 - lambda) a0 + s,   b <- lambda b + (1 - lambda) a0 + G - s

    with lambda `visit_decay`. Candidates are `candidates` times as many problems as are asked for,
    drawn uniformly: a problem that a few groups showed to be hopeless stays so until its next
    group, and is drawn again only by a rare draw. Problems of an endless bucket keep
    Beta(a0, a0).

    Memory: 8 bytes a problem.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        target: float = 0.5,
        visit_decay: float = 0.5,
        prior: float = 1.0,
        candidates: int = 16,
    ) -> None:
        """Start every problem at Beta(`prior`, `prior`).

        Raises `ConfigError` for an option out of range.
        """
        check_range("target", target, least=0.0, most=1.0)
        check_range("visit_decay", visit_decay, least=0.0, most=1.0)
        check_range("prior", prior, above=0.0)
        check_range("candidates", candidates, least=1)
        self._index = index
        self._seed = seed
        self._target = target
        self._visit_decay = visit_decay
        self._prior = prior
        self._candidates = candidates
        self._correct_N = np.zeros(index.num_problems, np.float32)  # a - a0
        self._wrong_N = np.zeros(index.num_problems, np.float32)  # b - a0

    def remarks(self) -> list[str]:
        """Say which sources are drawn evenly."""
        return remarks_on_endless(self._index)

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return the candidates whose drawn pass rates are nearest to the target, nearest first."""
        eligible = eligible_positions(self._index.num_problems, exclude)
        return self._draw(Part(count=num_problems, eligible=eligible), step, round)

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return for each part its candidates nearest to the target, nearest first."""
        return [self._draw(part, step, round + number) for number, part in enumerate(parts)]

    def _draw(self, part: Part, step: int, round: int) -> Indices:
        eligible, num_problems = part.eligible, part.count
        rng = derive_rng(self._seed, "sampler", step, round)
        num_candidates = self._candidates * num_problems
        if num_candidates < len(eligible):
            eligible = rng.choice(eligible, num_candidates, replace=False)
        a, b = self._beta(eligible)
        distances = np.abs(rng.beta(a, b) - self._target)
        if num_problems < len(eligible):
            nearest = np.argpartition(distances, num_problems)[:num_problems]
            eligible, distances = eligible[nearest], distances[nearest]
        return eligible[np.argsort(distances, kind="stable")]

    def _beta(self, where: Indices) -> tuple[Floats, Floats]:
        a = self._prior + self._correct_N[where].astype(np.float64)
        b = self._prior + self._wrong_N[where].astype(np.float64)
        return a, b

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say what a problem's pass rate is drawn from."""
        if exclude[position]:
            return NOT_NOW
        (a,), (b,) = self._beta(np.array([position]))
        return (
            f"its pass rate is drawn from Beta({a:.2f}, {b:.2f}), mean {a / (a + b):.2f}; the "
            f"draws nearest to {self._target:g} are taken"
        )

    def observe(self, outcomes: Outcomes) -> None:
        """Discount what is known of each problem and add its group."""
        own = remembered(outcomes, self._index)
        where = own.indices
        self._correct_N[where] = self._visit_decay * self._correct_N[where] + own.num_correct
        wrong = own.num_counted - own.num_correct
        self._wrong_N[where] = self._visit_decay * self._wrong_N[where] + wrong

    def state_dict(self) -> StateDict:
        """Return what each problem has beyond the prior."""
        columns = {"correct": self._correct_N.copy(), "wrong": self._wrong_N.copy()}
        return {"columns": columns, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what each problem has beyond the prior."""
        self._correct_N[:] = state["columns"]["correct"]
        self._wrong_N[:] = state["columns"]["wrong"]
