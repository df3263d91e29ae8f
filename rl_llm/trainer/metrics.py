"""The rows of metrics.jsonl, and where they are written.

Every key is explained in docs/metrics.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rl_llm.curriculum import Scheduler
from rl_llm.policy import UpdateFacts
from rl_llm.records import Score, ScoredGroup
from rl_llm.trainer.evaluate import Evaluation
from rl_llm.trainer.generation import Harvest

Row = dict[str, Any]


@dataclass(kw_only=True)
class Counters:
    """What accumulates over a run, and goes into checkpoints."""

    step: int = 0
    completions: int = 0
    tokens: int = 0
    finished: bool = False

    def count(self, step: int, harvest: Harvest) -> None:
        """Count a step and every completion that it generated."""
        self.step = step
        completions = [c for group in harvest.scored for c in group.group.completions]
        self.completions += len(completions)
        self.tokens += sum(len(c.token_ids) for c in completions)


def harvest_row(harvest: Harvest, counters: Counters) -> Row:
    """Return what a step's rollouts say; `counters` already hold them."""
    completions = [c for group in harvest.scored for c in group.group.completions]
    scores = [score for group in harvest.scored for score in group.scores]
    counted = [score for score in scores if score.error is None]
    tokens = sum(len(c.token_ids) for c in completions)
    return {
        "train/pass_rate": _mean([score.correct for score in counted]),
        "train/reward_mean": _mean([score.total for score in counted]),
        "train/informative_share": _mean([_is_informative(group) for group in harvest.scored]),
        "train/groups_admitted": len(harvest.admitted),
        "train/completions_masked": len(scores) - len(counted),
        "train/truncated_share": _mean([c.finish_reason == "length" for c in completions]),
        "train/completion_tokens_mean": _mean([len(c.token_ids) for c in completions]),
        **_part_means(counted),
        "rollout/completions": counters.completions,
        "rollout/tokens": counters.tokens,
        "rollout/tokens_per_s": tokens / max(harvest.generate_s, 1e-9),
        "rollout/refill_rounds": max(harvest.num_rounds - 1, 0),
        "time/generate_s": harvest.generate_s,
        "time/score_s": harvest.score_s,
    }


def update_row(facts: UpdateFacts, *, beta: float, lr: float, num_skipped: int) -> Row:
    """Return what a step's updates say."""
    return {
        "train/trained_tokens": facts.trained_tokens,
        "rollout/mismatch_mean_nats": facts.mismatch_mean_nats,
        "rollout/mismatch_max_nats": facts.mismatch_max_nats,
        "kl/ref_nats_per_token": facts.ref_nats_per_token,
        "kl/old_nats_per_token": facts.old_nats_per_token,
        "kl/beta": beta,
        "loss/policy": facts.policy_loss,
        "loss/clip_rate": facts.clip_rate,
        "entropy_nats_per_token": facts.entropy_nats_per_token,
        "optim/lr": lr,
        "optim/grad_norm": facts.grad_norm,
        "optim/skipped_updates": num_skipped,
    }


def scheduler_row(scheduler: Scheduler) -> Row:
    """Return what the beliefs say after a step."""
    return {
        **scheduler.metrics(),
        "curriculum/belief_histogram": scheduler.belief_histogram(),
    }


def evaluation_row(evaluation: Evaluation) -> Row:
    """Return what an evaluation says."""
    return {
        "eval/pass_rate": evaluation.overall.mean,
        "eval/pass_rate_se": evaluation.overall.standard_error,
        **{f"eval/pass_rate/level={k}": rate.mean for k, rate in evaluation.by_level.items()},
        "eval/completion_tokens_mean": evaluation.completion_tokens_mean,
        "eval/truncated_share": evaluation.truncated_share,
        "eval/completions_masked": evaluation.num_masked,
        "time/eval_s": evaluation.elapsed_s,
    }


def _part_means(counted: Sequence[Score]) -> Row:
    names = sorted({name for score in counted for name in score.parts})
    return {
        f"reward/{name}_mean": _mean([s.parts[name] for s in counted if name in s.parts])
        for name in names
    }


def _is_informative(group: ScoredGroup) -> bool:
    return len({score.correct for score in group.scores if score.error is None}) == 2


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


class Sink(Protocol):
    """A place where rows go."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row; it is safe on disk, or on its way, when this returns."""
        ...

    def close(self) -> None:
        """Write out what is left."""
        ...


class JsonlSink:
    """One JSON object a line; a number that is not finite is written as null."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        """Keep the rows up to `last_step` (-1: none) of an earlier part of the run, and go on
        behind them."""
        kept = [row for row in read_rows(path) if row["step"] <= last_step]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(map(_line, kept)), encoding="utf-8")
        aside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the row and flush it."""
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardSink:
    """Scalars for TensorBoard, under the run's folder."""

    def __init__(self, folder: Path, *, last_step: int) -> None:
        """Events after `last_step` of an earlier part of the run are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write every number of the row but its step."""
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a metrics file; a last line that was cut off in writing is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _line(row: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
