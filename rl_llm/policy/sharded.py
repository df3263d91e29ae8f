"""Parameters whose values may lie in parts on several ranks, as DeepSpeed leaves them.

A parameter itself knows whether it is shared out, so nothing that reads or writes values needs to
be told. For plain parameters everything here is what it would be without this module.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def gathered(
    parameters: Iterable[nn.Parameter], *, writes: bool = False
) -> AbstractContextManager[Any]:
    """Let every rank read whole parameters while it is open; a collective where they lie in parts.

    With `writes` what rank 0 has put into them stays. It suits parameters that are not trained;
    `assign` is for all.
    """
    parameters = list(parameters)
    if not any(map(_is_in_parts, parameters)):
        return nullcontext()
    from rl_llm.policy.zero import gathered_parts

    return gathered_parts(parameters, writes=writes)


def whole_values(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return copies of whole values, those that the optimiser steps where it has its own; a
    collective where they lie in parts."""
    parameters = list(parameters)
    if not any(map(_is_in_parts, parameters)):
        return [parameter.detach().clone() for parameter in parameters]
    from rl_llm.policy.zero import values_of_parts

    return values_of_parts(parameters)


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Put whole values, the same on every rank, into parameters, and into what the optimiser
    steps."""
    with gathered(parameters, writes=True):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    if any(_is_in_parts(p) or _has_master(p) for p in parameters):
        from rl_llm.policy.zero import assign_masters

        assign_masters(parameters, values)


def _is_in_parts(parameter: nn.Parameter) -> bool:
    """Say whether ZeRO-3 holds a parameter."""
    return hasattr(parameter, "ds_id")


def _has_master(parameter: nn.Parameter) -> bool:
    """Say whether ZeRO-2 steps a copy of its own."""
    return hasattr(parameter, "_hp_mapping")
