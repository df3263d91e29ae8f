"""Shares of the drawn problems that sources are promised, so that none crowds out the others."""

from collections.abc import Mapping
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import PoolIndex, StateDict
from rl_llm.errors import ConfigError, nearest

Name = TypeVar("Name")
Counts = dict[str | None, int]
"""A number of problems by source; None stands for the sources without a quota."""

_TOLERANCE = Fraction(1, 10**6)  # Shares written as 0.3333333 three times are the whole.


class Quotas:
    """Splits the problems of every step among sources, by shares that hold over many steps.

    Sources without a quota share what the others leave; `None` stands for them. What each source
    was asked for is remembered, so that shares hold whatever the sizes of the draws.

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
        self._asked: Counts = dict.fromkeys(self._shares, 0)

    def split(self, num_problems: int) -> Counts:
        """Return how many of the next `num_problems` each source gets; they sum to that.

        Where all splits are asked for as they are (`note`), they are together Webster's
        apportionment of their n problems, in which nobody loses a seat when there are more. Among k
        sources (those without a quota are one) it is never further than (1 + share * k) / 2 from
        share * n. A source that was asked for more than its part gets none until the others have
        theirs.
        """
        rest = dict(self._shares)
        num_seats = sum(self._asked.values()) + num_problems
        while True:
            seats = apportion(rest, num_seats)
            ahead = [source for source in rest if self._asked[source] > seats[source]]
            if not ahead:
                break
            for source in ahead:
                del rest[source]
                num_seats -= self._asked[source]
        return {source: seats.get(source, asked) - asked for source, asked in self._asked.items()}

    def note(self, source: str | None, count: int) -> None:
        """Remember that a source was asked for so many problems, be it that it had them or not:
        what a source cannot give is made up for by the others, and not owed."""
        self._asked[source] += count

    def state_dict(self) -> StateDict:
        """Return what each source was asked for, beside the share that it had."""
        asked = [
            [source, str(share), self._asked[source]] for source, share in self._shares.items()
        ]
        return {"columns": {}, "rest": {"asked": asked}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what each source was asked for; after other shares than these, start anew."""
        known = {(source, share): count for source, share, count in state["rest"]["asked"]}
        own = {source: known.get((source, str(share))) for source, share in self._shares.items()}
        is_same = len(known) == len(own) and None not in own.values()
        self._asked = {source: count or 0 if is_same else 0 for source, count in own.items()}

    def mask(self, source: str | None) -> NDArray[np.bool_]:
        """Return which problems (N) are *not* drawn with those of a source: those of all others,
        and for a source without a quota, as for None, those of sources with one."""
        if source is None or source not in self._shares:
            excluded_K = [name in self._shares for name in self._index.bucket_sources]
        else:
            excluded_K = [name != source for name in self._index.bucket_sources]
        if not any(excluded_K):
            return np.zeros(self._index.num_problems, np.bool_)
        return np.array(excluded_K, np.bool_).take(self._index.bucket_ids)


def apportion(shares: Mapping[Name, Fraction], num_seats: int) -> dict[Name, int]:
    """Split `num_seats` in proportion to `shares` by Webster's method; the order decides ties.

    The next seat goes to the highest share / (2 seats + 1), from a start that this passes through:
    shares of slightly fewer seats, rounded.
    """
    house, total = max(0, num_seats - len(shares)), sum(shares.values())
    seats = {
        source: int(share / total * house + Fraction(1, 2)) for source, share in shares.items()
    }
    for _ in range(num_seats - sum(seats.values())):
        # Of equals, `max` takes the first.
        following = max(seats, key=lambda source: shares[source] / (2 * seats[source] + 1))
        seats[following] += 1
    return seats


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
