"""The reference that KL is taken to: the base itself, or an adapter that follows the policy.

A *refresh* makes the policy of that moment the reference (ProRL, arXiv:2505.24864), and forgets
what the optimiser has gathered; an exponential moving average follows all the time (TR-DPO,
arXiv:2404.09656).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import nn

from rl_llm.policy.adapters import (
    POLICY,
    REFERENCE,
    adapter_parameters,
    adapter_values,
    add_adapter,
    load_adapter,
    running,
)
from rl_llm.policy.sharded import gathered

Mode = Literal["base", "snapshot", "ema"]


class Reference:
    """Knows which weights are the reference now, and when they change.

    `base` is the model with its adapter off and costs nothing. `snapshot` is a copy of the policy's
    adapter, which at first is the base as well; `ema` moves that copy by 1 - `decay` of the way
    towards the policy's matrices after each step.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        mode: Mode = "base",
        refresh_every: int | None = None,
        refresh_on_stagnation: int | None = None,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        """Start as the base. `refresh_every` counts steps, `refresh_on_stagnation` evaluations in a
        row without a new best held-out pass rate."""
        self._model = model
        self._adapter = None if mode == "base" else REFERENCE
        self._moves = mode == "ema"
        self._every = refresh_every
        self._patience = refresh_on_stagnation
        self._decay = decay
        self._best = -1.0
        self._without_best = 0
        self._is_due = False
        self.num_refreshed = 0
        if self._adapter is not None:
            add_adapter(model, REFERENCE, seed=seed)
            self._copy()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let forward passes run through the reference."""
        with running(self._model, self._adapter):
            yield

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what it holds beside the base: an adapter, or nothing."""
        if self._adapter is not None:
            yield from adapter_parameters(self._model, self._adapter).values()

    def observe_evaluation(self, pass_rate: float) -> None:
        """Take note of held-out accuracy; the next `after_step` refreshes if it stagnates."""
        if pass_rate > self._best:
            self._best, self._without_best = pass_rate, 0
            return
        self._without_best += 1
        if self._patience is not None and self._without_best >= self._patience:
            self._is_due = True

    def after_step(self, step: int) -> bool:
        """Move or refresh what is due behind `step`; True after a refresh, when the optimiser is to
        start anew."""
        if self._moves:
            self._move()
        due = self._is_due or (self._every is not None and step % self._every == 0)
        if due:
            self._copy()
            self._is_due, self._without_best = False, 0
            self.num_refreshed += 1
        return due

    def state_dict(self) -> dict[str, Any]:
        """Return the adapter, if there is one, and what decides the next refresh."""
        return {
            "adapter": {} if self._adapter is None else adapter_values(self._model, REFERENCE),
            "best": self._best,
            "without_best": self._without_best,
            "is_due": self._is_due,
            "num_refreshed": self.num_refreshed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if self._adapter is not None:
            load_adapter(self._model, REFERENCE, state["adapter"])
        self._best = float(state["best"])
        self._without_best = int(state["without_best"])
        self._is_due = bool(state["is_due"])
        self.num_refreshed = int(state["num_refreshed"])

    def _copy(self) -> None:
        load_adapter(self._model, REFERENCE, adapter_values(self._model, POLICY))

    @torch.no_grad()
    def _move(self) -> None:
        policy = adapter_parameters(self._model, POLICY)
        own = adapter_parameters(self._model, REFERENCE)
        with gathered(policy.values()), gathered(own.values(), writes=True):
            for name, parameter in own.items():
                parameter.lerp_(policy[name], 1.0 - self._decay)
