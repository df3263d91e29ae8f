"""`rl-llm data beliefs`: what a run has learnt of single problems, as a file that priors can be
read from."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rl_llm.cli.arguments import parquet_file
from rl_llm.cli.inputs import load_data
from rl_llm.cli.parts import make_scheduler
from rl_llm.config import load_recipe
from rl_llm.curriculum import Scheduler, store
from rl_llm.curriculum.pool import StateDict
from rl_llm.curriculum.priors import write_beliefs
from rl_llm.errors import CheckpointError, InputError
from rl_llm.policy import load_tokenizer
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.trainer import RunFolder, checkpoint
from rl_llm.trainer.pending import Pending


@dataclass(frozen=True, kw_only=True)
class SavedScheduler:
    """The scheduler in a checkpoint: it has seen the completions up to those of `step`, which under
    `rollout.max_staleness` lies ahead of `learnt_step`, the last that was learnt from."""

    scheduler: Scheduler
    step: int
    learnt_step: int


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm data beliefs runs/quickstart --out beliefs.parquet"
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--out", metavar="FILE.parquet", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Write what the newest checkpoint knows of problems, and say of how many."""
    saved = load_scheduler(RunFolder(args.run_dir))
    out = parquet_file(args.out, example="beliefs.parquet")
    _refuse_to_replace(out)
    scheduler = saved.scheduler
    num_known = write_beliefs(
        out,
        problems=scheduler.problems,
        belief=scheduler.belief,
        visits_N=scheduler.visits_N,
        step=saved.step,
    )
    ahead = f", drawn ahead of step {saved.learnt_step}" if saved.step > saved.learnt_step else ""
    print(
        f"beliefs after step {saved.step}{ahead}: {num_known:,} of {len(scheduler.problems):,} "
        f"problems have evidence of their own\nwritten: {out}"
    )
    return 0


def _refuse_to_replace(out: Path) -> None:
    """Raise `InputError` for a file that holds something else than beliefs of a run."""
    if not out.exists():
        return
    columns: list[str] = []
    with suppress(OSError, pa.ArrowException):
        columns = pq.read_schema(out).names
    if not {"key", "pass_rate", "visits"} <= set(columns):
        raise InputError(f"--out {out} was not written by `rl-llm data beliefs`; name another file")


def load_scheduler(folder: RunFolder) -> SavedScheduler:
    """Return the scheduler of a run as its newest whole checkpoint has it.

    The model's tokenizer is read, its weights are not. Raises `InputError` for a folder without a
    run, and for a run without a checkpoint yet.
    """
    if not folder.resolved.is_file():
        raise InputError(
            f"{folder.path} is not a run's folder (it has no resolved.yaml); name one such as "
            "runs/NAME"
        )
    recipe = load_recipe(folder.resolved)
    tokenizer = load_tokenizer(recipe.model.path, chat_template=recipe.model.chat_template)
    encoder = PromptEncoder(tokenizer)
    scheduler = make_scheduler(recipe, load_data(recipe, encoder))
    state, curriculum, pending = _read_newest(folder, scheduler.row_names)
    scheduler.load_state_dict(curriculum)
    learnt_step = int(state["counters"]["step"])
    step = max([learnt_step, *pending.reports])
    return SavedScheduler(scheduler=scheduler, step=step, learnt_step=learnt_step)


def _read_newest(
    folder: RunFolder, row_names: Sequence[str]
) -> tuple[dict[str, Any], StateDict, Pending]:
    """Read what the newest whole checkpoint says; of one that the run has meanwhile replaced, the
    next."""
    while True:
        saved, damaged = checkpoint.newest_whole(folder.checkpoints)
        if saved is None:
            if any(not each.path.is_dir() for each in damaged):
                continue
            raise InputError(
                f"{folder.path} has no checkpoint yet that is whole; its run writes one every "
                "checkpoint.every steps"
            )
        try:
            return _read(saved, row_names)
        except CheckpointError:
            if saved.is_dir():
                raise


def _read(saved: Path, row_names: Sequence[str]) -> tuple[dict[str, Any], StateDict, Pending]:
    state, pending = checkpoint.read_state(saved), Pending()
    curriculum = store.load(saved / "curriculum.parquet", row_names, state["curriculum"])
    pending.load(saved)
    return state, curriculum, pending
