"""The optimiser: one AdamW over policy and critic, each clipped by itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rl_llm.config import OptimSection
from rl_llm.errors import RunError
from rl_llm.policy.ranks import Ranks

MAX_SKIPPED_IN_A_ROW = 5


class Stepper:
    """Takes optimiser steps from the gradients that stand in the parameters.

    Where the loss or a gradient is not finite, the step is skipped.
    """

    def __init__(
        self,
        policy: Sequence[nn.Parameter],
        critic: Sequence[nn.Parameter],
        *,
        optim: OptimSection,
        critic_lr: float,
        ranks: Ranks,
    ) -> None:
        """`critic_lr` is the critic's rate after warm-up, as `optim.lr` is the policy's."""
        self._groups = [list(policy), list(critic)] if critic else [list(policy)]
        self._optim = optim
        self._critic_share = critic_lr / optim.lr
        self._ranks = ranks
        self._optimizer = torch.optim.AdamW(
            [{"params": group} for group in self._groups],
            lr=optim.lr,
            weight_decay=optim.weight_decay,
        )
        self.num_skipped = 0
        self._skipped_in_a_row = 0

    def set_lr(self, lr: float) -> None:
        """Set the policy's rate, and the critic's in proportion."""
        shares = (1.0, self._critic_share)
        for group, share in zip(self._optimizer.param_groups, shares, strict=False):
            group["lr"] = lr * share

    def step(self, *, loss: float, num_tokens: int, moves_policy: bool) -> list[float] | None:
        """Sum gradients over ranks, clip, and step; return the norms before clipping, the policy's
        first, or None where the step was skipped.

        Without `moves_policy` the policy stays, and its norm is 0. Raises `RunError` after 5
        skipped steps in a row.
        """
        moved = self._groups if moves_policy else self._groups[1:]
        for parameter in (p for group in moved for p in group if p.grad is None):
            parameter.grad = torch.zeros_like(parameter)
        self._ranks.sum_in_place([p.grad for group in moved for p in group if p.grad is not None])
        norms = [
            float(torch.nn.utils.clip_grad_norm_(group, self._optim.grad_clip)) for group in moved
        ]
        is_finite = all(map(math.isfinite, (*norms, loss)))
        if is_finite:
            self._optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self.num_skipped += 1
            self._skipped_in_a_row += 1
        self.drop()
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
        self._optimizer.zero_grad(set_to_none=True)

    def forget(self, *, critic: bool) -> None:
        """Start the policy's moments anew, and those of the `critic` where its targets jump too, as
        a new reference asks for."""
        for group in self._groups if critic else self._groups[:1]:
            for parameter in group:
                self._optimizer.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the counters."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.num_skipped = int(state["num_skipped"])
        self._skipped_in_a_row = int(state["skipped_in_a_row"])
