"""Where the metrics of a run go beside metrics.jsonl."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from threading import Timer
from types import TracebackType
from typing import Any

from rich.console import Console

from rl_llm.cli.failure import failure_of
from rl_llm.cli.progress import Row, print_lines
from rl_llm.config import Recipe
from rl_llm.errors import ConfigError
from rl_llm.hub.access import redact
from rl_llm.tracking import TensorBoard, Tracker, Wandb
from rl_llm.trainer import RunFolder, read_rows

_EXTRAS = ("wandb",)
_SILENT_S = 2.0


def check_tracking(recipe: Recipe) -> None:
    """Refuse a tracker whose library is not installed."""
    for name in _EXTRAS:
        # A folder of that name, such as wandb leaves behind, is no library.
        found = find_spec(name) if name in recipe.trackers else None
        if name in recipe.trackers and (found is None or found.origin is None):
            raise ConfigError(
                f"tracking={name}: the library {name} is not installed; run "
                f"pip install 'rl-llm[{name}]', or take {name} out of tracking"
            )


class Tracking:
    """The trackers of one run, none before `begin`; what goes wrong with one is said, and no error.

    Use it as a context manager: an error on the way out marks the run as failed there.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, console: Console) -> None:
        """Nothing is opened yet."""
        self._recipe = recipe
        self._folder = folder
        self._console = console
        self.trackers: list[Tracker] = []

    def __enter__(self) -> "Tracking":
        """Let go of the trackers, however the run ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say that the run failed, where it did."""
        if error is not None:
            self.finish(failure_of(error).code)

    def begin(self, *, last_step: int) -> None:
        """Open what the recipe names; rows up to `last_step` stay of an earlier part of the run."""
        uses = self._recipe.trackers
        if "tensorboard" in uses:
            events = self._folder.path / "tensorboard"
            self.trackers.append(TensorBoard(events, last_step=last_step))
        if "wandb" in uses:
            self._log_to_wandb(read_rows(self._folder.metrics))

    def catch_up(self) -> None:
        """Log the rows of a run that is done where they never were."""
        rows = read_rows(self._folder.metrics)
        if "wandb" in self._recipe.trackers and Wandb.lacks(self._folder.path, rows):
            self._log_to_wandb(rows)

    def _log_to_wandb(self, rows: Sequence[Row]) -> None:
        use = self._recipe.trackers["wandb"]
        wandb = Wandb(
            self._folder.path,
            name=self._recipe.run.name,
            config=_shown(self._recipe),
            project=use.project,
            entity=use.entity,
            rows=rows,
        )
        self.trackers.append(wandb)

    def take_messages(self) -> list[str]:
        """Return what is to be said by now."""
        return [message for tracker in self.trackers for message in tracker.take_messages()]

    def finish(self, exit_code: int) -> None:
        """Say how the run ended, and let go of all trackers within a bounded time."""
        patience = "waiting for wandb to send what is left; Ctrl-C ends that"
        told = Timer(_SILENT_S, print_lines, (self._console, [patience]))
        told.start()
        try:
            for tracker in self.trackers:
                tracker.finish(exit_code)
        finally:
            told.cancel()
        print_lines(self._console, self.take_messages())
        self.trackers = []


def _shown(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe with every default, without any token that is known here."""
    shown: dict[str, Any] = json.loads(redact(json.dumps(recipe.model_dump(mode="json"))))
    return shown
