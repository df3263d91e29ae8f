"""What a run pushes to the hub while it goes on and behind its end."""

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from rl_llm.cli.progress import ConsoleWatcher, Row, print_lines
from rl_llm.config import Recipe
from rl_llm.config.sections import HubSection
from rl_llm.hub import Job, Patience, Place, Pusher, check_repo_id, endpoint, token_source
from rl_llm.hub.access import LOG_IN, redact
from rl_llm.hub.pusher import Push
from rl_llm.hub.source import Source, find_source
from rl_llm.hub.staging import MOST_WAITING, folder_of, forget, forget_past, stage, waiting
from rl_llm.hub.tree import files_in
from rl_llm.trainer import RunFolder
from rl_llm.trainer.shelf import step_of

_FAULTS = (OSError, ValueError)  # Of the disk, or of a file of the run that somebody changed.


def check_hub(recipe: Recipe) -> None:
    """Refuse a repository's name that no hub takes; asks nobody."""
    if recipe.hub.repo_id is not None:
        check_repo_id(recipe.hub.repo_id, where="hub.repo_id")


def hub_lines(recipe: Recipe) -> Iterator[str]:
    """Yield what a run will push, and whether there is a token for it; asks nobody."""
    hub, source = recipe.hub, token_source()
    if hub.repo_id is None:
        if hub != HubSection():
            yield "hub: nothing is pushed, for hub.repo_id names no repository"
        return
    seen = "private" if hub.private else "public"
    found = f"token: {source}" if source else f"there is no token yet: {LOG_IN}"
    yield f"hub: {' and '.join(hub.push)} to {hub.repo_id} ({seen}) at {endpoint()}; {found}"


class Pushing:
    """The pushes of one run; without `hub.repo_id`, and on other ranks than 0, it does nothing.

    Use it as a context manager: on the way out it stops, and says what is not pushed and how to
    push it. None of this raises an error of the disk or the network.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        console: Console,
        *,
        is_main: bool,
        patience: Patience | None = None,
    ) -> None:
        """Nothing is asked of the hub before there is something to push."""
        self._hub = recipe.hub
        self._folder = folder
        self._console = console
        self._events = set(self._hub.push) if is_main and self._hub.repo_id else set()
        self._pusher = Pusher(limit_s=self._hub.max_wait_s, patience=patience)
        self._scratch: Path | None = None
        self._lost: list[str] = []
        self._owes_final = False

    def __enter__(self) -> "Pushing":
        """Say what is left, however the run ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and say what is left."""
        self._pusher.close()
        print_lines(self._console, self._pusher.take_messages())
        print_lines(self._console, self._left_lines())
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def begin(self, tokenizer: PreTrainedTokenizerBase, *, step: int) -> None:
        """Go on from a step: push what an earlier part of the run could not, drop what the run has
        left behind."""
        if not self._events:
            return
        self._owes_final = "end" in self._events
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="rl-llm-hub-"))
            tokenizer.save_pretrained(str(self._tokenizer))
        except OSError as error:
            self._events = set()
            self._lost.append(f"not pushed: there is no room for temporary files: {error}")
        if "checkpoint" in self._events:
            forget_past(self._folder.path, step)
            for staged in waiting(self._folder.path):
                self._add_staged(staged)

    def saved(self, checkpoint: Path) -> None:
        """Push the adapter of a checkpoint, if that is asked for."""
        if "checkpoint" not in self._events:
            return
        source = Source(run=self._folder, adapter=checkpoint / "adapter", step=step_of(checkpoint))
        try:
            staged = stage(
                checkpoint,
                self._folder.path,
                tokenizer=self._tokenizer,
                card=source.card(Place(repo_id=self._hub.repo_id, revision=checkpoint.name)),
                resolved=redact(self._folder.resolved.read_text(encoding="utf-8")),
            )
        except _FAULTS as error:
            place = folder_of(self._folder.path)
            self._lost.append(f"not pushed: {checkpoint.name}: {place} cannot be written: {error}")
            return
        self._add_staged(staged)
        if len(self._pusher.left()) > MOST_WAITING and (dropped := self._pusher.drop_oldest()):
            dropped.on_done()
            self._lost.append(
                f"not pushed, and no longer kept: {dropped.name}: {dropped.fault} (the newest "
                f"{MOST_WAITING} wait)"
            )

    def take_messages(self) -> list[str]:
        """Return what is to be said by now."""
        return self._pusher.take_messages()

    def finish(self) -> None:
        """Push the final adapter, if that is asked for, and whatever waits, for a bounded time."""
        self._owes_final = False
        if "end" in self._events:
            try:
                self._add_final()
            except _FAULTS as error:
                self._lost.append(f"not pushed: the final adapter: {error}")
        if self._pusher.left():
            what = f"pushing to {self._hub.repo_id}, for at most {self._hub.max_wait_s:g} s"
            print_lines(self._console, ["", what])
            self._pusher.finish()

    @property
    def _tokenizer(self) -> Path:
        assert self._scratch is not None
        return self._scratch / "tokenizer"

    def _add_final(self) -> None:
        assert self._scratch is not None
        source = find_source(self._folder.path)
        card = self._scratch / "README.md"
        card.write_text(source.card(Place(repo_id=self._hub.repo_id)), encoding="utf-8")
        recipe = source.write_recipe(self._scratch)
        files = {**source.files(self._scratch), recipe.name: str(recipe), card.name: str(card)}
        self._pusher.add(
            Push(
                name="the final adapter",
                job=self._job(files, message="Add the final adapter", revision="main"),
                command=self._command(self._folder.path),
            )
        )

    def _add_staged(self, staged: Path) -> None:
        files = {name: str(file) for name, file in files_in(staged).items()}
        message = f"Add the adapter after step {step_of(staged)}"
        self._pusher.add(
            Push(
                name=staged.name,
                job=self._job(files, message=message, revision=staged.name),
                command=self._command(staged, "--revision", staged.name),
                on_done=partial(forget, staged),
            )
        )

    def _job(self, files: dict[str, str], *, message: str, revision: str) -> Job:
        return Job(
            repo_id=str(self._hub.repo_id),
            files=files,
            message=f"{message} of {self._folder.path.name}",
            revision=revision,
            private=self._hub.private,
        )

    def _command(self, target: Path, *options: str) -> str:
        public = [] if self._hub.private else ["--public"]
        return shlex.join(
            ["rl-llm", "push", str(target), str(self._hub.repo_id), *options, *public]
        )

    def _left_lines(self) -> Iterator[str]:
        yield from self._lost
        if self._owes_final and (self._folder.adapter / "adapter_config.json").is_file():
            yield "not pushed: the final adapter: the run was stopped"
            yield f"  push it: {self._command(self._folder.path)}"
        for push in self._pusher.left():
            yield f"not pushed: {push.name}: {push.fault}"
            yield f"  push it: {push.command}"


class PushingWatcher(ConsoleWatcher):
    """Shows a run, has its checkpoints pushed, and says what comes of it, and what there is to say
    by `messages`."""

    def __init__(
        self,
        console: Console,
        pushing: Pushing,
        *,
        total_steps: int,
        first_step: int,
        messages: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`first_step` is where a resumed run starts."""
        super().__init__(console, total_steps=total_steps, first_step=first_step)
        self._pushing = pushing
        self._messages_beside = messages

    def stepped(self, row: Row) -> None:
        """Show the step, and what happened beside it meanwhile."""
        super().stepped(row)
        for message in (*self._pushing.take_messages(), *self._messages_beside()):
            self.said(message)

    def saved(self, checkpoint: Path) -> None:
        """Have it pushed."""
        self._pushing.saved(checkpoint)
