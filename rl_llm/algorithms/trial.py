"""Whether the pieces of an algorithm give what the engine takes, tried before a run on a made-up
micro-batch.

Legend: B rows, T response tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_llm.algorithms.batch import Algorithm, TokenTerms, Totals

_MASK_BT = torch.tensor([[True, True, True], [True, True, False]])


def fault_of(algorithm: Algorithm) -> str | None:
    """Return what is wrong with `token_loss`, `is_clipped`, `reduce` or the critic's functions, as
    the end of a sentence that begins with the algorithm; None where nothing is."""
    try:
        _try_policy(algorithm)
        _try_critic(algorithm)
    except _Misfit as misfit:
        return str(misfit)
    return None


class _Misfit(Exception):
    """One piece gives something that the engine cannot take."""


def _try_policy(algorithm: Algorithm) -> None:
    logprobs_BT = torch.tensor([[-1.0, -0.5, -2.0], [-0.1, -1.5, 0.0]], requires_grad=True)
    terms = TokenTerms(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=logprobs_BT.detach() - 0.1,
        advantages_BT=torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 0.0]]),
        response_mask_BT=_MASK_BT,
    )
    clipped_BT = _tensor(_call("is_clipped", algorithm.is_clipped, terms), "is_clipped")
    if clipped_BT.dtype != torch.bool:
        raise _Misfit(f"is_clipped gives {clipped_BT.dtype}; it must give booleans")
    losses_BT = _tensor(_call("token_loss", algorithm.token_loss, terms), "token_loss")
    if not losses_BT.requires_grad:
        raise _Misfit(
            "token_loss gives no gradient; it must be worked out from terms.logprobs_BT, and not "
            "detach it"
        )
    _reduced(algorithm, losses_BT)


def _try_critic(algorithm: Algorithm) -> None:
    rules = algorithm.critic
    if rules is None:
        return
    rewards_BT = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    values_BT = torch.tensor([[0.2, 0.3, 0.4], [0.1, 0.2, 0.0]])
    found = _call("critic.estimate", rules.estimate, rewards_BT, values_BT, _MASK_BT)
    if not isinstance(found, tuple) or len(found) != 2:
        raise _Misfit(f"critic.estimate gives {_kind(found)}; it must give advantages and targets")
    for part in found:
        _tensor(part, "critic.estimate")
    values_BT.requires_grad_()
    losses = _call("critic.value_loss", rules.value_loss, values_BT, values_BT.detach(), found[1])
    _tensor(losses, "critic.value_loss")


def _reduced(algorithm: Algorithm, losses_BT: Tensor) -> None:
    totals = Totals(num_tokens=5, num_sequences=2, max_response_tokens=3)
    loss = _call("reduce", algorithm.reduce, losses_BT, _MASK_BT, totals)
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise _Misfit(f"reduce gives {_kind(loss)}; it must give one number, a tensor of no axis")


def _call(piece: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a piece; whatever it raises is a misfit that names it."""
    try:
        return function(*arguments)
    except Exception as error:  # Somebody else's code, of which nothing is known.
        raise _Misfit(f"{piece} raises {type(error).__name__}: {error}") from error


def _tensor(found: object, piece: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != _MASK_BT.shape:
        raise _Misfit(
            f"{piece} gives {_kind(found)}; it must give a tensor of the rows and tokens that it "
            f"is given, {tuple(_MASK_BT.shape)} here"
        )
    return found


def _kind(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    return f"a {type(found).__name__}"
