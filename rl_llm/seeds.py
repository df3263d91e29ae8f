"""Randomness derived by hashing, so that no two streams overlap and every stream can be made again
after a restart."""

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order.

    The parts name a stream, most general first: `derive_seed(run_seed, "rollout", step)`. Adding to
    a seed (`seed + step`) makes streams of neighbouring seeds overlap; hashing does not.
    """
    digest = hashlib.sha256("\x1f".join(f"{type(p).__name__}:{p}" for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_rng(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded by `derive_seed(*parts)`."""
    return np.random.default_rng(derive_seed(*parts))
