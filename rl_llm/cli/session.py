"""A training session: from a checked recipe to an adapter, a report and a table."""

import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm.cli.engines import settle_engine_together
from rl_llm.cli.failure import EndingTogether
from rl_llm.cli.inputs import Model, load_data, load_model
from rl_llm.cli.interrupt import Interrupt
from rl_llm.cli.named import check_named
from rl_llm.cli.outcome import show_outcome
from rl_llm.cli.parts import algorithm_notes, build_parts, check_warmup
from rl_llm.cli.progress import PatientConsole, SilentWatcher, print_lines
from rl_llm.cli.pushing import Pushing, PushingWatcher, check_hub, hub_lines
from rl_llm.cli.run_files import (
    failure_kept,
    how_to_go_on,
    locked,
    prepare,
    refuse_another_recipe,
    where_it_goes_on,
    write_results,
)
from rl_llm.cli.runtime import tag_warnings, warnings_heard
from rl_llm.cli.tracking import Tracking, check_tracking
from rl_llm.config import Recipe
from rl_llm.errors import ConfigError, StorageError
from rl_llm.policy import Ranks
from rl_llm.problems import summary_lines
from rl_llm.trainer import (
    JsonlSink,
    Parts,
    ResumePoint,
    RunFolder,
    Trainer,
    check_identity,
    checkpoint,
    read_rows,
)
from rl_llm.trainer.shelf import adopt

# A launcher sends SIGTERM to the others when one process is gone: they hear of it this soon.
_HEAR_OF_A_DEATH_S = 1.0


def train(
    recipe: Recipe, *, source: Path, overrides: Sequence[str], resume: str, interrupt: Interrupt
) -> int:
    """Run a recipe read from `source`, show it, and return the exit code.

    Where `a.b=c` overrides changed it, the next commands name the recipe as run.
    """
    check_hub(recipe)
    check_tracking(recipe)
    folder = RunFolder(Path(recipe.run.output_dir) / recipe.run.name)
    transformers_logging.disable_progress_bar()
    ranks = Ranks(timeout_s=recipe.run.timeout_s)
    interrupt.end_with_others(partial(ranks.is_ending, wait_s=_HEAR_OF_A_DEATH_S))
    console = PatientConsole(quiet=not ranks.is_main)
    pushing = Pushing(recipe, folder, console, is_main=ranks.is_main)
    tracking = Tracking(recipe, folder, console)
    with (
        closing(ranks),
        EndingTogether(ranks, last_words=partial(where_it_goes_on, folder, how_to_go_on(resume))),
        locked(folder, recipe, ranks) as note,
        pushing,
        tracking,
    ):
        print_lines(console, [*([note] if note else []), *hub_lines(recipe)])
        resume_from = ranks.on_main(lambda: folder.find_checkpoint(resume))
        if resume_from is not None:
            interrupt.stop_at_once("the checkpoints stay as they are")
        check_named(recipe)
        recipe, choice = settle_engine_together(recipe, ranks)
        print_lines(console, [choice.line, ranks.line])
        model = load_model(recipe, ranks)
        with warnings_heard(ranks.speaks):
            data = load_data(recipe, model.encoder)
        if ranks.num_ranks > 1:
            tag_warnings(f"rank {ranks.rank}: ")
        print_lines(console, [*summary_lines(data.train), *summary_lines(data.held_out)])
        print_lines(console, data.unread.lines(recipe.model.path), style="yellow")
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
        with closing(parts.engine), closing(data.rubric):
            started = _Started(
                source=source,
                command=shlex.join(["rl-llm", "train", str(source), *overrides]),
                again=how_to_go_on(resume),
                resume_from=resume_from,
                pushing=pushing,
                tracking=tracking,
            )
            code = _go_on(parts, model, console, interrupt, started)
        if ranks.is_main and code == 0:
            show_outcome(parts, console, source=folder.resolved if overrides else source)
            pushing.finish()
        tracking.finish(code)
        return code


@dataclass(frozen=True, kw_only=True)
class _Started:
    """What a session starts from, and what goes on beside it."""

    source: Path
    command: str
    again: str
    resume_from: ResumePoint | None
    pushing: Pushing
    tracking: Tracking


def _go_on(
    parts: Parts,
    model: Model,
    console: Console,
    interrupt: Interrupt,
    started: _Started,
) -> int:
    """Run from the checkpoint, if there is one, to the end, and return the exit code."""
    check_warmup(parts.recipe, parts.algorithm)
    print_lines(console, algorithm_notes(parts.recipe, parts.algorithm))
    _resume(parts, started.resume_from, console)
    started.pushing.begin(model.tokenizer, step=parts.counters.step)
    if _is_done(parts):
        console.print("nothing is left to do: this is what the run came to", highlight=False)
        if parts.ranks.is_main:
            started.tracking.catch_up()
        return 0
    with failure_kept(parts):
        return _run(parts, model, console, interrupt, started)


def _resume(parts: Parts, resume_from: ResumePoint | None, console: Console) -> None:
    """Put the parts into a checkpoint's state, and say so; or say that a run starts anew."""
    if resume_from is None:
        if parts.folder.metrics.is_file():
            if read_rows(parts.folder.metrics):
                refuse_another_recipe(parts.folder, parts.identity)
            line = f"{parts.folder.path} holds a run without a checkpoint; it starts over"
            print_lines(console, [line])
        return
    found = resume_from.checkpoint
    print_lines(console, [resume_from.warning] if resume_from.warning else [])
    state = checkpoint.read_state(found)
    check_identity(found, state, parts.identity)
    checkpoint.load(found, state, parts.stateful)
    done, asked = parts.counters.step, parts.recipe.run.steps
    if done > asked:
        raise ConfigError(
            f"run.steps={asked} is less than the {done} steps that {found} has behind it; "
            f"use {done} or more, or give the shorter run another run.name"
        )
    _refuse_what_is_over(found, parts)
    parts.ranks.on_main(lambda: adopt(found, parts.folder.checkpoints))
    dropped = [resume_from.dropped] if resume_from.dropped else []
    print_lines(
        console,
        [*dropped, f"resuming {found}, after step {done} of {asked}"],
    )


def _refuse_what_is_over(found: Path, parts: Parts) -> None:
    """Refuse another run's checkpoint behind which there is nothing to train: no step would fill
    this run's folder."""
    is_own = found.parent.resolve() == parts.folder.checkpoints.resolve()
    if is_own or not Trainer(parts).is_finished:
        return
    done = parts.counters.step
    way_out = f"raise run.steps above {done}, or use that run's adapter"
    if parts.counters.finished:
        way_out = "go on from an earlier checkpoint, or use that run's adapter"
    raise ConfigError(
        f"{found} is the end of another run, after step {done}: nothing is left to train under "
        f"run.name={parts.recipe.run.name}; {way_out}"
    )


def _is_done(parts: Parts) -> bool:
    """Say whether the run ended before and its results are written; then nothing is touched."""
    return parts.ranks.from_main(Trainer(parts).is_finished and parts.folder.adapter.is_dir())


def _run(
    parts: Parts, model: Model, console: Console, interrupt: Interrupt, started: _Started
) -> int:
    """Train to the end or to a signal, write what a finished run leaves, and return the exit
    code."""
    try:
        parts.ranks.on_main(lambda: prepare(parts, started.source, command=started.command))
        interrupt.finish_first(
            "finishing this step and writing a checkpoint", at_once="the step is lost"
        )
        finished = _train(parts, console, interrupt, started)
        if finished:
            interrupt.finish_first(
                "writing the results", at_once=f"{started.again} to write the results"
            )
            with parts.policy.gathered():
                parts.ranks.on_main(lambda: write_results(parts, model))
    except StorageError as error:
        where = where_it_goes_on(parts.folder, started.again)
        raise StorageError(f"{error}, and {where}") from error
    interrupt.stop_at_once("everything is written")
    signal_number = max(parts.ranks.gather([interrupt.received]))
    if signal_number == 0:
        return 0
    if parts.ranks.num_ranks > 1:
        interrupt.ignore_more()
    if parts.ranks.is_main:
        print_lines(console, [_stopped_line(parts, again=started.again, finished=finished)])
    return 128 + signal_number


def _stopped_line(parts: Parts, *, again: str, finished: bool) -> str:
    """Return what a signal left behind."""
    step = parts.counters.step
    if finished:
        return f"stopped after step {step}, which was the last: the run is complete"
    where = where_it_goes_on(parts.folder, again)
    return f"stopped after step {step} of {parts.recipe.run.steps}; {where}"


def _train(parts: Parts, console: Console, interrupt: Interrupt, started: _Started) -> bool:
    """Run the loop with its sinks open and its progress shown."""
    if not parts.ranks.is_main:
        return _trainer(parts, interrupt, started).run()
    first_step, last_row = parts.counters.step, parts.last_row
    folder, tracking = parts.folder, started.tracking
    metrics = JsonlSink(folder.metrics, last_step=last_row)
    evaluations = JsonlSink(folder.evaluations, last_step=last_row)
    draws = JsonlSink(folder.draws, last_step=first_step)
    tracking.begin(last_step=last_row)
    watcher = PushingWatcher(
        console,
        started.pushing,
        total_steps=parts.recipe.run.steps,
        first_step=first_step,
        messages=tracking.take_messages,
    )
    with closing(metrics), closing(draws), closing(evaluations), watcher:
        shown = replace(
            parts,
            sinks=[metrics, *tracking.trackers],
            draw_log=draws,
            evaluation_log=evaluations,
            watcher=watcher,
        )
        return _trainer(shown, interrupt, started).run()


def _trainer(parts: Parts, interrupt: Interrupt, started: _Started) -> Trainer:
    return Trainer(parts, stop_requested=interrupt.is_requested, again=started.again)
