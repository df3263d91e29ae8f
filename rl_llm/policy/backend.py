"""How passes run and gradients become steps: on whole parameters, or on shared-out ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rl_llm.config import OptimSection
from rl_llm.policy.ranks import Ranks

T = TypeVar("T")


class Backend(Protocol):
    """Runs the model and steps AdamW over groups of parameters, the policy's and the critic's,
    which are named by their numbers.

    One step: `run` and `backward` for each micro-batch, then `clip`, then `step` or `drop`; `drop`
    may come at once.
    """

    needs_same_passes: bool
    """Whether every rank must run the model as often as the others, and alike."""

    def run(self, forward: Callable[[], T]) -> T:
        """Return what a pass of the model returns; with gradient, that is the loss alone."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add this rank's share to the gradient."""
        ...

    def clip(self, groups: Sequence[int], *, max_norm: float) -> list[float]:
        """Sum gradients over ranks, scale each group's to at most `max_norm`, and return the norms
        before that."""
        ...

    def step(self, groups: Sequence[int]) -> None:
        """Step these groups, leave the others exactly as they are, and forget the gradients."""
        ...

    def drop(self) -> None:
        """Forget the gradients."""
        ...

    def set_rates(self, rates: Sequence[float]) -> None:
        """Set the learning rate of each group."""
        ...

    def forget(self, groups: Sequence[int]) -> None:
        """Start the moments of these groups anew."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what torch's AdamW over the whole parameters would; a call for every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or on another number of ranks."""
        ...


class Plain:
    """A `Backend` where every rank has everything: gradients add up locally and are summed over
    ranks once a step."""

    needs_same_passes = False

    def __init__(
        self, groups: Sequence[Sequence[nn.Parameter]], *, optim: OptimSection, ranks: Ranks
    ) -> None:
        """Start without moments."""
        self._groups = [list(group) for group in groups]
        self._ranks = ranks
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in self._groups],
            lr=optim.lr,
            weight_decay=optim.weight_decay,
        )

    def run(self, forward: Callable[[], T]) -> T:
        """Run it."""
        return forward()

    def backward(self, loss: Tensor) -> None:
        """See `Backend.backward`."""
        loss.backward()

    def clip(self, groups: Sequence[int], *, max_norm: float) -> list[float]:
        """See `Backend.clip`."""
        moved = [self._groups[i] for i in groups]
        for parameter in (p for group in moved for p in group if p.grad is None):
            parameter.grad = torch.zeros_like(parameter)
        self._ranks.sum_in_place([p.grad for group in moved for p in group if p.grad is not None])
        return [float(torch.nn.utils.clip_grad_norm_(group, max_norm)) for group in moved]

    def step(self, groups: Sequence[int]) -> None:
        """See `Backend.step`: a group that was not clipped has no gradient, and so no step."""
        self.optimizer.step()
        self.drop()

    def drop(self) -> None:
        """See `Backend.drop`."""
        self.optimizer.zero_grad(set_to_none=True)

    def set_rates(self, rates: Sequence[float]) -> None:
        """See `Backend.set_rates`."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def forget(self, groups: Sequence[int]) -> None:
        """See `Backend.forget`."""
        for parameter in (p for i in groups for p in self._groups[i]):
            self.optimizer.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """See `Backend.state_dict`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Backend.load_state_dict`."""
        self.optimizer.load_state_dict(dict(state))
