"""The rows of metrics.jsonl, and where they are written.

Every key is explained in docs/metrics.md.
"""

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rl_llm.curriculum.gates import is_mixed
from rl_llm.curriculum.pool import bucket_name
from rl_llm.pass_rates import PassRate, estimates, pass_rate
from rl_llm.policy import CriticFacts, UpdateFacts
from rl_llm.records import Score, ScoredGroup
from rl_llm.trainer.evaluate import Evaluation
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.likeness import distinct_share, same_answer_share, same_reference_share
from rl_llm.trainer.storage import writing

Row = dict[str, Any]


@dataclass(kw_only=True)
class Counters:
    """What accumulates over a run, and goes into checkpoints; dropped ones are part of all."""

    step: int = 0
    completions: int = 0
    tokens: int = 0
    dropped_completions: int = 0
    dropped_tokens: int = 0
    finished: bool = False

    def count(self, step: int, harvest: Harvest) -> None:
        """Count a step, every completion that it generated, and those of dropped groups."""
        self.step = step
        generated, dropped = _spent(harvest.scored), _spent(harvest.dropped)
        self.completions += generated.completions
        self.tokens += generated.tokens
        self.dropped_completions += dropped.completions
        self.dropped_tokens += dropped.tokens


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """What groups cost to generate."""

    completions: int
    tokens: int


def _spent(groups: Sequence[ScoredGroup]) -> _Spent:
    completions = [c for group in groups for c in group.group.completions]
    return _Spent(completions=len(completions), tokens=sum(len(c.token_ids) for c in completions))


def harvest_row(harvest: Harvest, counters: Counters) -> Row:
    """Return what a step's rollouts say; `counters` already hold them."""
    completions = [c for group in harvest.scored for c in group.group.completions]
    scores = [score for group in harvest.scored for score in group.scores]
    counted = [score for score in scores if score.error is None]
    tokens = _spent(harvest.scored).tokens
    return {
        "train/pass_rate": _mean([score.correct for score in counted], without=math.nan),
        "train/reward_mean": _mean([score.total for score in counted], without=math.nan),
        "train/informative_share": _informative_share(harvest),
        "train/groups_admitted": len(harvest.admitted),
        "train/completions_masked": len(scores) - len(counted),
        "train/truncated_share": _mean([c.finish_reason == "length" for c in completions]),
        "train/completion_tokens_mean": _mean([len(c.token_ids) for c in completions]),
        **_lengths_by_bucket(harvest.scored),
        **_part_means(counted),
        **_failure_counts(scores),
        "rollout/completions": counters.completions,
        "rollout/tokens": counters.tokens,
        "rollout/dropped_completions": counters.dropped_completions,
        "rollout/dropped_tokens": counters.dropped_tokens,
        "rollout/tokens_per_s": tokens / max(harvest.generate_s, 1e-9),
        "rollout/refill_rounds": max(harvest.num_rounds - 1, 0),
        "rollout/distinct_share": distinct_share(harvest.scored),
        "rollout/same_answer_share": same_answer_share(harvest.scored),
        "rollout/same_reference_share": same_reference_share(harvest.scored),
        "curriculum/admitted_share": _admitted_share(harvest),
        **_groups_by_bucket(harvest.concluded),
        "time/generate_s": harvest.generate_s,
        "time/score_s": harvest.score_s,
    }


def update_row(
    facts: UpdateFacts,
    *,
    beta: float,
    lr: float,
    num_skipped: int,
    num_refreshed: int | None = None,
) -> Row:
    """Return what a step's updates say; while the critic learns alone the policy's rate is 0.

    `num_refreshed` counts refreshes of the reference, None for one that has none.
    """
    return {
        "train/trained_tokens": facts.trained_tokens,
        "rollout/mismatch_mean_nats": facts.mismatch_mean_nats,
        "rollout/mismatch_max_nats": facts.mismatch_max_nats,
        "rollout/stale_share": facts.stale_share,
        "rollout/stale_nats_per_token": facts.stale_nats_per_token,
        "rollout/effective_sample_share": facts.effective_sample_share,
        **_corrected_row(facts.corrected_share),
        "kl/ref_nats_per_token": facts.ref_nats_per_token,
        "kl/ref_nats_per_response": facts.ref_nats_per_response,
        "kl/old_nats_per_token": facts.old_nats_per_token,
        "kl/old_nats_per_response": facts.old_nats_per_response,
        "kl/beta": beta,
        "kl/updates_left_out": facts.num_left_out,
        **({} if num_refreshed is None else {"kl/reference_refreshes": num_refreshed}),
        "loss/policy": facts.policy_loss,
        "loss/clip_rate": facts.clip_rate,
        "entropy_nats_per_token": facts.entropy_nats_per_token,
        "optim/lr": lr if facts.policy_learns else 0.0,
        "optim/grad_norm": facts.grad_norm,
        "optim/skipped_updates": num_skipped,
        **_critic_row(facts.critic),
    }


def _corrected_row(corrected_share: float | None) -> Row:
    return {} if corrected_share is None else {"rollout/corrected_share": corrected_share}


def _critic_row(critic: CriticFacts | None) -> Row:
    if critic is None:
        return {}
    return {
        "critic/explained_variance": critic.explained_variance,
        "critic/value_mean": critic.value_mean,
        "critic/grad_norm": critic.grad_norm,
        "loss/value": critic.value_loss,
    }


def evaluation_row(evaluation: Evaluation) -> Row:
    """Return what an evaluation says."""
    return {
        "eval/pass_rate": evaluation.overall.mean,
        "eval/pass_rate_se": evaluation.overall.standard_error,
        **{f"eval/pass_rate/level={k}": rate.mean for k, rate in evaluation.by_level.items()},
        **_pass_at_row(estimates(evaluation.results())),
        "eval/completion_tokens_mean": evaluation.completion_tokens_mean,
        "eval/truncated_share": evaluation.truncated_share,
        "eval/completions": evaluation.num_completions,
        "eval/completions_masked": evaluation.num_masked,
        **_held_out_parts(evaluation.scored),
        **_train_row(evaluation.train),
        "time/eval_s": evaluation.elapsed_s,
    }


def evaluation_rows(evaluation: Evaluation, *, step: int) -> list[Row]:
    """Return the row of each held-out problem, for evaluations.jsonl."""
    return [{"step": step, **result.row} for result in evaluation.results()]


def _pass_at_row(found: Mapping[str, PassRate]) -> Row:
    """Return pass@k of more than one sample; that of one is the pass rate."""
    row: Row = {}
    for name, rate in found.items():
        if name != "pass@1":
            key = f"eval/{name.replace('@', '_at_')}"
            row |= {key: rate.mean, f"{key}_se": rate.standard_error}
    return row


def _held_out_parts(groups: Sequence[ScoredGroup]) -> Row:
    """Return the mean of each reward over the problems on which it gave something, with its
    standard error."""
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        for key, mean in _part_means([s for s in group.scores if s.error is None]).items():
            by_name[key].append(mean)
    rates = {name: pass_rate(means) for name, means in sorted(by_name.items())}
    return {f"eval/{name}": rate.mean for name, rate in rates.items()} | {
        f"eval/{name}_se": rate.standard_error for name, rate in rates.items()
    }


def _train_row(train: PassRate | None) -> Row:
    if train is None:
        return {}
    return {"eval/train_pass_rate": train.mean, "eval/train_pass_rate_se": train.standard_error}


def _admitted_share(harvest: Harvest) -> float:
    """Return the yield: of the completions of groups that were concluded, those of admitted
    ones."""
    admitted, dropped = _spent(harvest.admitted).completions, _spent(harvest.dropped).completions
    return admitted / max(admitted + dropped, 1)


def _groups_by_bucket(groups: Sequence[ScoredGroup]) -> Row:
    problems = [group.group.problem for group in groups]
    counts = Counter(bucket_name(problem.source, problem.level) for problem in problems)
    return {f"curriculum/groups/{name}": count for name, count in sorted(counts.items())}


def _lengths_by_bucket(groups: Sequence[ScoredGroup]) -> Row:
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for group in groups:
        problem = group.group.problem
        lengths[bucket_name(problem.source, problem.level)] += [
            len(completion.token_ids) for completion in group.group.completions
        ]
    return {
        f"train/completion_tokens_mean/{name}": _mean(own) for name, own in sorted(lengths.items())
    }


def _part_means(counted: Sequence[Score]) -> Row:
    names = sorted({name for score in counted for name in score.parts})
    return {
        f"reward/{name}_mean": _mean([s.parts[name] for s in counted if name in s.parts])
        for name in names
    }


def _failure_counts(scores: Sequence[Score]) -> Row:
    failures = Counter(failure for score in scores for failure in score.failures.items())
    return {f"reward/{name}_failures/{kind}": n for (name, kind), n in sorted(failures.items())}


def _informative_share(harvest: Harvest) -> float:
    """Return the share of the judged groups that are mixed; NaN for a step that finished probes of
    earlier ones alone, and of groups of one, which are never mixed."""
    if harvest.scored and not any(len(group.scores) > 1 for group in harvest.judged):
        return math.nan
    return _mean([is_mixed(group) for group in harvest.judged])


def _mean(values: Sequence[float], *, without: float = 0.0) -> float:
    return float(np.mean(values)) if values else without


class Sink(Protocol):
    """A place where rows go."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row; it is safe on disk, or on its way, when this returns."""
        ...


class JsonlSink:
    """One JSON object a line, each with its `step`; a number that is not finite is written as
    null."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        """Keep the rows up to `last_step` (-1: none) of an earlier part of the run, and go on
        behind them."""
        self._path = path
        with writing(path):
            _cut(path, last_step=last_step)
            self._file = path.open("ab", buffering=0)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append the row; raises `StorageError`, and leaves none of it, where it does not fit."""
        whole = os.fstat(self._file.fileno()).st_size
        with writing(self._path):
            try:
                _write_all(self._file, _line(row).encode())
            except OSError:
                self._file.truncate(whole)
                raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a metrics file; a line that is damaged, or was cut off in writing, is left
    out."""
    return list(iter_rows(path))


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield what `read_rows` returns, one row at a time, for files that grow large."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def _cut(path: Path, *, last_step: int) -> None:
    """Cut the file behind its last row up to `last_step`, which takes no room on a full disk."""
    if not path.is_file():
        return
    end = kept = 0
    with path.open("r+b") as file:
        for line in file:
            end += len(line)
            step = _step_of(line)
            if step is not None and step > last_step:
                break
            if step is not None:
                kept = end
        file.truncate(kept)


def _step_of(line: bytes) -> int | None:
    """Return the step of a row, None for one that was not written to its end."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _write_all(file: FileIO, data: bytes) -> None:
    """Write all of it; where a disk takes a part alone, the next call says why."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _line(row: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
