"""Proof that both sides of `bench_vs_trl.py` do the same work: one fixed batch, one loss, the same
gradient of every LoRA matrix.

PYTHONPATH=scripts python -m parts.vs_trl.proof TASK.json OUT.json

rl-llm's own `PolicyEngine.update` takes two optimiser steps on the batch; a hook keeps the
gradients and weights in front of each. At the second, the policy is not the one any more that the
update started from, so ratios differ from 1 and clipping bites. TRL's own code prepares the same
completions and rewards, and its `compute_loss` runs at the very same weights, with the
log-probabilities that it computes itself at the first weights as the old ones.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from parts.vs_trl.own import draw_groups
from parts.vs_trl.peer import TimedTrainer, fixed_trainer
from parts.vs_trl.work import Task, build_recipe, load, read_task, run_folder, write_json
from rl_llm.algorithms import Algorithm, grpo
from rl_llm.cli.engines import build_engine
from rl_llm.config import KLSection, Recipe
from rl_llm.policy import PolicyEngine, Ranks, add_lora, score_batch, train_groups
from rl_llm.records import ScoredGroup
from rl_llm.seeds import derive_rng, derive_seed

Tensors = dict[str, Tensor]

# The size of the first step, chosen so that most ratios of the second lie between .7 and 1.4.
FIRST_STEP = {"embedded": 5e-4, "smollm2": 2e-4}
SPREAD_OF_B = {"embedded": 8e-2, "smollm2": 5e-3}
NUM_GROUPS = {"embedded": 8, "smollm2": 3}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings that mean the same on both sides; a small micro-batch cuts rl-llm's batch up."""

    loss_type: str
    reduce: str
    beta: float
    tokens_per_micro_batch: int


CASES = (
    Case(loss_type="dapo", reduce="token_mean", beta=0.0, tokens_per_micro_batch=8192),
    Case(loss_type="dapo", reduce="token_mean", beta=0.0, tokens_per_micro_batch=512),
    Case(loss_type="dapo", reduce="token_mean", beta=0.1, tokens_per_micro_batch=8192),
    Case(loss_type="grpo", reduce="sequence_mean", beta=0.0, tokens_per_micro_batch=8192),
    Case(loss_type="grpo", reduce="sequence_mean", beta=0.1, tokens_per_micro_batch=512),
)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The weights in front of an optimiser step, with the loss and the gradients there."""

    weights: Tensors
    gradients: Tensors
    loss: float
    num_micro_batches: int


@dataclass
class Witness:
    """Keeps what the engine's reduction returned, and a `Moment` in front of every step."""

    algorithm: Algorithm
    beta: float
    named: Tensors
    moments: list[Moment] = field(default_factory=list)
    _reduced: list[float] = field(default_factory=list)

    def watched(self) -> Algorithm:
        """Return the algorithm, its reduction overheard."""

        def reduce(*args: Any) -> Tensor:
            share = self.algorithm.reduce(*args)
            self._reduced.append(float(share.detach()))
            return share

        return replace(self.algorithm, reduce=reduce)

    def before_step(self, *args: Any) -> None:
        """Keep the moment; with beta, every other reduction was the penalty's."""
        stride = 2 if self.beta else 1
        policy, penalty = self._reduced[::stride], self._reduced[1::2] if self.beta else []
        self.moments.append(
            Moment(
                weights={name: p.detach().clone() for name, p in self.named.items()},
                gradients={name: p.grad.clone() for name, p in self.named.items()},  # type: ignore[union-attr]
                loss=sum(policy) + self.beta * sum(penalty),
                num_micro_batches=len(policy),
            )
        )
        self._reduced = []


def main(task_file: str, out_file: str) -> None:
    """Compare every case, and the advantages."""
    task = read_task(task_file)
    torch.set_num_threads(task.threads)
    write_json(out_file, prove(task))


def prove(task: Task) -> dict[str, Any]:
    """Return the differences of every case, all relative, and that of the advantages."""
    recipe = build_recipe(task)
    num_groups = {"problems_per_step": NUM_GROUPS[task.model]}
    recipe = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update=num_groups)})
    num_rows = recipe.rollout.problems_per_step * recipe.rollout.group_size
    task = replace(task, rows_per_micro_batch=num_rows)
    ranks, model, data = load(recipe)
    engine = build_engine(recipe, model, ranks, folder=run_folder(recipe))
    own = add_lora(model.base, recipe.lora, seed=derive_seed(task.pair, "lora"))
    start = _perturbed(own, spread=SPREAD_OF_B[task.model], seed=task.pair)
    _load(own, start)
    with tempfile.TemporaryDirectory(dir=task.scratch) as folder:
        own.save_pretrained(folder)
        engine.load_weights(Path(folder), version=0)
    groups = draw_groups(engine, recipe, data, seed=task.pair)
    cases = []
    for case in CASES:
        _load(own, start)
        moments = own_moments(own, recipe, ranks, groups, case, task)
        trainer = _trainer(recipe, task, groups, case)
        cases.append(compare(trainer, moments, groups, case))
    return {
        "model": task.model,
        "groups": len(groups),
        "group_size": recipe.rollout.group_size,
        "advantage_difference": max(c.pop("advantage_difference") for c in cases),
        "prompts_equal": all(c.pop("prompts_equal") for c in cases),
        "cases": cases,
    }


def own_moments(
    model: Any,
    recipe: Recipe,
    ranks: Ranks,
    groups: Sequence[ScoredGroup],
    case: Case,
    task: Task,
) -> list[Moment]:
    """Let rl-llm's engine take two steps on the batch, without clipping of the gradient's norm."""
    algorithm = grpo(reduce=case.reduce, truncated="train")  # type: ignore[arg-type]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    witness = Witness(algorithm, case.beta, named)
    engine = PolicyEngine(
        model,
        algorithm=witness.watched(),
        optim=recipe.optim.model_copy(
            update={
                "epochs": 2,
                "grad_clip": 1e9,
                "tokens_per_micro_batch": case.tokens_per_micro_batch,
            }
        ),
        kl=KLSection(estimator="k3"),
        rollout=recipe.rollout,
        pad_id=0,
        ranks=ranks,
        seed=recipe.run.seed,
    )
    advantages_PG = algorithm.advantages(score_batch(groups))
    handle = register_optimizer_step_pre_hook(witness.before_step)
    try:
        engine.update(
            train_groups(groups, advantages_PG, algorithm),
            step=1,
            beta=case.beta,
            lr=FIRST_STEP[task.model],
            with_reference=case.beta > 0,
            rng=derive_rng(task.pair, "proof"),
        )
    finally:
        handle.remove()
    return witness.moments


def compare(
    trainer: TimedTrainer, moments: Sequence[Moment], groups: Sequence[ScoredGroup], case: Case
) -> dict[str, Any]:
    """Run TRL's loss at the weights of the second moment, and return the differences."""
    first, second = moments
    model = trainer.model
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert named.keys() == second.weights.keys()
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    _load(model, first.weights)
    inputs = trainer._generate_and_score_completions(_examples(groups))
    with torch.no_grad():
        inputs["old_per_token_logps"] = _logprobs(trainer, inputs)
    _load(model, second.weights)
    with torch.no_grad():
        log_ratio = _logprobs(trainer, inputs) - inputs["old_per_token_logps"]
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    peer_loss = loss.item()
    gradients = {name: relative(second.gradients[name], p.grad) for name, p in named.items()}
    ratios = log_ratio.exp()[inputs["completion_mask"].bool()]
    low, high = torch.quantile(ratios, torch.tensor([0.02, 0.98])).tolist()
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    own_advantages = grpo().advantages(score_batch(groups)).reshape(-1).float()
    return {
        "loss_type": case.loss_type,
        "reduce": case.reduce,
        "beta": case.beta,
        "micro_batches": second.num_micro_batches,
        "ratio_p02": low,
        "ratio_p98": high,
        "clipped_share": clipped,
        "loss_trl": peer_loss,
        "loss_rl_llm": second.loss,
        "loss_difference": abs(second.loss - peer_loss) / abs(peer_loss),
        "gradient_matrices": len(gradients),
        "gradient_difference": max(gradients.values()),
        "worst_matrix": max(gradients, key=lambda name: gradients[name]),
        "smallest_gradient_norm": min(float(g.norm()) for g in second.gradients.values()),
        "advantage_difference": float((own_advantages - inputs["advantages"]).abs().max()),
        "prompts_equal": _prompts_equal(trainer, groups),
    }


def relative(own: Tensor, peer: Tensor | None) -> float:
    """Return |own - peer| / |peer| in the Euclidean norm."""
    assert peer is not None
    return float((own - peer).norm() / peer.norm())


def _trainer(recipe: Recipe, task: Task, groups: Sequence[ScoredGroup], case: Case) -> TimedTrainer:
    """Build a new trainer; k3 in TRL's loss stands without the ratio, as GRPO publishes it."""
    _, model, _ = load(recipe)
    config = {"loss_type": case.loss_type, "beta": case.beta, "use_bias_correction_kl": False}
    trainer = fixed_trainer(recipe, model, task, groups, config=config)
    return trainer


def _logprobs(trainer: TimedTrainer, inputs: dict[str, Any]) -> Tensor:
    found, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        inputs["completion_ids"].size(1),
    )
    return found


def _examples(groups: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    return [
        {"prompt": _prompt(group), "answer": group.group.problem.answer}
        for group in groups
        for _ in group.scores
    ]


def _prompt(group: ScoredGroup) -> Any:
    prompt = group.group.problem.prompt
    return prompt if isinstance(prompt, str) else list(map(dict, prompt))


def _prompts_equal(trainer: TimedTrainer, groups: Sequence[ScoredGroup]) -> bool:
    """Say whether TRL encodes the prompts to the same ids."""
    ids, *_ = trainer._tokenize_prompts([_prompt(group) for group in groups])
    return [list(i) for i in ids] == [list(group.group.prompt_ids) for group in groups]


def _perturbed(model: Any, *, spread: float, seed: int) -> Tensors:
    """Return adapter weights in which no matrix is zero."""
    weights = {}
    generator = torch.Generator().manual_seed(derive_seed(seed, "proof") % 2**63)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator) * spread
            weights[name] = parameter.detach() + noise if ".lora_B." in name else parameter.detach()
            weights[name] = weights[name].clone()
    return weights


@torch.no_grad()
def _load(model: Any, weights: Tensors) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
