"""What a reward gave, read: one number, a number for each token, or that it does not apply."""

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

Value = float | tuple[float, ...]
"""A number for the whole completion, or one for each of its tokens."""


def read_value(given: Any, *, num_tokens: int) -> Value | None:
    """Return what a reward gave for a completion of `num_tokens` tokens.

    Scalars of numpy and torch are numbers, their arrays of one axis are sequences; text is neither.
    None stays None. Raises `TypeError` for what is no number, and `ValueError` for what is not
    finite, and for a sequence that is not as long as the completion.
    """
    plain = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(plain, Sequence) and not isinstance(plain, str | bytes | bytearray):
        return _read_tokens(plain, num_tokens)
    return None if plain is None else _number(plain)


def part_of(value: Value) -> float:
    """Return what a reward gave for the whole completion: the sum where it gave a number for each
    token, rounded once, so that ten times 0.1 reaches 1.0."""
    return math.fsum(value) if isinstance(value, tuple) else value


def _read_tokens(given: Sequence[Any], num_tokens: int) -> tuple[float, ...]:
    lengths = f"{len(given)} numbers for {num_tokens} tokens"
    if len(given) != num_tokens:
        raise ValueError(f"gave {lengths}")
    numbers = tuple(_number(each, among=f", among {lengths}") for each in given)
    try:
        part_of(numbers)
    except OverflowError:
        raise ValueError(f"gave {lengths}, the sum of which is not finite") from None
    return numbers


def _number(given: Any, *, among: str = "") -> float:
    if not isinstance(given, SupportsFloat):
        raise TypeError(f"gave {given!r}, which is not a number{among}")
    number = float(given)
    if not math.isfinite(number):
        raise ValueError(f"gave {number}, which is not finite{among}")
    return number
