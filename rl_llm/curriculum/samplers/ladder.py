"""Levels in order, a window at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.memory import NOT_NOW
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.errors import ConfigError
from rl_llm.records import Level, level_order
from rl_llm.seeds import derive_rng


@dataclass
class _Climb:
    """Where the window of one source is, and what it has shown since it came there."""

    buckets: Indices  # of the source's levels, the easiest first
    levels: Sequence[Level]
    lowest: int = field(default=0, init=False)  # position of the window's lowest level
    correct: float = field(default=0.0, init=False)
    counted: float = field(default=0.0, init=False)

    def move_to(self, lowest: int) -> None:
        self.lowest, self.correct, self.counted = lowest, 0.0, 0.0


class Ladder:
    """Draw uniformly from a window of levels that moves with the pass rate in it.

    The levels of a source stand in order: numbers by value, then names as they appear. Its window
    of `width` levels starts at the lowest. Once `min_completions` of it are counted, it moves one
    level up when more than `up` of them are correct, one down when fewer than `down` are, and
    counts anew after a move. Without a move the counts go on, older ones scaled down to
    `min_completions` as each round arrives, so the pass rate is a recent one.

    A window with nothing eligible left is widened to the nearest levels of its source, and so are
    all windows when together they hold too few, so a plan is never short. What is remembered is
    of levels, so endless buckets are like others.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        width: int = 2,
        up: float = 0.9,
        down: float = 0.3,
        min_completions: int = 64,
    ) -> None:
        """Start every source at its lowest levels.

        Raises `ConfigError` for an option out of range.
        """
        check_range("width", width, least=1)
        check_range("up", up, least=0.0, most=1.0)
        check_range("down", down, least=0.0, most=1.0)
        check_range("min_completions", min_completions, least=1)
        if down > up:
            raise ConfigError(f"down={down} with up={up}: must not be the larger one")
        self._index = index
        self._seed = seed
        self._width = width
        self._up, self._down = up, down
        self._min_completions = min_completions
        self._climbs = {
            source: _climb(index, source) for source in dict.fromkeys(index.bucket_sources)
        }

    def remarks(self) -> list[str]:
        """Say which sources have a window that can never move, and in which order levels that are
        names are climbed."""
        whole, named = [], []
        for source, climb in self._climbs.items():
            levels = f"{source or 'the pool'} ({', '.join(map(str, climb.levels))})"
            if len(climb.levels) <= self._width:
                whole.append(levels)
            elif any(level_order(level)[0] for level in climb.levels):
                named.append(levels)
        said = []
        if whole:
            said.append(
                f"curriculum.sampler: the ladder's window of width={self._width} holds every level "
                f"of {', '.join(whole)}: it never moves there and draws evenly; give the problems "
                "more levels, or use a smaller width or another sampler"
            )
        if named:
            said.append(
                "curriculum.sampler: the ladder climbs levels in this order: "
                f"{', '.join(named)}; names come as they appear"
            )
        return said

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return problems drawn uniformly from the windows, then from the nearest levels."""
        rng = derive_rng(self._seed, "sampler", step, round)
        bucket_ids = self._index.bucket_ids
        eligible_N = np.ones(len(bucket_ids), np.bool_) if exclude is None else ~exclude
        distance_K = self._distances(np.bincount(bucket_ids[eligible_N], minlength=self._num_K) > 0)
        # Distances are whole and noise is below 1: nearer levels first, at random within each.
        order_N = np.where(eligible_N, distance_K[bucket_ids] + rng.random(len(bucket_ids)), np.inf)
        return _smallest(order_N, min(num_problems, int(np.count_nonzero(eligible_N))))

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return for each part problems drawn uniformly from its levels nearest to the windows."""
        chosen = []
        for number, part in enumerate(parts):
            rng = derive_rng(self._seed, "sampler", step, round + number)
            bucket_ids = self._index.bucket_ids[part.eligible]
            distance_K = self._distances(np.bincount(bucket_ids, minlength=self._num_K) > 0)
            order = distance_K[bucket_ids] + rng.random(len(bucket_ids))
            first = _smallest(order, min(part.count, len(part.eligible)))
            chosen.append(part.eligible[first])
        return chosen

    @property
    def _num_K(self) -> int:
        return self._index.num_buckets

    def _distances(self, eligible_K: NDArray[np.bool_]) -> Floats:
        """Return how many levels each bucket is beyond its source's nearest eligible ones."""
        distance_K = np.zeros(self._num_K)
        for climb in self._climbs.values():
            levels = np.arange(len(climb.buckets))
            beyond = np.maximum(climb.lowest - levels, levels - (climb.lowest + self._width - 1))
            distances = np.maximum(beyond, 0)
            eligible = eligible_K[climb.buckets]
            nearest = distances[eligible].min() if eligible.any() else 0
            distance_K[climb.buckets] = np.maximum(distances - nearest, 0)
        return distance_K

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say where a problem's level is beside its source's window."""
        if exclude[position]:
            return NOT_NOW
        bucket_id = int(self._index.bucket_ids[position])
        source = self._index.bucket_sources[bucket_id]
        climb = self._climbs[source]
        rung = climb.buckets.tolist().index(bucket_id)
        window = [str(level) for level in climb.levels[climb.lowest :][: self._width]]
        side = "in" if rung < climb.lowest + self._width else "above"
        side = "below" if rung < climb.lowest else side
        rate = climb.correct / climb.counted if climb.counted else 0.0
        return (
            f"its level {climb.levels[rung]} is {side} the window of {source or 'its source'}, "
            f"which holds {', '.join(window)} ({rate:.2f} of {climb.counted:.0f} completions "
            "correct)"
        )

    def observe(self, outcomes: Outcomes) -> None:
        """Count what the windows showed, and move them."""
        bucket_ids = self._index.bucket_ids[outcomes.indices]
        correct_K = np.bincount(bucket_ids, outcomes.num_correct, minlength=self._num_K)
        counted_K = np.bincount(bucket_ids, outcomes.num_counted, minlength=self._num_K)
        for climb in self._climbs.values():
            window = climb.buckets[climb.lowest :][: self._width]
            if counted := counted_K[window].sum():
                kept = min(1.0, self._min_completions / climb.counted) if climb.counted else 0.0
                climb.correct = kept * climb.correct + float(correct_K[window].sum())
                climb.counted = kept * climb.counted + float(counted)
                self._move(climb)

    def _move(self, climb: _Climb) -> None:
        """Move a window that has shown enough."""
        if climb.counted < self._min_completions:
            return
        rate = climb.correct / climb.counted
        if rate > self._up and climb.lowest + self._width < len(climb.buckets):
            climb.move_to(climb.lowest + 1)
        elif rate < self._down and climb.lowest > 0:
            climb.move_to(climb.lowest - 1)

    def state_dict(self) -> StateDict:
        """Return, by source, the lowest level of the window and what it showed."""
        windows: dict[str, list[Any]] = {
            source: [climb.levels[climb.lowest], climb.correct, climb.counted]
            for source, climb in self._climbs.items()
        }
        return {"columns": {}, "rest": {"windows": windows}}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on at the same levels; a source that is new, or has lost its level, starts anew."""
        for source, climb in self._climbs.items():
            level, correct, counted = state["rest"]["windows"].get(source, (None, 0.0, 0.0))
            climb.move_to(0)
            if level in climb.levels:
                climb.lowest = climb.levels.index(level)
                climb.correct, climb.counted = correct, counted


def _smallest(values: Floats, count: int) -> Indices:
    """Return the positions of the `count` smallest values in ascending order."""
    if count == 0:
        return np.empty(0, np.int64)
    first = np.argpartition(values, count - 1)[:count]
    return first[np.argsort(values[first], kind="stable")]


def _climb(index: PoolIndex, source: str) -> _Climb:
    """Return the ladder of a source, at its start."""
    buckets = [k for k in range(index.num_buckets) if index.bucket_sources[k] == source]
    buckets.sort(key=lambda k: level_order(index.bucket_levels[k])[:2])  # Names as they appear.
    return _Climb(
        buckets=np.array(buckets, np.int64),
        levels=[index.bucket_levels[bucket_id] for bucket_id in buckets],
    )
