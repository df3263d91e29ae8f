from collections.abc import Callable

import pytest

from rl_llm.kl import KLFacts


@pytest.fixture
def facts() -> Callable[..., KLFacts]:
    """Return `(step=1, **fields) -> facts`, 0 in every divergence that is not given."""

    def make(step: int = 1, *, total_steps: int = 100, **fields: float) -> KLFacts:
        zeros = {"ref_nats_per_token": 0.0, "ref_nats_per_response": 0.0, "old_nats_per_token": 0.0}
        return KLFacts(**{**zeros, "accuracy": 0.5, **fields}, step=step, total_steps=total_steps)

    return make
