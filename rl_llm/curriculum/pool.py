"""What the parts of the curriculum pass to one another.

Legend: N problems of the training pool, named by their position in it; K buckets (source x level).
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from rl_llm.errors import DataError
from rl_llm.records import Level, Problem

Indices = NDArray[np.int64]


class StateDict(TypedDict):
    """What a part must remember over a restart.

    `columns` holds arrays of length N; zero in a row must mean "never seen", because a problem that
    joins the pool later starts with it. `rest` is everything else, as JSON can hold it, and names
    buckets by name, not by position.
    """

    columns: dict[str, NDArray[Any]]
    rest: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class PoolIndex:
    """The shape of a pool: `bucket_ids` (N) points every problem at one of `bucket_names` (K).

    `endless_K` is True for buckets of procedural streams: a position of theirs holds another
    problem at every draw, so nothing is remembered of it beyond its bucket. Without it, no bucket
    is endless. `bucket_sources` and `bucket_levels` (K) are what the names are made of.
    """

    bucket_ids: NDArray[np.int32]
    bucket_names: tuple[str, ...]
    bucket_sources: tuple[str, ...]
    bucket_levels: tuple[Level, ...]
    endless_K: NDArray[np.bool_]

    @classmethod
    def of(
        cls, problems: Sequence[Problem], *, endless_keys: Set[str] = frozenset()
    ) -> "PoolIndex":
        """Put problems of the same source and level into one bucket; buckets stand in order of
        appearance.

        `endless_keys` are those of problems from streams. Raises `DataError` for a bucket that
        holds problems of both kinds.
        """
        ids: dict[tuple[str, Level], int] = {}
        bucket_ids = np.fromiter(
            (ids.setdefault((problem.source, problem.level), len(ids)) for problem in problems),
            dtype=np.int32,
            count=len(problems),
        )
        sources, levels = (tuple(parts) for parts in zip(*ids, strict=True)) if ids else ((), ())
        names = tuple(bucket_name(source, level) for source, level in ids)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(
                f"{twice[0]} is written both as a number and as text in the data; write a level of "
                "one source in one way"
            )
        endless = np.fromiter((p.key in endless_keys for p in problems), np.bool_, len(problems))
        num_endless_K = np.bincount(bucket_ids[endless], minlength=len(ids))
        num_K = np.bincount(bucket_ids, minlength=len(ids))
        if (both_K := (num_endless_K > 0) & (num_endless_K < num_K)).any():
            raise DataError(
                f"{names[int(both_K.argmax())]} has problems of an endless source and of another; "
                "give one of the two other levels, or make both endless"
            )
        return cls(
            bucket_ids=bucket_ids,
            bucket_names=names,
            bucket_sources=sources,
            bucket_levels=levels,
            endless_K=num_endless_K > 0,
        )

    def positions(self, bucket_id: int) -> Indices:
        """Return where the problems of a bucket stand, in the order of the pool.

        The first call sorts the pool, and keeps 4 bytes a problem.
        """
        ends_K = self._bucket_ends_K
        start = ends_K[bucket_id - 1] if bucket_id else 0
        return self._by_bucket_N[start : ends_K[bucket_id]].astype(np.int64)

    @cached_property
    def _by_bucket_N(self) -> NDArray[np.int32]:
        return np.argsort(self.bucket_ids, kind="stable").astype(np.int32)

    @cached_property
    def _bucket_ends_K(self) -> Indices:
        return np.cumsum(np.bincount(self.bucket_ids, minlength=self.num_buckets))

    @property
    def num_problems(self) -> int:
        """N."""
        return len(self.bucket_ids)

    @property
    def num_buckets(self) -> int:
        """K."""
        return len(self.bucket_names)


def bucket_name(source: str, level: Level) -> str:
    """Return `SOURCE/level=LEVEL`, by which states, metrics and messages name a bucket."""
    return f"{source}/level={level}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What one round of a step showed: `num_correct` of `num_counted` completions of each problem
    in `indices` were correct.

    The three arrays are parallel and `indices` are distinct. Completions whose reward failed are in
    neither count, so `num_counted` may be smaller than the group size, and 0.
    """

    indices: Indices
    num_correct: NDArray[np.int64]
    num_counted: NDArray[np.int64]
    step: int

    def where(self, kept: NDArray[np.bool_]) -> "Outcomes":
        """Return the outcomes of the problems for which `kept` is True."""
        return Outcomes(
            indices=self.indices[kept],
            num_correct=self.num_correct[kept],
            num_counted=self.num_counted[kept],
            step=self.step,
        )
