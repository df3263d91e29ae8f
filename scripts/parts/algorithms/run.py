"""One run of `bench_algorithms.py`: a child process on one core, and the row that it leaves.

PYTHONPATH=scripts python -m parts.algorithms.run run SPEC OUT.json [--core N]

SPEC is a JSON object with the fields of `Spec`. Legend: B rows (completions), T response positions,
N response tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from parts.algorithms.arms import Spec
from parts.shared.child import Subject, built, child_main, token_batches
from rl_llm.policy.pack import TokenBatch
from rl_llm.records import ScoredGroup
from rl_llm.trainer import Evaluation, Trainer

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExplainedVariances:
    """1 - Var(return - prediction) / Var(return) over all response tokens, by two predictions.

    `critic` says what the critic does, before each token; `prompt_mean` what the mean reward of the
    other completions of the same prompt does, the same at each token. 1 is perfect, 0 as good as a
    constant, and 0 is also said where returns do not vary.
    """

    critic: float
    prompt_mean: float


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
    curve = [_point(subject, subject.parts.evaluator())]
    while counters.step < spec.steps:
        trainer.take_one_step()
        if counters.step % spec.evaluate_every == 0 or counters.step == spec.steps:
            curve.append(_point(subject, subject.parts.evaluator()))
    return {
        **asdict(spec),
        "settings": spec.settings,
        "completions": counters.completions,
        "curve": {key: [point[key] for point in curve] for key in curve[0]},
    }


def _point(subject: Subject, evaluation: Evaluation) -> Row:
    point: Row = {
        "step": subject.parts.counters.step,
        "pass_rate": round(evaluation.overall.mean, 5),
        "pass_rate_se": round(evaluation.overall.standard_error, 5),
    }
    if subject.parts.policy.critic is not None:
        found = held_out_variances(subject, evaluation.scored)
        point |= {name: round(value, 5) for name, value in asdict(found).items()}
    return point


@torch.no_grad()
def held_out_variances(subject: Subject, groups: Sequence[ScoredGroup]) -> ExplainedVariances:
    """Return what the critic and the prompt mean explain of evaluated groups, all of them."""
    critic = subject.parts.policy.critic
    assert critic is not None, "an algorithm without a critic"
    return explained_variances(
        (batch, critic.values(batch)) for batch in token_batches(subject, groups)
    )


def explained_variances(judged: Iterable[tuple[TokenBatch, Tensor]]) -> ExplainedVariances:
    """Return what values (B, T) explain of the rewards to come (undiscounted), over batches, and
    what the prompt mean explains of them.

    Every group stands in one batch, whole, and has at least two rows.
    """
    returns, values, means = [], [], []
    for batch, values_BT in judged:
        mask_BT = batch.response_mask_BT
        rewards_BT = batch.rewards_BT.double()
        returns.append(rewards_BT.flip(1).cumsum(1).flip(1)[mask_BT])
        values.append(values_BT.double()[mask_BT])
        others_B = mean_of_others(rewards_BT.sum(1), batch.rows_per_prompt_P)
        means.append(others_B[:, None].expand_as(rewards_BT)[mask_BT])
    returns_N = torch.cat(returns)
    return ExplainedVariances(
        critic=_explained(returns_N, torch.cat(values)),
        prompt_mean=_explained(returns_N, torch.cat(means)),
    )


def mean_of_others(totals_B: Tensor, rows_per_prompt_P: Tensor) -> Tensor:
    """Return (B,): for each row the mean total of the other rows of its prompt."""
    groups = totals_B.split(rows_per_prompt_P.tolist())
    assert all(len(group) > 1 for group in groups), "a prompt with one completion has no others"
    return torch.cat([(group.sum() - group) / (len(group) - 1) for group in groups])


def _explained(returns_N: Tensor, predictions_N: Tensor) -> float:
    variance = returns_N.var(correction=0)
    if float(variance) == 0.0:
        return 0.0
    return float(1.0 - (returns_N - predictions_N).var(correction=0) / variance)


if __name__ == "__main__":
    raise SystemExit(main())
