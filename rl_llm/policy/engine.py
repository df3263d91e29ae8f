"""The trained policy: one frozen base with adapters, and how a step's groups become updates."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from rl_llm.algorithms import Algorithm
from rl_llm.config import KLSection, OptimSection, RolloutSection
from rl_llm.errors import CheckpointError
from rl_llm.policy.adapters import (
    POLICY,
    adapter_parameters,
    adapter_values,
    load_adapter,
    write_adapter,
)
from rl_llm.policy.backend import Backend, Plain
from rl_llm.policy.behaviour import build_correction
from rl_llm.policy.critic import Critic
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.launched import check_reference
from rl_llm.policy.objective import CriticObjective, PolicyObjective
from rl_llm.policy.pack import TrainGroup
from rl_llm.policy.penalty import Penalty
from rl_llm.policy.prepare import Preparer
from rl_llm.policy.ranks import Ranks
from rl_llm.policy.recompute import recompute_layers
from rl_llm.policy.reference import Reference
from rl_llm.policy.start import Part
from rl_llm.policy.stepper import Stepper
from rl_llm.policy.update import CriticSums, TokenSums, UpdateFacts
from rl_llm.seeds import derive_seed


class PolicyEngine:
    """Trains the policy's adapter, and the critic's where the algorithm has one; everything else
    in the model stays as it was loaded."""

    def __init__(
        self,
        model: PeftModel,
        *,
        algorithm: Algorithm,
        optim: OptimSection,
        kl: KLSection,
        rollout: RolloutSection,
        pad_id: int,
        ranks: Ranks,
        seed: int,
    ) -> None:
        """Logprobs are those of the distribution that `rollout` samples from, and its correction
        weighs tokens that another policy drew. `seed` starts the adapters that are put beside the
        policy's."""
        self._model = model
        self._algorithm = algorithm
        self._correction = build_correction(rollout)
        self._optim = optim
        self._kl = kl
        self._ranks = ranks
        own = adapter_parameters(model, POLICY)
        self._adapter_shapes = {name: parameter.shape for name, parameter in own.items()}
        self._snapshot: _Snapshot | None = None
        policy = [p for p in model.parameters() if p.requires_grad]
        base = model.get_base_model()
        if optim.gradient_checkpointing:
            recompute_layers(base)
        self._scorer = ResponseScorer(
            base,
            temperature=rollout.temperature or 1.0,
            share_prompts=not optim.gradient_checkpointing,
        )
        self.reference = Reference(
            model, **kl.reference.model_dump(), seed=derive_seed(seed, "reference")
        )
        self.critic = (
            Critic(model, self._scorer, seed=derive_seed(seed, "critic"))
            if algorithm.critic
            else None
        )
        # Behind everything that is put on the model: a backend may share its parameters out.
        self._backend = self._build_backend(policy)
        self._stepper = Stepper(
            self._backend,
            optim=optim,
            critic_lr=algorithm.critic.lr if algorithm.critic else None,
        )
        self._prepare = Preparer(
            backend=self._backend,
            scorer=self._scorer,
            algorithm=algorithm,
            optim=optim,
            reference=self.reference,
            critic=self.critic,
            ranks=ranks,
            max_response_tokens=rollout.max_new_tokens,
            pad_id=pad_id,
        )

    def _build_backend(self, policy: list[torch.nn.Parameter]) -> Backend:
        """Build what the launcher asks for, over the policy's parameters and the critic's."""
        critic = [list(self.critic.parameters())] if self.critic else []
        settings = self._ranks.zero
        if settings is None:
            return Plain([policy, *critic], optim=self._optim, ranks=self._ranks)
        is_half = any(p.dtype == torch.bfloat16 for p in self._model.parameters())
        check_reference(settings, mode=self._kl.reference.mode, is_half=is_half)
        from rl_llm.policy.zero import Zero

        return Zero(
            self._model,
            self.critic.head if self.critic else None,
            [policy, *critic],
            settings=settings,
            optim=self._optim,
        )

    @property
    def num_skipped(self) -> int:
        """Optimiser steps that were skipped so far, because something was not finite."""
        return self._stepper.num_skipped

    def update(
        self,
        groups: Sequence[TrainGroup],
        *,
        step: int,
        beta: float,
        lr: float,
        with_reference: bool,
        rng: np.random.Generator,
    ) -> UpdateFacts:
        """Take every optimiser step that one batch of groups is due in `step`, counted from 1, and
        say what happened.

        Every rank passes the same groups and trains on its share. `rng` shuffles groups into
        `optim.updates_per_batch` parts. Raises `RunError` after 5 skipped updates in a row.
        """
        penalty = Penalty(
            beta=beta,
            estimator=self._kl.used_estimator,
            placement=self._kl.placement,
            against=self._kl.against,
            measures_reference=with_reference and self._kl.against == "ref",
        )
        self._stepper.set_lr(lr)
        parts = self._prepare(groups, penalty, rng) * self._optim.epochs
        skipped_before = self.num_skipped
        facts = self._take(parts, penalty, learns=self._policy_learns(step))
        facts = replace(facts, num_skipped=self.num_skipped - skipped_before)
        if not self.reference.after_step(step):
            return facts
        self._stepper.forget(critic=self._kl.placement == "reward")
        return replace(facts, reference_refreshed=True)

    def _take(self, parts: Sequence[Part], penalty: Penalty, *, learns: bool) -> UpdateFacts:
        """Take one optimiser step for each part, until the policy has gone too far."""
        objective = PolicyObjective(
            backend=self._backend,
            scorer=self._scorer,
            algorithm=self._algorithm,
            correction=self._correction,
            reference=self.reference,
            penalty=penalty,
        )
        device = self._ranks.device
        total, critic_total = TokenSums(device), CriticSums(device)
        last: TokenSums | None = None  # The last update behind another: the first has not moved.
        norms: list[list[float]] = []
        num_left_out = 0
        for position, part in enumerate(parts):
            sums, critic_sums = TokenSums(device), CriticSums(device)
            for micro in part.micro_batches:
                objective.accumulate(micro, part.totals, sums, learns=learns)
            sums.reduce(self._ranks)
            if self._is_too_far(sums):
                self._stepper.drop()
                last, num_left_out = sums, len(parts) - position
                break
            self._teach_critic(part, critic_sums)
            norm = self._stepper.step(
                loss=sums.loss + critic_sums.loss,
                num_tokens=part.totals.num_tokens,
                moves_policy=learns,
            )
            if norm is not None:
                last = sums if norms else None
                norms.append(norm)
                total += sums
                critic_total += critic_sums
        return total.facts(
            grad_norms=[norm[0] for norm in norms],
            last=last,
            num_left_out=num_left_out,
            policy_learns=learns,
            is_corrected=self._correction.weigh is not None,
            critic=critic_total.facts(norms) if self.critic else None,
        )

    def _teach_critic(self, part: Part, sums: CriticSums) -> None:
        if self.critic is None:
            return
        objective = CriticObjective(
            backend=self._backend, critic=self.critic, algorithm=self._algorithm
        )
        for micro in part.micro_batches:
            objective.accumulate(micro, part.totals, sums)
        sums.reduce(self._ranks)

    def _policy_learns(self, step: int) -> bool:
        """Say whether the critic's warm-up is over, if it has one."""
        rules = self._algorithm.critic
        return rules is None or step > rules.warmup_steps

    def _is_too_far(self, sums: TokenSums) -> bool:
        return self._kl.stop_at_old is not None and (sums.old_nats_per_token > self._kl.stop_at_old)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Return every parameter of the model, frozen and trained."""
        return self._model.parameters()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Let rank 0 alone call `save_adapter` and `state_dict` while it is open; every rank opens
        it, so that what lies in parts is put together."""
        if self._ranks.zero is not None:
            self._snapshot = _Snapshot(
                adapter=adapter_values(self._model, POLICY), state=self.state_dict()
            )
        try:
            yield
        finally:
            self._snapshot = None

    def save_adapter(self, folder: Path) -> None:
        """Write the policy's adapter in PEFT format; a call for every rank."""
        own = adapter_parameters(self._model, POLICY)
        given: dict[str, Tensor] | None = None
        if self._ranks.zero is not None:
            values = (
                self._snapshot.adapter if self._snapshot else adapter_values(self._model, POLICY)
            )
            names = {id(parameter): name for name, parameter in self._model.named_parameters()}
            given = {names[id(own[key])]: value for key, value in values.items()}
        write_adapter(self._model, folder, values=given)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser, the critic, the reference and the counters, whole and the same
        under every backend; a call for every rank. The adapter is saved by `save_adapter`."""
        if self._snapshot is not None:
            return self._snapshot.state
        return {
            **self._stepper.state_dict(),
            "reference": self.reference.state_dict(),
            "critic": None if self.critic is None else self.critic.state_dict(),
        }

    def load(self, adapter_dir: Path, state: Mapping[str, Any]) -> None:
        """Take up an adapter and the state that `state_dict` returned."""
        tensors = load_file(adapter_dir / "adapter_model.safetensors")
        self._check_fits(adapter_dir, tensors)
        load_adapter(self._model, POLICY, tensors)
        self._stepper.load_state_dict(state)
        self.reference.load_state_dict(state["reference"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])

    def _check_fits(self, adapter_dir: Path, tensors: Mapping[str, Tensor]) -> None:
        """Refuse an adapter of another model, or of another shape."""
        unexpected = sorted(tensors.keys() - self._adapter_shapes.keys())
        if unexpected:
            raise CheckpointError(
                f"{adapter_dir} holds {len(unexpected)} matrices that the model lacks, the first "
                f"{unexpected[0]}; resume with the model that it was trained on"
            )
        for name, shape in self._adapter_shapes.items():
            found = tensors[name].shape if name in tensors else None
            if found != shape:
                raise CheckpointError(
                    f"{adapter_dir} does not fit the model: {name} is "
                    f"{'missing' if found is None else tuple(found)} there and {tuple(shape)} in "
                    "the model; resume with the lora section that it was trained with"
                )


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """The policy's adapter and the engine's state, whole."""

    adapter: Mapping[str, Tensor]
    state: dict[str, Any]
