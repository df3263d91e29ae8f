"""`rl-llm data measure`: the pass rate of a model on every problem of a recipe."""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging as transformers_logging

from rl_llm.cli.adapter_files import CONFIG, WEIGHTS, base_of
from rl_llm.cli.arguments import parquet_file, positive
from rl_llm.cli.engines import build_engine, settle_engine_together
from rl_llm.cli.inputs import Model, load_data, load_model
from rl_llm.cli.measured import MeasuredFile, Row
from rl_llm.cli.parts import check_context, sampling_of
from rl_llm.config import Recipe, load_recipe
from rl_llm.curriculum import counted_scores
from rl_llm.errors import DataError, InputError, Stopped
from rl_llm.policy import Ranks, fingerprint
from rl_llm.problems import Pool
from rl_llm.records import Problem, Request, ScoredGroup
from rl_llm.rollout import RolloutEngine
from rl_llm.seeds import derive_seed
from rl_llm.trainer import Generation, RunFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm data measure recipes/quickstart.yaml --out measured.parquet"
    parser.add_argument("recipe", metavar="RECIPE", help="its model, problems and rewards")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="set one value of the recipe"
    )
    parser.add_argument("--out", metavar="FILE.parquet", type=Path, required=True)
    parser.add_argument("--samples", type=positive, default=8, help="completions of each problem")
    parser.add_argument(
        "--batch-problems", type=positive, default=64, help="problems between two saves"
    )
    parser.add_argument("--split", choices=("train", "eval"), default="train")
    parser.add_argument(
        "--adapter", metavar="FOLDER", type=Path, help="measure the model with this LoRA adapter"
    )


def run(args: argparse.Namespace) -> int:
    """Measure what is not in the file yet, and print pass rates per source and level."""
    recipe = load_recipe(args.recipe, args.overrides)
    if args.split == "eval" and not recipe.data.eval:
        raise DataError("data.eval is empty, so there is nothing to measure; add a source")
    transformers_logging.disable_progress_bar()
    ranks = Ranks()
    console = Console(quiet=not ranks.is_main)
    try:
        recipe, choice = settle_engine_together(recipe, ranks)
        console.print(choice.line, highlight=False, markup=False, soft_wrap=True)
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        check_context(recipe, data, model.base.config)
        identity = _identity(recipe, model, samples=args.samples, adapter=args.adapter)
        measured = MeasuredFile(
            parquet_file(args.out, example="measured.parquet"), identity=identity
        )
        pool = data.train if args.split == "train" else data.held_out
        with (
            closing(_engine(recipe, model, ranks, adapter=args.adapter, out=args.out)) as engine,
            closing(data.rubric),
        ):
            measurement = _Measurement(
                recipe=recipe,
                pool=pool,
                samples=args.samples,
                generation=Generation(engine, data.rubric, ranks),
                measured=measured,
                console=console,
                ranks=ranks,
            )
            try:
                measurement.run(batch_problems=args.batch_problems)
            except (KeyboardInterrupt, Stopped):
                measurement.say_what_is_kept()
                raise
        if ranks.is_main:
            rows = [measured.rows[problem.key] for problem in pool.problems]
            _show(console, pool, rows, group_size=recipe.rollout.group_size)
            console.print(f"written: {args.out}", highlight=False, markup=False, soft_wrap=True)
    finally:
        ranks.close()
    return 0


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """Generates and scores batch by batch, and keeps each batch as it ends."""

    recipe: Recipe
    pool: Pool
    samples: int
    generation: Generation
    measured: MeasuredFile
    console: Console
    ranks: Ranks

    def run(self, *, batch_problems: int) -> None:
        """Measure every problem that is not in the file yet; each batch is kept as it ends."""
        keys = [problem.key for problem in self.pool.problems]
        known = self.measured.rows
        missing = [problem for problem in self.pool.problems if problem.key not in known]
        missing = self.ranks.from_main(missing)
        num_done = len(keys) - len(missing)
        self._say(
            f"{self.pool.where}: {len(keys):,} problems, {self.samples} completions of each"
            + (f"; {num_done:,} problems are measured already" if num_done else "")
        )
        with _progress(self.console, total=len(keys), done=num_done) as advance:
            for start in range(0, len(missing), batch_problems):
                started = time.perf_counter()
                rows = self._batch(missing[start : start + batch_problems])
                for message in self.generation.take_messages():
                    self._say(message)
                if self.ranks.is_main:
                    self.measured.append(rows)
                num_done += len(rows)
                advance(len(rows))
                if not self.console.is_terminal:
                    elapsed_s = time.perf_counter() - started
                    self._say(f"measured {num_done:,}/{len(keys):,} problems  {elapsed_s:.1f} s")
        if self.ranks.is_main:
            self.measured.finish(keys)

    def say_what_is_kept(self) -> None:
        """Say what an interruption leaves."""
        num_kept = sum(p.key in self.measured.rows for p in self.pool.problems)
        self._say(
            f"{num_kept:,} of {len(self.pool.problems):,} problems are measured and kept; run the "
            "same command again to go on"
        )

    def _batch(self, problems: Sequence[Problem]) -> list[Row]:
        sampling = sampling_of(self.recipe)
        seed = self.recipe.run.seed
        requests = [
            Request(
                problem=problem,
                num_completions=self.samples,
                sampling=sampling,
                stream_key=derive_seed(seed, "measure", problem.key),
            )
            for problem in problems
        ]
        return [_row(group) for group in self.generation(requests)]

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def expected_mixed_share(
    num_correct: ArrayLike, num_counted: ArrayLike, *, group_size: int
) -> NDArray[np.float64]:
    """Return the probability that `group_size` of a problem's counted completions, drawn without
    replacement, are neither all correct nor all wrong: the unbiased estimate of the same for new
    ones.

    Where fewer were counted, all of them are taken, which is less than what a whole group gives.
    """
    correct_N, counted_N = np.asarray(num_correct, np.float64), np.asarray(num_counted, np.float64)
    all_correct_N, all_wrong_N = np.ones((2, *correct_N.shape))
    for j in range(group_size):
        left_N = counted_N - j
        taken_N, left_N = left_N > 0, np.maximum(left_N, 1.0)
        all_correct_N *= np.where(taken_N, np.maximum(correct_N - j, 0.0) / left_N, 1.0)
        all_wrong_N *= np.where(taken_N, np.maximum(counted_N - correct_N - j, 0.0) / left_N, 1.0)
    mixed: NDArray[np.float64] = np.where(counted_N > 0, 1.0 - all_correct_N - all_wrong_N, 0.0)
    return mixed


def _engine(
    recipe: Recipe, model: Model, ranks: Ranks, *, adapter: Path | None, out: Path
) -> RolloutEngine:
    """Build the engine with the adapter; what it leaves in a folder stands beside the result."""
    engine = build_engine(recipe, model, ranks, folder=RunFolder(out.parent))
    with ExitStack() as undo:
        undo.callback(engine.close)
        if adapter is not None:
            engine.load_weights(adapter, version=0)
        undo.pop_all()
    return engine


def _identity(recipe: Recipe, model: Model, *, samples: int, adapter: Path | None) -> Row:
    """Return all that a pass rate depends on, but for the problem."""
    return {
        "model": fingerprint(model.base),
        "adapter": None if adapter is None else _adapter_hash(adapter),
        "model.chat_template": recipe.model.chat_template,
        "samples": samples,
        "rollout.temperature": recipe.rollout.temperature,
        "rollout.max_new_tokens": recipe.rollout.max_new_tokens,
        "rewards": [reward.model_dump(mode="json") for reward in recipe.rewards],
        "run.seed": recipe.run.seed,
    }


def _adapter_hash(adapter: Path) -> str:
    """Return 16 hex digits over an adapter's files; raises `InputError` where they are missing or
    damaged."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise InputError(
                f"--adapter {adapter}: there is no {name}; name the folder of a PEFT adapter, such "
                "as runs/NAME/adapter"
            )
    base_of(adapter)
    for name in (CONFIG, WEIGHTS):
        digest.update((adapter / name).read_bytes())
    return digest.hexdigest()[:16]


def _row(scored: ScoredGroup) -> Row:
    counted = counted_scores(scored)
    num_correct = sum(score.correct for score in counted)
    problem = scored.group.problem
    return {
        "key": problem.key,
        "source": problem.source,
        "level": str(problem.level),
        "num_correct": num_correct,
        "num_counted": len(counted),
        "pass_rate": num_correct / len(counted) if counted else None,
        "mean_tokens": float(np.mean([len(c.token_ids) for c in scored.group.completions])),
    }


@contextmanager
def _progress(console: Console, *, total: int, done: int) -> Iterator[Any]:
    """Show a bar in a terminal; what is yielded moves it on."""
    bar = Progress(
        TextColumn("measured"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total, completed=done)
    with bar:
        yield lambda count: bar.advance(task, count)


def _show(console: Console, pool: Pool, rows: Sequence[Row], *, group_size: int) -> None:
    """Print pass rates and the share of groups that would teach, by source and level."""
    counted_N = np.array([row["num_counted"] for row in rows])
    correct_N = np.array([row["num_correct"] for row in rows])
    mixed_N = expected_mixed_share(correct_N, counted_N, group_size=group_size)
    table = Table(title=f"pass rates of {pool.where}")
    for heading in ("source", "level", "problems", "pass rate", f"mixed groups of {group_size}"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    names = [(problem.source, problem.level) for problem in pool.problems]
    for source, level in pool.counts:
        where_N = np.array([name == (source, level) for name in names])
        cells = _cells(correct_N[where_N], counted_N[where_N], mixed_N[where_N])
        table.add_row(*map(escape, (source, str(level))), *cells)
    table.add_section()
    table.add_row("all", "", *_cells(correct_N, counted_N, mixed_N))
    console.print(table)
    for note in _notes(counted_N, group_size=group_size):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _cells(
    correct_N: NDArray[np.int64], counted_N: NDArray[np.int64], mixed_N: NDArray[np.float64]
) -> tuple[str, str, str]:
    known_N = counted_N > 0
    rates = correct_N[known_N] / counted_N[known_N]
    rate = f"{rates.mean():.3f}" if rates.size else "-"
    mixed = f"{mixed_N[known_N].mean():.3f}" if rates.size else "-"
    return str(len(counted_N)), rate, mixed


def _notes(counted_N: NDArray[np.int64], *, group_size: int) -> Iterator[str]:
    if num_unknown := int(np.count_nonzero(counted_N == 0)):
        who = f"{num_unknown} problems have" if num_unknown > 1 else "1 problem has"
        yield f"{who} no pass rate: every reward failed"
    known_N = counted_N[counted_N > 0]
    if known_N.size and (least := int(known_N.min())) < group_size:
        way_out = f"--samples {group_size} or more estimates it for rollout.group_size"
        if int(known_N.max()) >= group_size:
            way_out = "rewards of the other completions failed"
        size = f"{least}" if least == known_N.max() else f"{least} and more"
        yield f"mixed groups: a lower bound, from groups of {size}; {way_out}"
