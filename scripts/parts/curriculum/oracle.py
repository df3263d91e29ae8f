"""The arm that knows: a sampler that sees the true pass rates of the problems it chooses from.

The policy's true pass rate on a sum is taken to be the probability of the worked solution, which
one forward pass gives exactly; `python scripts/bench_curriculum.py --check-oracle` compares it with
sampling.

Legend: N problems of the training pool, C candidates, T tokens of the longest one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from rl_llm import plugins
from rl_llm.cli.inputs import Model
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.records import Problem
from rl_llm.seeds import derive_rng

Floats = NDArray[np.float64]

_ROWS = 32  # Of one forward pass.


def mixed_probability(rates: Floats, *, group_size: int) -> Floats:
    """Return U_G(p) = 1 - p^G - (1-p)^G: how often a group has a correct and a wrong completion."""
    mixed: Floats = 1.0 - rates**group_size - (1.0 - rates) ** group_size
    return mixed


class Oracle:
    """Of `candidates` times as many problems as a step needs, drawn uniformly, take those whose
    groups are most probably mixed, by their true pass rates.

    Looking is free: no completion is charged for it.
    """

    true_rates: ClassVar[Callable[[Indices], Floats]]
    """Set once the policy is there: the pass rates of the problems at some positions, now."""

    def __init__(
        self, *, index: PoolIndex, seed: int, group_size: int, candidates: int = 4
    ) -> None:
        """Remember nothing: the policy is asked at every step."""
        self._num_problems = index.num_problems
        self._seed = seed
        self._group_size = group_size
        self._candidates = candidates

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return the best of the candidates, best first."""
        eligible = np.arange(self._num_problems)
        if exclude is not None:
            eligible = np.flatnonzero(~exclude)
        rng = derive_rng(self._seed, "sampler", step, round)
        count = min(self._candidates * num_problems, len(eligible))
        candidates = rng.choice(eligible, count, replace=False)
        scores = mixed_probability(type(self).true_rates(candidates), group_size=self._group_size)
        return candidates[np.argsort(-scores, kind="stable")[:num_problems]]

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing: there is nothing that it does not know."""

    def state_dict(self) -> StateDict:
        """Return nothing."""
        return {"columns": {}, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over nothing."""


class WorkedSolutions:
    """The probability that the policy, as it stands, writes a sum's worked solution to its end."""

    def __init__(self, model: Model, problems: Sequence[Problem], *, temperature: float) -> None:
        """`model.base` carries the adapter that is trained, so it is the policy of any moment."""
        solve = plugins.resolve("arithmetic", kind="data").module.worked_solution
        self._policy = model.base
        self._temperature = temperature
        self._rows = [_encode(model, problem, solve) for problem in problems]

    def __call__(self, positions: Sequence[int] | Indices) -> Floats:
        """Return the probabilities for the problems at `positions` (C,)."""
        rows = [self._rows[position] for position in positions]
        by_length = np.argsort([len(row["ids"]) for row in rows], kind="stable")
        rates_C = np.empty(len(rows))
        for start in range(0, len(rows), _ROWS):  # Rows of like length: little padding.
            batch = by_length[start : start + _ROWS]
            rates_C[batch] = self._probabilities([rows[each] for each in batch])
        return rates_C

    @torch.no_grad()
    def _probabilities(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """Run one batch, padded on the right: no real token sees the padding."""
        ids_CT = pad_sequence([row["ids"] for row in rows], batch_first=True)
        chosen_CT = pad_sequence([row["is_solution"] for row in rows], batch_first=True)
        logits_CTV = self._policy(input_ids=ids_CT, use_cache=False).logits.float()
        logprobs_CTV = log_softmax(logits_CTV[:, :-1] / self._temperature, dim=-1)
        logprobs_CT = logprobs_CTV.gather(-1, ids_CT[:, 1:, None])[..., 0]
        total_C = torch.where(chosen_CT[:, 1:], logprobs_CT, 0.0).double().sum(dim=1)
        probabilities: Floats = total_C.exp().numpy()
        return probabilities


def _encode(
    model: Model, problem: Problem, solve: Callable[[int, int], str]
) -> dict[str, torch.Tensor]:
    """Return the token ids of the prompt, its solution and the end, and which of them are not the
    prompt's."""
    assert isinstance(problem.prompt, str)
    left, right = map(int, problem.prompt.removesuffix("=").split("+"))
    prompt = model.encoder.encode(problem.prompt)
    solution = [*model.encoder.encode(solve(left, right)), model.stop_ids[0]]
    return {
        "ids": torch.tensor([*prompt, *solution]),
        "is_solution": torch.arange(len(prompt) + len(solution)) >= len(prompt),
    }
