"""The trained policy: one frozen base with an adapter, and how a step's groups become an update.

Legend: P prompts, G completions of each, B rows (completions), T response positions.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from rl_llm.algorithms import Algorithm, TokenTerms, Totals, is_clipped
from rl_llm.config import OptimSection
from rl_llm.errors import CheckpointError, RunError
from rl_llm.kl import k3, loss_penalty
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.pack import TokenBatch, TrainGroup, balance, collate, count, pack
from rl_llm.policy.ranks import Ranks
from rl_llm.policy.update import TokenSums, UpdateFacts

MAX_SKIPPED_IN_A_ROW = 5


class PolicyEngine:
    """Trains the adapter; everything else in the model stays as it was loaded."""

    def __init__(
        self,
        model: PeftModel,
        *,
        algorithm: Algorithm,
        optim: OptimSection,
        kl_estimator: str,
        temperature: float,
        max_response_tokens: int,
        pad_id: int,
        ranks: Ranks,
    ) -> None:
        """`temperature` is that of sampling: logprobs of a softer distribution are other
        logprobs."""
        self._model = model
        self._scorer = ResponseScorer(model.get_base_model(), temperature=temperature or 1.0)
        self._algorithm = algorithm
        self._optim = optim
        self._kl_estimator = kl_estimator
        self._max_response_tokens = max_response_tokens
        self._pad_id = pad_id
        self._ranks = ranks
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=optim.lr, weight_decay=optim.weight_decay
        )
        self.num_skipped = 0
        self._skipped_in_a_row = 0

    def update(
        self,
        groups: Sequence[TrainGroup],
        *,
        beta: float,
        lr: float,
        with_reference: bool,
        rng: np.random.Generator,
    ) -> UpdateFacts:
        """Take every optimiser step that one batch of groups is due, and say what happened.

        Every rank passes the same groups and trains on its share. `rng` shuffles groups into
        `optim.updates_per_batch` parts. Raises `RunError` after 5 skipped updates in a row.
        """
        for settings in self._optimizer.param_groups:
            settings["lr"] = lr
        total = TokenSums(self._ranks.device)
        norms = []
        parts = [self._prepare(part) for part in self._split(groups, rng)]
        if len(parts) * self._optim.epochs > 1:
            parts = [self._with_old_logprobs(part) for part in parts]
        for _ in range(self._optim.epochs):
            for batches, totals in parts:
                sums = TokenSums(self._ranks.device)
                for batch, old_BT in batches:
                    self._accumulate(
                        batch, old_BT, totals, sums, beta=beta, with_reference=with_reference
                    )
                sums.reduce(self._ranks)
                norm = self._step(totals, loss=sums.loss)
                if norm is not None:
                    norms.append(norm)
                    total += sums
        return total.facts(grad_norms=norms)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Return every parameter, frozen and trained."""
        return self._model.parameters()

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT format."""
        self._model.save_pretrained(str(folder), save_embedding_layers=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser and the counters; the adapter is saved by `save_adapter`."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load(self, adapter_dir: Path, state: Mapping[str, Any]) -> None:
        """Take up an adapter and the state that `state_dict` returned."""
        tensors = load_file(adapter_dir / "adapter_model.safetensors")
        try:
            outcome: Any = set_peft_model_state_dict(self._model, tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{adapter_dir} does not fit the model: {error}") from None
        if outcome.unexpected_keys:
            raise CheckpointError(
                f"{adapter_dir} holds {len(outcome.unexpected_keys)} matrices that the model "
                f"lacks, the first {outcome.unexpected_keys[0]}; resume with the model that it was "
                "trained on"
            )
        self._optimizer.load_state_dict(state["optimizer"])
        self.num_skipped = int(state["num_skipped"])
        self._skipped_in_a_row = int(state["skipped_in_a_row"])

    def _split(
        self, groups: Sequence[TrainGroup], rng: np.random.Generator
    ) -> list[list[TrainGroup]]:
        """Shuffle groups into `updates_per_batch` parts of almost equal size; none is empty."""
        num_parts = min(self._optim.updates_per_batch, len(groups))
        if num_parts <= 1:
            return [list(groups)] if groups else []
        order = rng.permutation(len(groups))
        return [[groups[i] for i in part] for part in np.array_split(order, num_parts)]

    def _prepare(self, groups: Sequence[TrainGroup]) -> "_Part":
        """Return this rank's micro-batches of one update, and the update's totals over all
        ranks."""
        totals = count(groups, max_response_tokens=self._max_response_tokens)
        share = balance(groups, self._ranks.num_ranks)[self._ranks.rank]
        micro_batches = pack(share, max_tokens=self._optim.tokens_per_micro_batch)
        device = self._ranks.device
        return [
            (collate(b, pad_id=self._pad_id, device=device), None) for b in micro_batches
        ], totals

    @torch.no_grad()
    def _with_old_logprobs(self, part: "_Part") -> "_Part":
        """Fix the policy that the update starts from, before its first step moves it."""
        batches, totals = part
        return [(batch, self._scorer(batch).logprobs_BT) for batch, _ in batches], totals

    def _accumulate(
        self,
        batch: TokenBatch,
        old_BT: Tensor | None,
        totals: Totals,
        sums: TokenSums,
        *,
        beta: float,
        with_reference: bool,
    ) -> None:
        """Add one micro-batch's share of the gradient, and of the sums behind the metrics."""
        now = self._scorer(batch)
        start_BT = now.logprobs_BT.detach() if old_BT is None else old_BT
        terms = TokenTerms(
            logprobs_BT=now.logprobs_BT,
            old_logprobs_BT=behaviour_logprobs(batch, start_BT),
            advantages_BT=batch.advantages_BT,
            response_mask_BT=batch.response_mask_BT,
        )
        ref_BT = self._reference_logprobs(batch) if with_reference else None
        loss_BT = self._algorithm.token_loss(terms)
        policy_loss = self._algorithm.reduce(loss_BT, batch.response_mask_BT, totals)
        loss = policy_loss
        if ref_BT is not None and beta > 0:
            penalty_BT = loss_penalty(
                self._kl_estimator, terms.logprobs_BT, ref_BT, terms.old_logprobs_BT
            )
            loss = loss + beta * self._algorithm.reduce(penalty_BT, batch.response_mask_BT, totals)
        loss.backward()
        with torch.no_grad():
            sums.add(
                terms,
                batch,
                entropy_BT=now.entropy_BT,
                ref_kl_BT=None if ref_BT is None else k3(terms.logprobs_BT, ref_BT),
                clipped_BT=is_clipped(
                    terms.logprobs_BT - terms.old_logprobs_BT,
                    terms.advantages_BT,
                    clip_low=self._algorithm.clip_low,
                    clip_high=self._algorithm.clip_high,
                ),
                policy_loss=policy_loss,
            )

    @torch.no_grad()
    def _reference_logprobs(self, batch: TokenBatch) -> Tensor:
        """Return log ref: the same base with the adapter off."""
        with self._model.disable_adapter():
            return self._scorer(batch).logprobs_BT

    def _step(self, totals: Totals, *, loss: float) -> float | None:
        """Sum gradients over ranks, clip, and step; return the norm before clipping.

        Where the loss or the gradient is not finite, the update is skipped and the answer is None.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._ranks.sum_in_place(gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._optim.grad_clip))
        is_finite = math.isfinite(norm) and math.isfinite(loss)
        if is_finite:
            self._optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self.num_skipped += 1
            self._skipped_in_a_row += 1
        self._optimizer.zero_grad(set_to_none=True)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise RunError(
                f"{self._skipped_in_a_row} updates in a row had a loss of {loss} and a gradient "
                f"norm of {norm} over {totals.num_tokens} tokens and were skipped; lower optim.lr "
                "or kl's coefficient, use model.dtype float32, and look for infinite rewards"
            )
        return norm if is_finite else None


def behaviour_logprobs(batch: TokenBatch, start_BT: Tensor) -> Tensor:
    """Return the logprobs (B, T) that ratios are taken to: those of the update's start, and for
    stale rows the engine's own, because the weights that drew them are gone.

    Rows that are not stale keep `start_BT` bit by bit, and with it a ratio of exactly 1 in the
    first update.
    """
    return torch.where(batch.is_stale_B[:, None], batch.engine_logprobs_BT, start_BT)


_Part = tuple[list[tuple[TokenBatch, Tensor | None]], Totals]
