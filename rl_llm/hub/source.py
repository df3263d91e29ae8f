"""What of a run is pushed: its final adapter, or that of a checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_llm.config import Recipe, load_recipe
from rl_llm.errors import InputError
from rl_llm.hub.access import redact
from rl_llm.hub.base_place import CONFIG, has_pinned_base, write_unpinned
from rl_llm.hub.card import Place, placed, render_card
from rl_llm.hub.tree import files_in
from rl_llm.trainer import RunFolder, read_rows
from rl_llm.trainer.shelf import newest_whole, step_of

_COMMAND = "# command: "
_STEP = re.compile(r"step-\d+")
_MADE_ANEW = ("README.md", "resolved.yaml")
_INSIDE = ("checkpoints", "unpushed")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An adapter in a run's folder; `step` is None for the final one."""

    run: RunFolder
    adapter: Path
    step: int | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return "the final adapter" if self.step is None else f"the adapter of step {self.step}"

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer lies beside the adapter, as it does not in a checkpoint."""
        return (self.adapter / "tokenizer_config.json").is_file()

    def recipe(self) -> Recipe:
        """Return the recipe as run."""
        return load_recipe(self.run.resolved)

    def card(self, place: Place) -> str:
        """Return the model card for a place: the one beside the adapter, or a new one."""
        beside = self.adapter / "README.md"
        if beside.is_file() and not place.is_merged:
            text = placed(_text(beside), place)
            if text is not None:
                return text
        last = float("inf") if self.step is None else self.step
        rows = [row for row in read_rows(self.run.metrics) if row["step"] <= last]
        return render_card(self.recipe(), rows, command=read_command(self.run), place=place)

    def files(self, scratch: Path) -> Mapping[str, str]:
        """Return the files of the adapter by their path in a repository; the card is for `card`,
        the recipe for `write_recipe`, and hidden files are for nobody. A config that names the base
        by a path of this machine is written into `scratch` as the recipe names it."""
        found = files_in(self.adapter)
        files = {name: str(file) for name, file in found.items() if name not in _MADE_ANEW}
        if self.step is None and has_pinned_base(self.adapter):
            files[CONFIG] = str(write_unpinned(self.adapter, self.recipe().model.path, scratch))
        return files

    def write_recipe(self, folder: Path) -> Path:
        """Write the recipe as run, which may lie beside the adapter, into a folder, without any
        token that is known here."""
        name = self.run.resolved.name
        beside = self.adapter / name
        recipe = beside if beside.is_file() else self.run.resolved
        (folder / name).write_text(redact(_text(recipe)), encoding="utf-8")
        return folder / name


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}: byte {error.object[error.start]:#04x} at line {line} is not UTF-8; save the "
            "file as UTF-8"
        ) from None


def find_source(target: Path) -> Source:
    """Return what a folder means: a run its final adapter, or that of its newest whole checkpoint;
    a checkpoint, or a folder of `unpushed/`, its own. Raises `InputError`."""
    part = _part_of_a_run(target)
    if part is not None:
        return part
    run = RunFolder(target)
    if run.resolved.is_file():
        return _whole_run(run)
    raise InputError(
        f"{str(target)!r} is not the folder of a run (it has no resolved.yaml), nor one of its "
        "checkpoints; name one, such as runs/NAME or runs/NAME/checkpoints/step-000050"
    )


def _part_of_a_run(target: Path) -> Source | None:
    """Return the adapter of a checkpoint, or one that waits to be pushed; None for another
    folder."""
    place = target.absolute()
    run = RunFolder(place.parent.parent)
    is_named_so = place.parent.name in _INSIDE and _STEP.fullmatch(place.name) is not None
    inside = target / "adapter" if (target / "adapter").is_dir() else target
    if is_named_so and run.resolved.is_file() and (inside / CONFIG).is_file():
        return Source(run=run, adapter=inside, step=step_of(place))
    return None


def _whole_run(run: RunFolder) -> Source:
    if (run.adapter / CONFIG).is_file():
        return Source(run=run, adapter=run.adapter)
    newest, _ = newest_whole(run.checkpoints)
    if newest is None:
        raise InputError(
            f"{run.path} has neither a final adapter nor a whole checkpoint yet, so there is "
            "nothing to push; wait for the first checkpoint"
        )
    return Source(run=run, adapter=newest / "adapter", step=step_of(newest))


def command_line(command: str) -> str:
    """Return the line of resolved.yaml that keeps the command of a run."""
    return redact(f"{_COMMAND}{' '.join(command.splitlines())}\n")


def read_command(run: RunFolder) -> str:
    """Return the command that ran a run, as its resolved.yaml has it."""
    for line in run.resolved.read_text(encoding="utf-8").splitlines():
        if line.startswith(_COMMAND):
            return line.removeprefix(_COMMAND)
    return "rl-llm train resolved.yaml"
