"""What the parts of the curriculum pass to one another.

Legend: N problems of the training pool, named by their position in it; K buckets (source x level).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from rl_llm.records import Problem

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
    """The shape of a pool: `bucket_ids` (N) points every problem at one of `bucket_names` (K)."""

    bucket_ids: NDArray[np.int32]
    bucket_names: tuple[str, ...]

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "PoolIndex":
        """Put problems of the same source and level into one bucket; buckets stand in order of
        appearance."""
        ids: dict[str, int] = {}
        bucket_ids = np.fromiter(
            (ids.setdefault(bucket_name(problem), len(ids)) for problem in problems),
            dtype=np.int32,
            count=len(problems),
        )
        return cls(bucket_ids=bucket_ids, bucket_names=tuple(ids))

    @property
    def num_problems(self) -> int:
        """N."""
        return len(self.bucket_ids)

    @property
    def num_buckets(self) -> int:
        """K."""
        return len(self.bucket_names)


def bucket_name(problem: Problem) -> str:
    """Return `SOURCE/level=LEVEL`."""
    return f"{problem.source}/level={problem.level}"


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
