"""What the processes share that make single runs of a benchmark: they train a recipe on one core,
and leave a row when all is done.

A child is called as `SCRIPT MODE SPEC OUT.json [--core N]`; SPEC is a JSON object.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parts.shared import runs as shared_runs
from rl_llm.cli.inputs import Data, Model, load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.cli.runtime import keep_freed_memory
from rl_llm.config import Recipe
from rl_llm.policy import Ranks
from rl_llm.policy.pack import TokenBatch, TrainGroup, TrainRow, collate
from rl_llm.records import ScoredGroup
from rl_llm.trainer import Evaluation, Parts, RunFolder

Row = dict[str, Any]
Work = Callable[[Mapping[str, Any]], Row]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run that has not begun."""

    parts: Parts
    model: Model
    data: Data


def child_main(arguments: Sequence[str] | None, doc: str | None, modes: Mapping[str, Work]) -> int:
    """Do the work of a mode, given the fields of SPEC, and write its row when all is done."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("mode", choices=list(modes))
    parser.add_argument("spec")
    parser.add_argument("out", type=Path)
    parser.add_argument("--core", type=int)
    given = parser.parse_args(arguments)
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    torch.set_num_threads(1)
    keep_freed_memory()  # as `rl-llm` does at its start
    started = time.perf_counter()
    commit = shared_runs.commit()
    row = modes[given.mode](json.loads(given.spec)) | {"commit": commit}
    row["wall_s"] = round(time.perf_counter() - started, 1)
    row["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    aside = given.out.with_suffix(".tmp")
    aside.write_text(json.dumps(row) + "\n", encoding="utf-8")
    aside.replace(given.out)
    return 0


@contextmanager
def built(recipe: Recipe) -> Iterator[Subject]:
    """Put the parts of `rl-llm train` together, with a folder that does not outlast them."""
    ranks = Ranks()
    model = load_model(recipe, ranks)
    data = load_data(recipe, model.encoder)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder, watcher = RunFolder(Path(scratch)), SilentWatcher()
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=watcher)
        yield Subject(parts=parts, model=model, data=data)


def mean_rate(evaluation: Evaluation, levels: Collection[Any]) -> float:
    """Return the pass rate of the held-out problems of some levels, to 5 decimals."""
    rates = [rate for level, rate in evaluation.by_level.items() if level in levels]
    weights = [rate.num_problems for rate in rates]
    return round(float(np.average([rate.mean for rate in rates], weights=weights)), 5)


def token_batches(
    subject: Subject, groups: Sequence[ScoredGroup], *, groups_at_once: int = 64
) -> Iterator[TokenBatch]:
    """Yield every completion of some groups that is not empty, truncated ones included, in the
    order of `groups`; the rewards of a row add up to its score's total."""
    device = subject.parts.ranks.device
    found = [
        TrainGroup(
            prompt_ids=group.group.prompt_ids,
            rows=tuple(
                TrainRow(
                    token_ids=completion.token_ids,
                    engine_logprobs=completion.logprobs,
                    advantage=score.total,
                    token_rewards=score.token_rewards,
                )
                for completion, score in zip(group.group.completions, group.scores, strict=True)
                if completion.token_ids
            ),
        )
        for group in groups
    ]
    kept = [group for group in found if group.rows]
    for start in range(0, len(kept), groups_at_once):
        pieces = kept[start : start + groups_at_once]
        yield collate(pieces, pad_id=subject.model.pad_id, device=device)
