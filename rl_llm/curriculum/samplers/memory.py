"""What samplers that remember single problems have in common."""

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex

NOT_NOW = "it cannot be drawn now"  # What `explain` says of a problem that is excluded.


def eligible_positions(num_problems: int, exclude: NDArray[np.bool_] | None) -> Indices:
    """Return the positions of the pool that are not excluded, in order."""
    return np.arange(num_problems) if exclude is None else np.flatnonzero(~exclude)


def remembered(outcomes: Outcomes, index: PoolIndex) -> Outcomes:
    """Return the outcomes that say something about the next draw of the same position.

    Groups without a counted completion say nothing, and a position of an endless bucket holds
    another problem next time.
    """
    endless = index.endless_K[index.bucket_ids[outcomes.indices]]
    return outcomes.where((outcomes.num_counted > 0) & ~endless)


def remarks_on_endless(index: PoolIndex) -> list[str]:
    """Say which sources a sampler knows nothing of, as no problem of theirs comes twice."""
    names = dict.fromkeys(
        index.bucket_sources[bucket] for bucket in np.flatnonzero(index.endless_K)
    )
    if not names:
        return []
    return [
        f"curriculum.sampler: no problem of {', '.join(names)} comes twice, and this sampler "
        "remembers single problems: it draws them evenly; posterior and ladder go by levels"
    ]


def in_open_sources(index: PoolIndex, exclude: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return which problems (N) belong to sources of which not all are excluded.

    Where one source is asked for at a time, an epoch ends for that one alone.
    """
    if exclude is None:
        return np.ones(index.num_problems, np.bool_)
    open_K = np.zeros(index.num_buckets, np.bool_)
    open_K[index.bucket_ids[~exclude]] = True
    sources_K = np.array(index.bucket_sources)
    open_K = np.isin(sources_K, sources_K[open_K])
    return open_K[index.bucket_ids]


def in_buckets_of(index: PoolIndex, positions: Indices) -> NDArray[np.bool_]:
    """Return which problems (N) share a bucket with one of `positions`."""
    open_K = np.zeros(index.num_buckets, np.bool_)
    open_K[index.bucket_ids[positions]] = True
    return open_K[index.bucket_ids]
