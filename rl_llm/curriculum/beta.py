"""Beta distributions over pass rates, and what they say about a group of completions."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_llm.errors import ConfigError, InputError

Floats = NDArray[np.float64]
SomeFloats = NDArray[np.floating[Any]]  # Of single or of double precision.

_CHUNK = 1 << 14  # Elements worked on at a time, so that intermediate values stay in the cache.
_LARGEST = sys.float_info.max


@dataclass(frozen=True, eq=False)
class BetaBelief:
    """Beta(a, b) over a pass rate: one belief, or one for each element of two arrays of one shape.

    Raises `InputError` unless every a and b is above 0.
    """

    a: SomeFloats | float
    b: SomeFloats | float

    def __post_init__(self) -> None:
        """Check that both parameters are positive."""
        for name, values in (("a", np.asarray(self.a)), ("b", np.asarray(self.b))):
            if values.size and not values.min() > 0:
                raise InputError(f"BetaBelief {name}={values.min()}: must be above 0")

    @property
    def mean(self) -> SomeFloats | float:
        """The expected pass rate, a / (a + b)."""
        mean: SomeFloats | float = self.a / (self.a + self.b)
        return mean


def informative_probability(a: ArrayLike, b: ArrayLike, *, group_size: int) -> SomeFloats:
    """Return the probability that a group of `group_size` completions holds both a correct and a
    wrong one, under Beta(a, b) beliefs, elementwise.

    The beta-binomial closed form `1 - prod_{j<G} (a+j)/(a+b+j) - prod_{j<G} (b+j)/(a+b+j)`. For a
    belief that is sure of p it is 1 - p^G - (1-p)^G; for G = 1 it is 0.

    It is summed from positive terms, so it is right to the last digits where it is close to 0 too,
    where the differences above cancel, in logs or not; nothing overflows, whatever the strength and
    the group size. With u(1) = 0 and u(j+1) = (u(j) (a+j) + b) / (a+b+j), u(G) is the probability
    that a correct first completion is not followed by correct ones alone; w is the same with a and
    b exchanged, and the result is (a u + b w) / (a+b).

    Where both are float32 so is the result. Raises `InputError` for a group size below 1.
    """
    if group_size < 1:
        raise InputError(f"group_size={group_size}: a group has at least 1 completion")
    given_a, given_b = np.broadcast_arrays(np.asarray(a), np.asarray(b))
    is_single = given_a.dtype == given_b.dtype == np.float32
    dtype: type[np.floating[Any]] = np.float32 if is_single else np.float64
    flat_a = given_a.ravel().astype(dtype, copy=False)
    flat_b = given_b.ravel().astype(dtype, copy=False)
    mixed = np.empty_like(flat_a)
    for start in range(0, flat_a.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        _write_mixed(flat_a[chunk], flat_b[chunk], group_size, out=mixed[chunk])
    result: SomeFloats = mixed.reshape(given_a.shape)[()]
    return result


def _write_mixed(a: SomeFloats, b: SomeFloats, group_size: int, *, out: SomeFloats) -> None:
    """Write `informative_probability` of a chunk, without temporary arrays in the loop."""
    total = a + b
    not_all_correct, not_all_wrong = np.zeros_like(total), np.zeros_like(total)
    scale, term = np.empty_like(total), np.empty_like(total)
    for j in range(1, group_size):
        np.add(total, j, out=term)
        np.divide(1.0, term, out=scale)
        for first, other, u in ((a, b, not_all_correct), (b, a, not_all_wrong)):
            np.add(first, j, out=term)
            u *= term
            u += other
            u *= scale
    not_all_correct *= a
    not_all_wrong *= b
    not_all_correct += not_all_wrong
    np.divide(not_all_correct, total, out=out)


def design_effect(strength: float, num_completions: NDArray[Any] | float) -> Any:
    """Return how many completions of one problem say as much as one completion of a problem each,
    where pass rates are spread like a Beta of this strength: (strength + n) / (strength + 1).

    By this factor n completions of a problem have more variance than n independent ones (Kish's
    design effect, the correlation of two completions of a problem being 1 / (strength + 1)).
    """
    return (strength + num_completions) / (strength + 1.0)


def check_range(
    name: str,
    value: float,
    *,
    least: float = -_LARGEST,
    most: float = _LARGEST,
    above: float | None = None,
) -> None:
    """Raise `ConfigError` unless `value` is finite, `least <= value <= most` and, if `above` is
    given, `value > above`."""
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value}: must be a finite number")
    if above is not None and not value > above:
        raise ConfigError(f"{name}={value}: must be above {above:g}")
    if not least <= value <= most:
        rule = f"at least {least:g}" if most == _LARGEST else f"from {least:g} to {most:g}"
        raise ConfigError(f"{name}={value}: must be {rule}")
