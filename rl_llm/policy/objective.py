"""The gradients of one micro-batch: of the policy's loss, and of the critic's.

Legend: B rows, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm.algorithms import Algorithm, Correction, TokenTerms, Totals, token_mean
from rl_llm.kl import loss_penalty
from rl_llm.policy.backend import Backend
from rl_llm.policy.behaviour import Behaviour, behaviour_of
from rl_llm.policy.critic import Critic
from rl_llm.policy.forward import ResponseLogprobs, ResponseScorer
from rl_llm.policy.penalty import Penalty
from rl_llm.policy.reference import Reference
from rl_llm.policy.start import MicroBatch
from rl_llm.policy.update import CriticSums, TokenSums


@dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    """policy loss + beta * penalty - entropy_bonus * entropy, each reduced alike.

    Under a correction each token's policy loss and penalty are multiplied by its weight, which says
    how much likelier the update's start was to draw it than what drew it. Denominators stay as they
    are, so a weight is not taken back by a mean. The entropy is no mean over what was drawn but
    exact at each position, and is not weighed.
    """

    backend: Backend
    scorer: ResponseScorer
    algorithm: Algorithm
    correction: Correction
    reference: Reference
    penalty: Penalty

    def accumulate(
        self, micro: MicroBatch, totals: Totals, sums: TokenSums, *, learns: bool
    ) -> None:
        """Add one micro-batch's share of the gradient, if the policy `learns`, and of the sums
        behind the metrics."""
        passes: list[_Pass] = []

        def loss() -> Tensor:
            passes.append(self._pass(micro, totals))
            return passes[-1].loss

        with torch.set_grad_enabled(learns):
            total = self.backend.run(loss)
        if learns:
            self.backend.backward(total)
        (found,) = passes
        with torch.no_grad():
            sums.add(
                found.terms,
                found.behaviour,
                entropy_BT=found.entropy_BT,
                ref_logprobs_BT=found.ref_logprobs_BT,
                clipped_BT=self.algorithm.is_clipped(found.terms),
                policy_loss=found.policy_loss,
            )

    def _pass(self, micro: MicroBatch, totals: Totals) -> "_Pass":
        """Run the policy, and the reference where it is due, and put the loss together."""
        mask_BT = micro.tokens.response_mask_BT
        now = self.scorer(micro.tokens, entropy_gradient=self.algorithm.entropy_bonus != 0)
        start_BT = micro.start.logprobs_BT
        if start_BT is None:
            start_BT = now.logprobs_BT.detach()
        behaviour = behaviour_of(micro.tokens, start_BT, self.correction)
        terms = _terms(micro, now, behaviour)
        ref_BT = self._reference_logprobs(micro)
        losses_BT = behaviour.weighed(self.algorithm.token_loss(terms))
        policy_loss = self.algorithm.reduce(losses_BT, mask_BT, totals)
        loss = policy_loss
        if self.penalty.in_loss:
            anchor_BT = ref_BT if self.penalty.against == "ref" else start_BT
            penalty_BT = behaviour.weighed(self._penalties(terms, anchor_BT))
            loss = loss + self.penalty.beta * self.algorithm.reduce(penalty_BT, mask_BT, totals)
        if self.algorithm.entropy_bonus:
            entropy = self.algorithm.reduce(now.entropy_BT, mask_BT, totals)
            loss = loss - self.algorithm.entropy_bonus * entropy
        return _Pass(
            loss=loss,
            policy_loss=policy_loss,
            terms=terms,
            behaviour=behaviour,
            entropy_BT=now.entropy_BT,
            ref_logprobs_BT=ref_BT,
        )

    def _penalties(self, terms: TokenTerms, anchor_BT: Tensor | None) -> Tensor:
        assert anchor_BT is not None, "nothing to hold the policy to"
        return loss_penalty(
            self.penalty.estimator, terms.logprobs_BT, anchor_BT, terms.old_logprobs_BT
        )

    @torch.no_grad()
    def _reference_logprobs(self, micro: MicroBatch) -> Tensor | None:
        if micro.start.ref_logprobs_BT is not None or not self.penalty.measures_reference:
            return micro.start.ref_logprobs_BT
        with self.reference.active():
            return self.scorer(micro.tokens).logprobs_BT


@dataclass(frozen=True, kw_only=True)
class CriticObjective:
    """The mean of the value loss over response tokens.

    A correction weighs none of it: values and their targets are those of whatever drew the tokens.
    """

    backend: Backend
    critic: Critic
    algorithm: Algorithm

    def accumulate(self, micro: MicroBatch, totals: Totals, sums: CriticSums) -> None:
        """Add one micro-batch's share of the gradient, and of the sums behind the metrics."""
        rules, start = self.algorithm.critic, micro.start
        assert rules is not None and start.values_BT is not None and start.targets_BT is not None
        mask_BT = micro.tokens.response_mask_BT
        before_BT, targets_BT = start.values_BT, start.targets_BT

        def loss() -> Tensor:
            values_BT = self.critic.values(micro.tokens)
            return token_mean(rules.value_loss(values_BT, before_BT, targets_BT), mask_BT, totals)

        total = self.backend.run(loss)
        with self.critic.running():  # A checkpointed pass runs again as its gradient is taken.
            self.backend.backward(total)
        sums.add(before_BT, targets_BT, mask_BT, value_loss=total.detach())


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What a pass came to; `loss` alone is read with its gradient."""

    loss: Tensor
    policy_loss: Tensor
    terms: TokenTerms
    behaviour: Behaviour
    entropy_BT: Tensor
    ref_logprobs_BT: Tensor | None


def _terms(micro: MicroBatch, now: ResponseLogprobs, behaviour: Behaviour) -> TokenTerms:
    return TokenTerms(
        logprobs_BT=now.logprobs_BT,
        old_logprobs_BT=behaviour.old_logprobs_BT,
        advantages_BT=micro.start.advantages_BT,
        response_mask_BT=micro.tokens.response_mask_BT,
    )
