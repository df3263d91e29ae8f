"""Sample completions, kept for people to read."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_llm.records import ScoredGroup
from rl_llm.trainer.storage import write_text, writing

MAX_EVAL_PROBLEMS = 24
MAX_TRAIN_GROUPS = 4


def evaluation_samples(scored: Sequence[ScoredGroup], *, step: int) -> list[dict[str, Any]]:
    """Return the first completion of the same problems every time, spread evenly over the
    levels."""
    by_level: dict[Any, list[ScoredGroup]] = defaultdict(list)
    for group in scored:
        by_level[group.group.problem.level].append(group)
    each = max(1, MAX_EVAL_PROBLEMS // max(len(by_level), 1))
    chosen = [group for level in by_level.values() for group in level[:each]]
    return [_rows(group, split="eval", step=step)[0] for group in chosen[:MAX_EVAL_PROBLEMS]]


def training_samples(
    groups: Sequence[ScoredGroup],
    advantages: Sequence[Sequence[float]] | None,
    *,
    step: int,
    beliefs: Mapping[str, float | None],
    dropped: Sequence[ScoredGroup] = (),
) -> list[dict[str, Any]]:
    """Return whole groups, each completion with its advantage and the belief about its problem;
    where there are few, `dropped` ones fill up, from which nothing is learnt.

    Without `advantages`, as with a critic, no completion has one.
    """
    rows = []
    shown: list[tuple[ScoredGroup, Sequence[float | None]]]
    if advantages is None:
        shown = [(group, [None] * len(group.scores)) for group in (*groups, *dropped)]
    else:
        shown = list(zip(groups, advantages, strict=True))
        shown += [(group, [0.0] * len(group.scores)) for group in dropped]
    for group, own in shown[:MAX_TRAIN_GROUPS]:
        belief = beliefs[group.group.problem.key]
        for row, advantage in zip(_rows(group, split="train", step=step), own, strict=False):
            rows.append(row | {"advantage": advantage, "belief": belief})
    return rows


def write_samples(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, replacing the file; raises `StorageError`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
    write_text(path, "".join(lines))


def _rows(group: ScoredGroup, *, split: str, step: int) -> list[dict[str, Any]]:
    problem = group.group.problem
    return [
        {
            "split": split,
            "step": step,
            "key": problem.key,
            "source": problem.source,
            "level": problem.level,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "text": completion.text,
            "token_count": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "total": score.total,
            "parts": dict(score.parts),
            "correct": score.correct,
            "error": score.error,
            "advantage": None,
            "belief": None,
        }
        for completion, score in zip(group.group.completions, group.scores, strict=True)
    ]
