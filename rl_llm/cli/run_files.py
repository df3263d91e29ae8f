"""A run's folder around the loop: its lock, the recipe as run, the results of a finished run."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from rl_llm import __version__
from rl_llm.cli.failure import EXIT_RUN_FAILED, failure_of
from rl_llm.cli.inputs import Model
from rl_llm.config import Recipe, dump_yaml, load_recipe
from rl_llm.errors import CheckpointError, ConfigError, InputError, StorageError
from rl_llm.hub import Place, write_card
from rl_llm.hub.base_place import pin_base
from rl_llm.hub.source import command_line, read_command
from rl_llm.policy import Ranks
from rl_llm.report import write_report
from rl_llm.run_lock import hold
from rl_llm.trainer import AGAIN, Parts, RunFolder, checkpoint, read_rows
from rl_llm.trainer.identity import Identity, check_identity
from rl_llm.trainer.storage import discard, flush, flush_tree, write_text, writing

_MAY_ONLY_BE_READ = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def locked(folder: RunFolder, recipe: Recipe, ranks: Ranks) -> Iterator[str | None]:
    """Make the run's folder and hold its lock, in the name of rank 0; yield what is to be said of
    one that was left behind.

    Raises `InputError` on every rank where another run holds it, or nothing can be written to.
    """
    with ExitStack() as held:
        yield ranks.on_main(lambda: _hold(held, folder, recipe))


def check_place(folder: RunFolder, recipe: Recipe) -> None:
    """Refuse what `locked` would: a folder that cannot be made, or written to. None is made."""
    place = next(each for each in (folder.path, *folder.path.absolute().parents) if each.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        _refuse_place(error, folder, recipe)


def why_refused(folder: RunFolder, identity: Identity) -> str:
    """Return why `train` would not go on in this folder, empty where it would; nothing is
    changed."""
    try:
        newest, damaged = checkpoint.newest_whole(folder.checkpoints)
        if newest is not None:
            check_identity(newest, checkpoint.read_state(newest), identity)
        elif damaged:
            return f"no checkpoint in {folder.checkpoints} is whole"
        elif folder.metrics.is_file() and read_rows(folder.metrics):
            refuse_another_recipe(folder, identity)
    except CheckpointError as error:
        return str(error)
    return ""


def refuse_another_recipe(folder: RunFolder, identity: Identity) -> None:
    """Refuse to start over in the folder of a run of another recipe."""
    if folder.resolved.is_file():
        there = load_recipe(folder.resolved).model_dump()
        state = {"recipe": there, "model_fingerprint": identity.model_fingerprint}
        check_identity(folder.path, state, identity)


def _hold(held: ExitStack, folder: RunFolder, recipe: Recipe) -> str | None:
    try:
        return held.enter_context(hold(folder.path, on_loss=_end_at_once))
    except OSError as error:
        _refuse_place(error, folder, recipe)
        return None


def _refuse_place(error: OSError, folder: RunFolder, recipe: Recipe) -> None:
    """Say what forbids to write, unless the run is complete, so that nothing is going to be."""
    if folder.adapter.is_dir() and error.errno in _MAY_ONLY_BE_READ:
        return
    fault = "written to" if folder.path.is_dir() else "made"
    raise ConfigError(
        f"run.output_dir={recipe.run.output_dir!r}: the folder {str(folder.path)!r} cannot be "
        f"{fault}: {error.strerror}; name a folder that can be written to"
    ) from None


def _end_at_once(why: str) -> None:
    """End this process from any thread, without another word to the run's folder."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(EXIT_RUN_FAILED)


def how_to_go_on(resume: str) -> str:
    """Return which command goes on from the newest checkpoint, after one with this `--resume`: a
    checkpoint that it names would be gone back to again."""
    return AGAIN if resume == "auto" else f"{AGAIN} (without --resume)"


def where_it_goes_on(folder: RunFolder, again: str) -> str:
    """Say what is left of a run that ended before its time, and what `again` leads to."""
    last, _ = checkpoint.newest_whole(folder.checkpoints)
    if last is None:
        return f"{again}: it starts over, for there is no checkpoint yet"
    return f"{again}: it goes on from {last}, the last good checkpoint"


@contextmanager
def failure_kept(parts: Parts) -> Iterator[None]:
    """Keep what is said of an error in the run's folder, where rank 0 meets one; a signal is
    none, nor is output that nobody reads."""
    try:
        yield
    except Exception as error:
        if parts.ranks.is_main and not isinstance(error, BrokenPipeError):
            with suppress(StorageError):  # Such as the full disk that is the error.
                write_text(parts.folder.failure, f"{failure_of(error).text}\n")
        raise


def prepare(parts: Parts, source: Path, *, command: str) -> None:
    """Keep the recipe as written and as run, and the command, in the run's folder.

    What an earlier part of the run left past the first step is dropped: it belongs to another
    branch.
    """
    folder, recipe, ranks = parts.folder, parts.recipe, parts.ranks
    written = folder.path / "recipe.yaml"
    with writing(folder.path):
        # The final adapter of an earlier, shorter run is final no longer; its checkpoint has it.
        discard(folder.adapter)
        folder.failure.unlink(missing_ok=True)
        for later in folder.past(parts.counters.step):
            discard(later) if later.is_dir() else later.unlink()
    if source.resolve() not in (written.resolve(), folder.resolved.resolve()):
        write_text(written, source.read_text(encoding="utf-8"))
    header = (
        f"# As run by rl-llm {__version__}, with every default but those of {{name: X}} and "
        "{use: X}.\n"
        f"# engine: {recipe.rollout.engine}, processes: {ranks.num_ranks}, "
        f"ZeRO stage: {'none' if ranks.zero is None else ranks.zero.stage}\n"
        f"{command_line(command)}"
    )
    write_text(folder.resolved, header + dump_yaml(recipe))


def write_results(parts: Parts, model: Model) -> None:
    """Write the report, then the final adapter: aside and renamed, for it says that all is done."""
    folder, hub = parts.folder, parts.recipe.hub
    try:
        write_report(folder.path, problems=parts.scheduler.problems)
    except InputError as error:  # To `rl-llm report` the folder is input; here it is the run's own.
        raise StorageError(str(error)) from error
    aside = folder.path / ".adapter.partial"
    try:
        with writing(folder.adapter):
            shutil.rmtree(aside, ignore_errors=True)
            parts.policy.save_adapter(aside)
            pin_base(aside, parts.recipe.model.path)
            model.tokenizer.save_pretrained(str(aside))
            write_card(
                aside,
                parts.recipe,
                read_rows(folder.metrics),
                command=read_command(folder),
                place=Place(repo_id=hub.repo_id if "end" in hub.push else None),
            )
            flush_tree(aside)
            aside.rename(folder.adapter)
            flush(folder.path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
