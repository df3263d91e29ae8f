"""A training session: from a checked recipe to an adapter, a report and a table."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm import __version__
from rl_llm.cli.engines import settle_engine
from rl_llm.cli.interrupt import Interrupt
from rl_llm.cli.main import EXIT_INPUT_WRONG, EXIT_RUN_FAILED
from rl_llm.cli.parts import (
    Model,
    algorithm_notes,
    build_parts,
    check_warmup,
    load_data,
    load_model,
)
from rl_llm.cli.progress import ConsoleWatcher, SilentWatcher, pass_rate_table
from rl_llm.config import Recipe, dump_yaml, load_recipe
from rl_llm.errors import ConfigError, InputError
from rl_llm.hub import write_card
from rl_llm.policy import Ranks
from rl_llm.problems import summary_lines
from rl_llm.report import REPORT_FILE, write_report
from rl_llm.trainer import (
    JsonlSink,
    Parts,
    RunFolder,
    Sink,
    TensorBoardSink,
    Trainer,
    checkpoint,
    read_rows,
)
from rl_llm.trainer.run_lock import hold


def train(
    recipe: Recipe, *, source: Path, is_overridden: bool, resume: str, interrupt: Interrupt
) -> int:
    """Run a recipe read from `source`, show it, and return the exit code.

    Where `a.b=c` overrides changed it, the next commands name the recipe as run.
    """
    folder = RunFolder(Path(recipe.run.output_dir) / recipe.run.name)
    transformers_logging.disable_progress_bar()
    ranks = Ranks()
    console = Console(quiet=not ranks.is_main)
    try:
        with _locked(folder, recipe, ranks, console):
            resume_from = folder.find_checkpoint(resume)
            if resume_from is not None:
                interrupt.stop_at_once(f"{resume_from} stays the newest checkpoint")
            recipe, choice = settle_engine(recipe, device=ranks.device)
            _print_lines(console, [choice.line])
            model = load_model(recipe, ranks)
            data = load_data(recipe, model.encoder)
            _print_lines(console, [*summary_lines(data.train), *summary_lines(data.held_out)])
            parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
            with closing(parts.engine):
                code = _go_on(parts, model, console, resume_from, source, interrupt)
            if ranks.is_main and code == 0:
                _show_outcome(parts, console, source=folder.resolved if is_overridden else source)
            return code
    finally:
        ranks.close()


@contextmanager
def _locked(folder: RunFolder, recipe: Recipe, ranks: Ranks, console: Console) -> Iterator[None]:
    """Hold the lock of the run's folder. Where it cannot be had, rank 0 raises why, and the others
    leave with the same exit code, in silence."""
    with ExitStack() as held:
        why_not: InputError | None = None
        if ranks.is_main:
            try:
                note = held.enter_context(hold(folder.path, on_loss=_end_at_once))
                _print_lines(console, [] if note is None else [note])
            except OSError as error:
                why_not = _cannot_be_written(folder, recipe, error)
            except InputError as error:
                why_not = error
        if ranks.from_main(why_not is not None):
            raise SystemExit(EXIT_INPUT_WRONG) if why_not is None else why_not
        yield


def _cannot_be_written(folder: RunFolder, recipe: Recipe, error: OSError) -> ConfigError | None:
    """Return the error of a folder that nothing can be written to; None where nothing is going to
    be written, as the run there is complete."""
    if folder.adapter.is_dir():
        return None
    fault = "written to" if folder.path.is_dir() else "made"
    return ConfigError(
        f"run.output_dir={recipe.run.output_dir!r}: the folder {str(folder.path)!r} cannot be "
        f"{fault}: {error.strerror}; name a folder that can be written to"
    )


def _end_at_once(why: str) -> None:
    """End this process from any thread, without another word to the run's folder."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(EXIT_RUN_FAILED)


def _go_on(
    parts: Parts,
    model: Model,
    console: Console,
    resume_from: Path | None,
    source: Path,
    interrupt: Interrupt,
) -> int:
    """Run from the checkpoint, if there is one, to the end, and return the exit code."""
    check_warmup(parts.recipe, parts.algorithm)
    _print_lines(console, algorithm_notes(parts.recipe, parts.algorithm))
    _resume(parts, resume_from, console)
    if _is_done(parts):
        console.print("nothing is left to do: this is what the run came to", highlight=False)
        return 0
    return _run(parts, model, console, interrupt, source=source)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _resume(parts: Parts, resume_from: Path | None, console: Console) -> None:
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
    state = checkpoint.read_state(resume_from)
    checkpoint.check_identity(resume_from, state, parts.identity)
    checkpoint.load(resume_from, state, parts.stateful)
    done, asked = parts.counters.step, parts.recipe.run.steps
    if done > asked:
        raise ConfigError(
            f"run.steps={asked} is less than the {done} steps that {resume_from} has behind it; "
            f"use {done} or more, or give the shorter run another run.name"
        )
    console.print(
        f"resuming {resume_from}, after step {parts.counters.step} of {parts.recipe.run.steps}",
        highlight=False,
        soft_wrap=True,
    )


def _refuse_another_recipe(parts: Parts) -> None:
    """Refuse to start over in the folder of a run of another recipe."""
    if parts.folder.resolved.is_file():
        there = load_recipe(parts.folder.resolved).model_dump()
        fingerprint = parts.identity.model_fingerprint
        state = {"recipe": there, "model_fingerprint": fingerprint}
        checkpoint.check_identity(parts.folder.path, state, parts.identity)


def _is_done(parts: Parts) -> bool:
    """Say whether the run ended before and its results are written; then nothing is touched."""
    return parts.ranks.from_main(Trainer(parts).is_finished and parts.folder.adapter.is_dir())


def _run(
    parts: Parts, model: Model, console: Console, interrupt: Interrupt, *, source: Path
) -> int:
    """Train to the end or to a signal, write what a finished run leaves, and return the exit
    code."""
    is_main, first_step = parts.ranks.is_main, parts.counters.step
    if is_main:
        _prepare(parts.folder, parts.recipe, source, ranks=parts.ranks, first_step=first_step)
    interrupt.finish_first(
        "finishing this step and writing a checkpoint", at_once="the step is lost"
    )
    finished = _train(parts, console, interrupt)
    if finished:
        interrupt.finish_first("writing the results", at_once="the same command writes the results")
        with parts.policy.gathered():
            if is_main:
                _write_results(parts, model)
    interrupt.stop_at_once("everything is written")
    signal_number = max(parts.ranks.gather([interrupt.received]))
    if signal_number == 0:
        return 0
    _print_lines(console, [_stopped_line(parts, finished=finished)])
    return 128 + signal_number


def _stopped_line(parts: Parts, *, finished: bool) -> str:
    """Return what a signal left behind."""
    step = parts.counters.step
    if finished:
        return f"stopped after step {step}, which was the last: the run is complete"
    newest = parts.folder.find_checkpoint("auto")
    return (
        f"stopped after step {step} of {parts.recipe.run.steps}; the checkpoint {newest} was "
        "written; run the same command again to go on"
    )


def _prepare(
    folder: RunFolder, recipe: Recipe, source: Path, *, ranks: Ranks, first_step: int
) -> None:
    """Keep the recipe as written and as run in the run's folder.

    What an earlier part of the run left past `first_step` is dropped: it belongs to another branch.
    """
    # The final adapter of an earlier, shorter run is final no longer; its checkpoint has it too.
    shutil.rmtree(folder.adapter, ignore_errors=True)
    for later in folder.past(first_step):
        shutil.rmtree(later) if later.is_dir() else later.unlink()
    written = folder.path / "recipe.yaml"
    if source.resolve() not in (written.resolve(), folder.resolved.resolve()):
        shutil.copyfile(source, written)
    header = (
        f"# As run by rl-llm {__version__}, with every default.\n"
        f"# engine: {recipe.rollout.engine}, processes: {ranks.num_ranks}, "
        f"ZeRO stage: {'none' if ranks.zero is None else ranks.zero.stage}\n"
    )
    folder.resolved.write_text(header + dump_yaml(recipe), encoding="utf-8")


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
    write_report(folder.path)
    aside = folder.path / ".adapter.partial"
    shutil.rmtree(aside, ignore_errors=True)
    parts.policy.save_adapter(aside)
    model.tokenizer.save_pretrained(str(aside))
    write_card(aside, parts.recipe, read_rows(folder.metrics))
    aside.rename(folder.adapter)


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
