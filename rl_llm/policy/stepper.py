"""Optimiser steps over policy and critic, each clipped by itself; what is not finite is skipped."""

import math
from collections.abc import Mapping
from typing import Any

from rl_llm.config import OptimSection
from rl_llm.errors import RunError
from rl_llm.policy.backend import Backend

MAX_SKIPPED_IN_A_ROW = 5
POLICY_GROUP, CRITIC_GROUP = 0, 1
"""The numbers of their parameters in a `Backend`."""


class Stepper:
    """Takes optimiser steps from the gradients that stand in a backend.

    Where the loss or a gradient is not finite, the step is skipped, on every rank alike.
    """

    def __init__(
        self, backend: Backend, *, optim: OptimSection, critic_lr: float | None = None
    ) -> None:
        """`critic_lr` is the critic's rate after warm-up, as `optim.lr` is the policy's; None where
        there is no critic."""
        self._backend = backend
        self._optim = optim
        self._shares = [1.0] if critic_lr is None else [1.0, critic_lr / optim.lr]
        self.num_skipped = 0
        self._skipped_in_a_row = 0

    def set_lr(self, lr: float) -> None:
        """Set the policy's rate, and the critic's in proportion."""
        self._backend.set_rates([lr * share for share in self._shares])

    def step(self, *, loss: float, num_tokens: int, moves_policy: bool) -> list[float] | None:
        """Sum gradients over ranks, clip, and step; return the norms before clipping, the policy's
        first, or None where the step was skipped.

        Without `moves_policy` the policy stays, and its norm is 0. Raises `RunError` after 5
        skipped steps in a row.
        """
        moved = range(POLICY_GROUP if moves_policy else CRITIC_GROUP, len(self._shares))
        norms = self._backend.clip(moved, max_norm=self._optim.grad_clip)
        is_finite = all(map(math.isfinite, (*norms, loss)))
        if is_finite:
            self._backend.step(moved)
            self._skipped_in_a_row = 0
        else:
            self._backend.drop()
            self.num_skipped += 1
            self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise RunError(
                f"{self._skipped_in_a_row} updates in a row had a loss of {loss} and a gradient "
                f"norm of {max(norms)} over {num_tokens} tokens and were skipped; lower optim.lr "
                "or kl's coefficient, use model.dtype float32, and look for infinite rewards"
            )
        if not is_finite:
            return None
        return norms if moves_policy else [0.0, *norms]

    def drop(self) -> None:
        """Forget the gradients."""
        self._backend.drop()

    def forget(self, *, critic: bool) -> None:
        """Start the policy's moments anew, and those of the `critic` where its targets jump too, as
        a new reference asks for."""
        self._backend.forget(range(len(self._shares)) if critic else [POLICY_GROUP])

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the counters."""
        return {
            "optimizer": self._backend.state_dict(),
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._backend.load_state_dict(state["optimizer"])
        self.num_skipped = int(state["num_skipped"])
        self._skipped_in_a_row = int(state["skipped_in_a_row"])
