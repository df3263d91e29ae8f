"""Epochs that skip what has been uninformative lately."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.epoch import EpochOrder
from rl_llm.curriculum.samplers.memory import (
    NOT_NOW,
    in_buckets_of,
    in_open_sources,
    remarks_on_endless,
    remembered,
)
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.seeds import derive_rng

_LEAST_BASE, _MOST_BASE = 0.05, 0.95  # Bounds of p_easy and p_hard, as the authors have them.
_LONGEST = np.iinfo(np.int16).max


class Greso:
    """Epochs of a seeded permutation in which a problem's turn may be skipped: GRESO,
    arXiv:2506.02177.

    A problem whose last z groups were all correct is skipped with probability
    1 - max(p_easy^z, `least_kept`), one whose last z groups were all wrong likewise with p_hard;
    a mixed group sets z to 0, one of the other kind to 1. From the second epoch on, p_easy falls by
    `pace` after a step in which the share of all-correct groups was `target_easy` or more and rises
    by `pace` after any other, and p_hard likewise; both stay from .05 to .95. A problem that is
    skipped has its next turn in the next epoch. A step that crosses the end of an epoch takes no
    problem twice, and when a whole epoch skipped too many, it takes those most likely to be kept.

    Problems of an endless bucket are never skipped, and do not count in the shares.

    Memory: 11 bytes a problem, and 4 more once parts of the pool are planned for.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        p_easy: float = 0.5,
        p_hard: float = 0.5,
        target_easy: float = 1 / 12,
        target_hard: float = 1 / 6,
        pace: float = 0.01,
        least_kept: float = 0.01,
    ) -> None:
        """Start before the first problem of epoch 0, with nothing to skip.

        Raises `ConfigError` for an option out of range.
        """
        options = {"target_easy": target_easy, "target_hard": target_hard, "pace": pace}
        for name, value in (options | {"least_kept": least_kept}).items():
            check_range(name, value, least=0.0, most=1.0)
        check_range("p_easy", p_easy, least=_LEAST_BASE, most=_MOST_BASE)
        check_range("p_hard", p_hard, least=_LEAST_BASE, most=_MOST_BASE)
        self._index = index
        self._seed = seed
        self._p_easy, self._p_hard = p_easy, p_hard
        self._target_easy, self._target_hard = target_easy, target_hard
        self._pace = pace
        self._least_kept = least_kept
        self._passed_N = np.zeros(index.num_problems, np.bool_)
        # All-correct groups in a row, or minus the all-wrong ones.
        self._streak_N = np.zeros(index.num_problems, np.int16)
        self._num_groups = self._num_easy = self._num_hard = 0
        self._order = EpochOrder(index.num_problems, seed=seed)

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
        """Return the next problems of the epoch that are not skipped, going on to the next epoch
        where it ends."""
        if round == 0:
            self._adapt()
        rng = derive_rng(self._seed, "sampler", step, round)
        taken_N = np.zeros_like(self._passed_N) if exclude is None else exclude.copy()
        chosen = self._take(num_problems, self._order.without(taken_N | self._passed_N), rng)
        taken_N[chosen] = True
        if len(chosen) < num_problems and not taken_N.all():
            self._passed_N[in_open_sources(self._index, exclude)] = False
            self._order.begin(self._order.epoch + 1)
            turns = self._order.without(taken_N)
            chosen = np.concatenate([chosen, self._cross(num_problems - len(chosen), turns, rng)])
        return chosen

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return for each part its next problems of the epoch that are not skipped; the epoch ends
        for a part alone."""
        if round == 0:
            self._adapt()
        return [
            self._plan_part(part, derive_rng(self._seed, "sampler", step, round + number))
            for number, part in enumerate(parts)
        ]

    def _plan_part(self, part: Part, rng: np.random.Generator) -> Indices:
        turns = self._order.sort(part.eligible[~self._passed_N[part.eligible]])
        chosen = self._take(part.count, turns, rng)
        if len(chosen) < min(part.count, len(part.eligible)):
            self._passed_N[in_buckets_of(self._index, part.eligible)] = False
            self._order.begin(self._order.epoch + 1)
            turns = self._order.sort(np.setdiff1d(part.eligible, chosen, assume_unique=True))
            chosen = np.concatenate([chosen, self._cross(part.count - len(chosen), turns, rng)])
        return chosen

    def _cross(self, count: int, turns: Indices, rng: np.random.Generator) -> Indices:
        """Return and mark `count` problems of an epoch that begins: the first that are not skipped,
        and where there are too few, those most likely to be kept, in the order of the epoch."""
        chosen = self._take(count, turns, rng)
        left = turns[~np.isin(turns, chosen)] if len(chosen) < count else turns[:0]
        likeliest = np.argsort(-self._kept(left), kind="stable")[: count - len(chosen)]
        self._passed_N[left[likeliest]] = True
        return np.concatenate([chosen, left[likeliest]])

    def _take(self, count: int, turns: Indices, rng: np.random.Generator) -> Indices:
        """Return and mark the first `count` problems of `turns` that are not skipped; those skipped
        before the last of them have had their turn."""
        if count == 0:
            return np.empty(0, np.int64)
        kept = np.flatnonzero(rng.random(len(turns)) < self._kept(turns))[:count]
        reached_end = len(kept) < count
        self._passed_N[turns if reached_end else turns[: kept[-1] + 1]] = True
        return turns[kept]

    def _kept(self, where: Indices) -> Floats:
        """Return the probability that the turn of a problem is not skipped."""
        streaks = self._streak_N[where]
        kept = np.ones(len(where))
        for base, uninformative in ((self._p_easy, streaks > 0), (self._p_hard, streaks < 0)):
            lengths = np.abs(streaks[uninformative].astype(np.float64))
            kept[uninformative] = np.maximum(base**lengths, self._least_kept)
        return kept

    def _adapt(self) -> None:
        """Move p_easy and p_hard by what the step before showed."""
        if self._num_groups and self._order.epoch > 0:
            easy, hard = self._num_easy / self._num_groups, self._num_hard / self._num_groups
            self._p_easy = self._moved(self._p_easy, down=easy >= self._target_easy)
            self._p_hard = self._moved(self._p_hard, down=hard >= self._target_hard)
        self._num_groups = self._num_easy = self._num_hard = 0

    def _moved(self, base: float, *, down: bool) -> float:
        return min(max(base + (-self._pace if down else self._pace), _LEAST_BASE), _MOST_BASE)

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say how likely a problem's turn is to be skipped, and whether it has had it."""
        if exclude[position]:
            return NOT_NOW
        streak = int(self._streak_N[position])
        (kept,) = self._kept(np.array([position]))
        turn = f"has had its turn in epoch {self._order.epoch}"
        if not self._passed_N[position]:
            turn = f"still has its turn in epoch {self._order.epoch}"
        if streak == 0:
            return f"it {turn}; its last group was mixed, or it had none, so it is not skipped"
        kind = "correct" if streak > 0 else "wrong"
        return (
            f"it {turn}; all-{kind} groups in a row: {abs(streak)}, so a turn is skipped with "
            f"probability {1.0 - kept:.2f}"
        )

    def observe(self, outcomes: Outcomes) -> None:
        """Count all-correct and all-wrong groups, in a row of each problem and in the step."""
        own = remembered(outcomes, self._index)
        easy, hard = own.num_correct == own.num_counted, own.num_correct == 0
        streaks = self._streak_N[own.indices].astype(np.int64)
        longer = np.where(easy, np.maximum(streaks, 0) + 1, 0)
        longer = np.where(hard, np.minimum(streaks, 0) - 1, longer)
        self._streak_N[own.indices] = np.clip(longer, -_LONGEST, _LONGEST)
        self._num_groups += len(own.indices)
        self._num_easy += int(easy.sum())
        self._num_hard += int(hard.sum())

    def state_dict(self) -> StateDict:
        """Return the place in the epoch, the rows of uninformative groups, and both rates."""
        return {
            "columns": {"passed": self._passed_N.copy(), "streak": self._streak_N.copy()},
            "rest": {
                "epoch": self._order.epoch,
                "p": [self._p_easy, self._p_hard],
                "groups": [self._num_groups, self._num_easy, self._num_hard],
            },
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Go on within the epoch; new problems have their turn in it."""
        self._passed_N[:] = state["columns"]["passed"]
        self._streak_N[:] = state["columns"]["streak"]
        self._p_easy, self._p_hard = state["rest"]["p"]
        self._num_groups, self._num_easy, self._num_hard = state["rest"]["groups"]
        self._order.begin(state["rest"]["epoch"])
