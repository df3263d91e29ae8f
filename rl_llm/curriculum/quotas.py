"""Shares of the drawn problems that sources are promised, so that none crowds out the others."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import PoolIndex
from rl_llm.errors import ConfigError, nearest

_TOLERANCE = Fraction(1, 10**6)  # Shares written as 0.3333333 three times are the whole.


class Quotas:
    """Splits the problems of every step among sources, by shares that hold over many steps.

    Sources without a quota share what the others leave; `None` stands for them. A split depends on
    the step alone, so there is no state.

    Raises `ConfigError` for a source that the pool does not have, a share that is not above 0 and
    at most 1, shares that sum to more than 1, and shares that leave problems to nobody or sources
    without problems.
    """

    def __init__(self, index: PoolIndex, shares: Mapping[str, float]) -> None:
        """Promise each source in `shares` its share of the drawn problems."""
        self._index = index
        sources = dict.fromkeys(index.bucket_sources)
        _check_shares(shares, sources)
        exact = {source: Fraction(str(shares[source])) for source in sources if source in shares}
        without = [source for source in sources if source not in shares]
        rest = _rest(sum(exact.values(), Fraction(0)), without)
        self._shares: dict[str | None, Fraction] = dict(exact) | ({None: rest} if rest else {})
        if not without:
            total = sum(self._shares.values())
            self._shares = {source: share / total for source, share in self._shares.items()}

    def split(self, step: int, num_problems: int) -> dict[str | None, int]:
        """Return how many of the `num_problems` of a step (counted from 1) each source gets.

        They sum to `num_problems`. With the same `num_problems` in every step, the steps 1 to t
        together are Webster's apportionment of their n = `num_problems * t` seats, in which nobody
        loses a seat when there are more. Among k sources (those without a quota are one) it is
        never further than (1 + share * k) / 2 from share * n.
        """
        after = self._apportion(num_problems * step)
        before = self._apportion(num_problems * (step - 1))
        return {source: after[source] - before[source] for source in self._shares}

    def _apportion(self, num_seats: int) -> dict[str | None, int]:
        """Give the next seat to the highest share / (2 seats + 1), from a start that Webster's
        method passes through: shares of slightly fewer seats, rounded."""
        house = max(0, num_seats - len(self._shares))
        seats = {
            source: int(share * house + Fraction(1, 2)) for source, share in self._shares.items()
        }
        for _ in range(num_seats - sum(seats.values())):
            # Of equals, `max` takes the first, so the order of the sources decides ties.
            following = max(
                seats, key=lambda source: self._shares[source] / (2 * seats[source] + 1)
            )
            seats[following] += 1
        return seats

    def mask(self, source: str | None) -> NDArray[np.bool_]:
        """Return which problems (N) are *not* of a source; for None, those of sources with a
        quota."""
        if source is None:
            excluded_K = [name in self._shares for name in self._index.bucket_sources]
        else:
            excluded_K = [name != source for name in self._index.bucket_sources]
        if not any(excluded_K):
            return np.zeros(self._index.num_problems, np.bool_)
        return np.array(excluded_K, np.bool_).take(self._index.bucket_ids)


def _check_shares(shares: Mapping[str, float], sources: Mapping[str, None]) -> None:
    for source, share in shares.items():
        if source not in sources:
            raise ConfigError(
                f"curriculum.quotas.{source}: data.train has no source {source!r}"
                f"{nearest(source, sources)}"
            )
        if not 0.0 < share <= 1.0:
            raise ConfigError(
                f"curriculum.quotas.{source}={share}: a share must be above 0 and at most 1"
            )


def _rest(total: Fraction, without: list[str]) -> Fraction:
    """Return what is left for the sources without a quota."""
    rest = 1 - total
    if rest < -_TOLERANCE:
        raise ConfigError(
            f"curriculum.quotas sum to {float(total):g}: shares of the drawn problems sum to at "
            "most 1; lower one"
        )
    if without and rest <= _TOLERANCE:
        raise ConfigError(
            f"curriculum.quotas sum to 1 and leave nothing for {', '.join(without)}; lower one, or "
            "take these sources out of data.train"
        )
    if not without and rest > _TOLERANCE:
        raise ConfigError(
            f"curriculum.quotas sum to {float(total):g}, and every source has one, so nobody gets "
            "the rest: raise them to a sum of 1, or leave out a source that is to share what is "
            "left"
        )
    return rest if without else Fraction(0)
