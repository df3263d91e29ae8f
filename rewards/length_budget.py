"""The soft overlong penalty of DAPO (https://arxiv.org/abs/2503.14476, equation 13)."""

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

INLINE = True  # A comparison and a division.

EXAMPLES = [
    ({"token_count": 80, "limit": 100, "cache": 20}, 0.0),
    ({"token_count": 85, "limit": 100, "cache": 20}, -0.25),
    ({"token_count": 90, "limit": 100, "cache": 20}, -0.5),
    ({"token_count": 100, "limit": 100, "cache": 20}, -1.0),
    ({"token_count": 130, "limit": 100, "cache": 20}, -1.0),
    ({"token_count": 100, "limit": 100, "cache": 0}, 0.0),
    ({"token_count": 101, "limit": 100, "cache": 0}, -1.0),
]


def length_budget(token_count: int, *, limit: PositiveInt, cache: NonNegativeInt) -> float:
    """0.0 up to `limit - cache` tokens, then linear down to -1.0 at `limit` tokens and beyond."""
    free = limit - cache
    if token_count <= free:
        return 0.0
    return max((free - token_count) / cache, -1.0) if cache > 0 else -1.0


def before_run(timeout_s: float, options: Mapping[str, Any]) -> None:
    """Refuse a cache that takes from completions of no token at all."""
    if options["cache"] > options["limit"]:
        raise ValueError(
            f"cache={options['cache']} is more than limit={options['limit']}, so that an empty "
            "completion would be too long; cache counts tokens below the limit, so give fewer"
        )
