"""A training session: from a checked recipe to an adapter, a report and a table."""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm import __version__
from rl_llm.cli.engines import settle_engine
from rl_llm.cli.failure import EndingTogether
from rl_llm.cli.interrupt import Interrupt
from rl_llm.cli.parts import (
    Model,
    algorithm_notes,
    build_parts,
    check_warmup,
    load_data,
    load_model,
)
from rl_llm.cli.progress import ConsoleWatcher, SilentWatcher, pass_rate_table
from rl_llm.cli.runtime import tag_warnings, warnings_heard
from rl_llm.config import Recipe, dump_yaml, load_recipe
from rl_llm.errors import ConfigError, InputError, StorageError
from rl_llm.hub import write_card
from rl_llm.policy import Ranks
from rl_llm.problems import summary_lines
from rl_llm.report import REPORT_FILE, write_report
from rl_llm.trainer import (
    JsonlSink,
    Parts,
    ResumePoint,
    RunFolder,
    Sink,
    TensorBoardSink,
    Trainer,
    check_identity,
    checkpoint,
    read_rows,
)
from rl_llm.trainer.shelf import adopt
from rl_llm.trainer.storage import discard, flush, flush_tree, on_main, write_text, writing

# A launcher sends SIGTERM to the others when one process is gone: they hear of it this soon.
_HEAR_OF_A_DEATH_S = 1.0


def train(recipe: Recipe, *, source: Path, is_overridden: bool, resume: str) -> int:
    """Run a recipe read from `source`, show it, and return the exit code.

    Where `a.b=c` overrides changed it, the next commands name the recipe as run.
    """
    folder = RunFolder(Path(recipe.run.output_dir) / recipe.run.name)
    transformers_logging.disable_progress_bar()
    ranks = Ranks(timeout_s=recipe.run.timeout_s)
    console = Console(quiet=not ranks.is_main)
    with closing(ranks), EndingTogether(ranks, last_words=partial(_where_it_goes_on, folder)):
        resume_from = on_main(ranks, lambda: folder.find_checkpoint(resume))
        recipe, choice = settle_engine(recipe, device=ranks.device)
        _print_lines(console, [choice.line])
        model = load_model(recipe, ranks)
        with warnings_heard(ranks.speaks):
            data = load_data(recipe, model.encoder)
        if ranks.num_ranks > 1:
            tag_warnings(f"rank {ranks.rank}: ")
        _print_lines(console, [*summary_lines(data.train), *summary_lines(data.held_out)])
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
        with closing(parts.engine):
            return _go_on(parts, model, console, resume_from, source, is_overridden=is_overridden)


def _where_it_goes_on(folder: RunFolder) -> str:
    """Say what is left of a run that ended before its time."""
    last, _ = checkpoint.newest_whole(folder.checkpoints)
    if last is None:
        return "run the same command again: it starts over, for there is no checkpoint yet"
    return f"run the same command again: it goes on from {last}, the last good checkpoint"


def _go_on(
    parts: Parts,
    model: Model,
    console: Console,
    resume_from: ResumePoint | None,
    source: Path,
    *,
    is_overridden: bool,
) -> int:
    """Run from the checkpoint, if there is one, to the end, show it, and return the exit code."""
    check_warmup(parts.recipe, parts.algorithm)
    _print_lines(console, algorithm_notes(parts.recipe, parts.algorithm))
    _resume(parts, resume_from, console)
    is_done = _is_done(parts)
    if is_done:
        console.print("nothing is left to do: this is what the run came to", highlight=False)
    code = 0 if is_done else _run(parts, model, console, source=source)
    if parts.ranks.is_main and code == 0:
        _show_outcome(parts, console, source=parts.folder.resolved if is_overridden else source)
    return code


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _resume(parts: Parts, resume_from: ResumePoint | None, console: Console) -> None:
    """Put the parts into a checkpoint's state, and say so; or say that a run starts anew."""
    if resume_from is None:
        if parts.folder.metrics.is_file():
            if read_rows(parts.folder.metrics):
                _refuse_another_recipe(parts)
            console.print(
                f"{parts.folder.path} holds a run without a checkpoint; it starts over",
                highlight=False,
                soft_wrap=True,
            )
        return
    found = resume_from.checkpoint
    _print_lines(console, [resume_from.warning] if resume_from.warning else [])
    state = checkpoint.read_state(found)
    check_identity(found, state, parts.identity)
    checkpoint.load(found, state, parts.stateful)
    done, asked = parts.counters.step, parts.recipe.run.steps
    if done > asked:
        raise ConfigError(
            f"run.steps={asked} is less than the {done} steps that {found} has behind it; "
            f"use {done} or more, or give the shorter run another run.name"
        )
    on_main(parts.ranks, lambda: adopt(found, parts.folder.checkpoints))
    dropped = [resume_from.dropped] if resume_from.dropped else []
    _print_lines(
        console,
        [*dropped, f"resuming {found}, after step {done} of {asked}"],
    )


def _refuse_another_recipe(parts: Parts) -> None:
    """Refuse to start over in the folder of a run of another recipe."""
    if parts.folder.resolved.is_file():
        there = load_recipe(parts.folder.resolved).model_dump()
        fingerprint = parts.identity.model_fingerprint
        state = {"recipe": there, "model_fingerprint": fingerprint}
        check_identity(parts.folder.path, state, parts.identity)


def _is_done(parts: Parts) -> bool:
    """Say whether the run ended before and its results are written; then nothing is touched."""
    return parts.ranks.from_main(Trainer(parts).is_finished and parts.folder.adapter.is_dir())


def _run(parts: Parts, model: Model, console: Console, *, source: Path) -> int:
    """Train to the end or to a signal, write what a finished run leaves, and return the exit
    code."""
    try:
        on_main(parts.ranks, lambda: _prepare(parts, source))
        is_ending = partial(parts.ranks.is_ending, wait_s=_HEAR_OF_A_DEATH_S)
        with Interrupt(is_ending=is_ending, speaks=parts.ranks.speaks) as interrupt:
            finished = _train(parts, console, interrupt)
        if finished:
            with parts.policy.gathered():
                on_main(parts.ranks, lambda: _write_results(parts, model))
    except StorageError as error:
        raise StorageError(f"{error}, and {_where_it_goes_on(parts.folder)}") from error
    return 0 if finished else interrupt.exit_code


def _prepare(parts: Parts, source: Path) -> None:
    """Make the run's folder, and keep the recipe as written and as run.

    What an earlier part of the run left past the first step is dropped: it belongs to another
    branch.
    """
    folder, recipe, ranks = parts.folder, parts.recipe, parts.ranks
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"run.output_dir={recipe.run.output_dir!r}: the folder {str(folder.path)!r} cannot be "
            f"made: {error.strerror}; name a folder that can be written to"
        ) from None
    written = folder.path / "recipe.yaml"
    with writing(folder.path):
        # The final adapter of an earlier, shorter run is final no longer; its checkpoint has it.
        discard(folder.adapter)
        for later in folder.past(parts.counters.step):
            discard(later) if later.is_dir() else later.unlink()
        if source.resolve() not in (written.resolve(), folder.resolved.resolve()):
            shutil.copyfile(source, written)
    header = (
        f"# As run by rl-llm {__version__}, with every default.\n"
        f"# engine: {recipe.rollout.engine}, processes: {ranks.num_ranks}, "
        f"ZeRO stage: {'none' if ranks.zero is None else ranks.zero.stage}\n"
    )
    write_text(folder.resolved, header + dump_yaml(recipe))


def _train(parts: Parts, console: Console, interrupt: Interrupt) -> bool:
    """Run the loop with its sinks open and its progress shown."""
    if not parts.ranks.is_main:
        return Trainer(parts, stop_requested=interrupt.is_requested).run()
    sinks = _open_sinks(parts)
    draw_log = JsonlSink(parts.folder.draws, last_step=_last_step(parts))
    watcher = ConsoleWatcher(
        console, total_steps=parts.recipe.run.steps, first_step=parts.counters.step
    )
    try:
        with watcher:
            shown = replace(parts, sinks=sinks, draw_log=draw_log, watcher=watcher)
            return Trainer(shown, stop_requested=interrupt.is_requested).run()
    finally:
        for sink in (*sinks, draw_log):
            sink.close()


def _last_step(parts: Parts) -> int:
    """Return up to which step rows are kept; -1 for none."""
    return parts.counters.step if parts.counters.step > 0 else -1


def _open_sinks(parts: Parts) -> list[Sink]:
    """Open what `tracking` asks for; metrics.jsonl is always written."""
    last_step = _last_step(parts)
    sinks: list[Sink] = [JsonlSink(parts.folder.metrics, last_step=last_step)]
    if "tensorboard" in parts.recipe.tracking:
        sinks.append(TensorBoardSink(parts.folder.path / "tensorboard", last_step=last_step))
    return sinks


def _write_results(parts: Parts, model: Model) -> None:
    """Write the report, then the final adapter: aside and renamed, for it says that all is done."""
    folder = parts.folder
    try:
        write_report(folder.path)
    except InputError as error:  # To `rl-llm report` the folder is input; here it is the run's own.
        raise StorageError(str(error)) from error
    aside = folder.path / ".adapter.partial"
    try:
        with writing(folder.adapter):
            shutil.rmtree(aside, ignore_errors=True)
            parts.policy.save_adapter(aside)
            model.tokenizer.save_pretrained(str(aside))
            write_card(aside, parts.recipe, read_rows(folder.metrics))
            flush_tree(aside)
            aside.rename(folder.adapter)
            flush(folder.path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _show_outcome(parts: Parts, console: Console, *, source: Path) -> None:
    """Print pass rates before and after, where the results lie, and where to go next."""
    folder = parts.folder
    evaluated = [row for row in read_rows(folder.metrics) if "eval/pass_rate" in row]
    if evaluated:
        console.print(pass_rate_table(evaluated[0], evaluated[-1]))
    lines = [f"adapter  {folder.adapter}", f"report   {folder.path / REPORT_FILE}", "", "next:"]
    lines += [f"  {_program()} {shlex.join(words)}" for words in _next_commands(parts, source)]
    _print_lines(console, lines)


def _next_commands(parts: Parts, source: Path) -> Iterator[tuple[str, ...]]:
    run_dir = parts.folder.path
    if parts.evaluator.has_problems:
        yield "evaluate", str(run_dir)
    yield "data", "preview", str(source)
    is_uniform = parts.recipe.curriculum.sampler.name == "uniform"
    other = "posterior" if is_uniform else "uniform"
    name = f"run.name={run_dir.name}-{other}"
    yield "train", str(source), name, f"curriculum.sampler={{name: {other}}}"


def _program() -> Any:
    """Return how this program was called, for a person to call it again."""
    called = Path(sys.argv[0])
    if called.name != "rl-llm":
        return "rl-llm"
    found = shutil.which("rl-llm")
    if found and Path(found).resolve() == called.resolve():
        return "rl-llm"
    here = Path.cwd()
    return called.relative_to(here) if called.is_relative_to(here) else called
