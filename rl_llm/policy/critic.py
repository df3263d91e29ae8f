"""The critic: a second adapter on the policy's frozen base, and a linear head on its last hidden
states.

Legend: B rows, T response positions, F hidden size.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from rl_llm.policy.adapters import (
    CRITIC,
    adapter_parameters,
    adapter_values,
    add_adapter,
    load_adapter,
    running,
)
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.sharded import assign, whole_values


class Critic:
    """Says before every response token what the completion will be worth, V(s_t).

    It starts at 0 everywhere: the head's weights are 0, and the adapter's output is the base's.
    """

    def __init__(self, model: PeftModel, scorer: ResponseScorer, *, seed: int) -> None:
        """Put the adapter on `model`, the policy's; `scorer` runs its base."""
        add_adapter(model, CRITIC, seed=seed)
        self._model = model
        self._scorer = scorer
        self._adapter = adapter_parameters(model, CRITIC)
        size = scorer.hidden_size
        self.head = nn.Linear(size, 1, device=next(model.parameters()).device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for parameter in self._adapter.values():
            parameter.requires_grad_(True)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return what is trained: the adapter and the head."""
        yield from self._adapter.values()
        yield from self.head.parameters()

    def running(self) -> AbstractContextManager[None]:
        """Let passes run through the critic's adapter: those that a backward pass repeats, too."""
        return running(self._model, CRITIC)

    def values(self, batch: TokenBatch) -> Tensor:
        """Return V(s_t) (B, T), float32, with its gradient; 0 where there is no response token."""
        with self.running():
            hidden_NF = self._scorer.hidden(batch)
        values_N = self.head(hidden_NF.to(self.head.weight.dtype)).float().squeeze(-1)
        mask_BT = batch.response_mask_BT
        return torch.zeros_like(mask_BT, dtype=torch.float32).masked_scatter(mask_BT, values_N)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of adapter and head; a call for every rank."""
        names = [name for name, _ in self.head.named_parameters()]
        return {
            "adapter": adapter_values(self._model, CRITIC),
            "head": dict(zip(names, whole_values(self.head.parameters()), strict=True)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the weights that `state_dict` returned."""
        load_adapter(self._model, CRITIC, state["adapter"])
        head = dict(self.head.named_parameters())
        assign(list(head.values()), [state["head"][name] for name in head])
