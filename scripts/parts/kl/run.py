"""One run of `bench_kl.py`: a child process on one core, and the row that it leaves.

PYTHONPATH=scripts python -m parts.kl.run run SPEC OUT.json [--core N]

SPEC is a JSON object with the fields of `Spec`. The divergence from the reference is measured on
held-out completions for every arm alike, also where training computes no reference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from parts.kl.arms import Spec
from parts.shared.child import Subject, built, child_main, mean_rate, token_batches
from rl_llm.kl import k3
from rl_llm.policy.forward import ResponseScorer
from rl_llm.records import ScoredGroup
from rl_llm.trainer import Trainer

Row = dict[str, Any]

STEP_KEYS = {
    "beta": "kl/beta",
    "ref_nats_per_token": "kl/ref_nats_per_token",
    "trained_tokens": "train/trained_tokens",
    "pass_rate": "train/pass_rate",
}
"""What is kept of every step, by its key in metrics.jsonl."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one run, and write the row when all is done."""
    return child_main(arguments, __doc__, {"run": _run})


def _run(fields: Mapping[str, Any]) -> Row:
    spec = Spec(**fields)
    with built(spec.recipe()) as subject:
        return measure(spec, subject)


def measure(spec: Spec, subject: Subject) -> Row:
    """Train to the end, evaluating before the first step, every `evaluate_every` and after the
    last."""
    trainer, counters = Trainer(subject.parts), subject.parts.counters
    curve, steps = [_point(subject)], []
    while counters.step < spec.steps:
        row = trainer.take_one_step()
        steps.append(kept_of_step(row))
        if counters.step % spec.evaluate_every == 0 or counters.step == spec.steps:
            curve.append(_point(subject))
    return {
        **asdict(spec),
        "settings": spec.settings,
        "updates": {key: [step[key] for step in steps] for key in STEP_KEYS},
        "curve": {key: [point[key] for point in curve] for key in curve[0]},
    }


def kept_of_step(row: Mapping[str, Any]) -> Row:
    """Return what is kept of a step's row; None is what it did not measure, such as a divergence
    that nothing asked for."""
    found = {name: row[key] for name, key in STEP_KEYS.items()}
    return {name: None if math.isnan(x) else _rounded(x) for name, x in found.items()}


def _point(subject: Subject) -> Row:
    """Return one evaluation: on the levels that are trained on, and on the others."""
    evaluation = subject.parts.evaluator()
    trained = set(subject.parts.recipe.data.train[0].options["levels"])
    untrained = evaluation.by_level.keys() - trained
    point: Row = {"step": subject.parts.counters.step}
    for name, levels in (("trained", trained), ("untrained", untrained)):
        groups = [group for group in evaluation.scored if group.group.problem.level in levels]
        point[name] = mean_rate(evaluation, levels)
        point[f"{name}_ref_nats"] = _rounded(ref_nats_per_token(subject, groups))
    return point | {f"level={k}": round(rate.mean, 4) for k, rate in evaluation.by_level.items()}


@torch.no_grad()
def ref_nats_per_token(subject: Subject, groups: Sequence[ScoredGroup]) -> float:
    """Return the mean of k3 over all response tokens: an estimate of KL(policy || reference)."""
    parts = subject.parts
    score = ResponseScorer(subject.model.base, temperature=parts.recipe.rollout.temperature or 1.0)
    total = num_tokens = 0.0
    for batch in token_batches(subject, groups):
        logprobs_BT = score(batch).logprobs_BT
        with parts.policy.reference.active():
            ref_BT = score(batch).logprobs_BT
        mask_BT = batch.response_mask_BT
        total += float(k3(logprobs_BT, ref_BT)[mask_BT].double().sum())
        num_tokens += int(mask_BT.sum())
    return total / num_tokens


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    raise SystemExit(main())
