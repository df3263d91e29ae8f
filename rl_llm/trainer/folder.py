"""A run's folder: where everything lies, and whether there is something to resume."""

from dataclasses import dataclass
from pathlib import Path

from rl_llm.errors import CheckpointError
from rl_llm.trainer.checkpoint import list_checkpoints


@dataclass(frozen=True)
class RunFolder:
    """The paths inside `runs/<name>/`."""

    path: Path

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def draws(self) -> Path:
        """One JSON object for each scored group."""
        return self.path / "draws.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The final adapter, with the tokenizer and a model card."""
        return self.path / "adapter"

    @property
    def resolved(self) -> Path:
        """The recipe as run, with every default."""
        return self.path / "resolved.yaml"

    def samples(self, step: int) -> Path:
        """Return the file of sample completions of a step."""
        return self.path / "completions" / f"step-{step:06d}.jsonl"

    def past(self, step: int) -> list[Path]:
        """Return the checkpoints and sample files of later steps than this one."""
        found = [*self.checkpoints.glob("step-*"), *self.samples(0).parent.glob("step-*.jsonl")]
        return [path for path in found if int(path.stem.removeprefix("step-")) > step]

    def find_checkpoint(self, resume: str) -> Path | None:
        """Return the checkpoint that `--resume` means: `auto` the newest, `never` none, else a
        path.

        The folder of a run means its newest checkpoint. Raises `CheckpointError` for `never` on a
        folder that holds a run, and for a checkpoint of another run there.
        """
        if resume == "auto":
            return next(iter(reversed(list_checkpoints(self.checkpoints))), None)
        if resume != "never":
            inside = list_checkpoints(Path(resume) / "checkpoints")
            found = inside[-1] if inside else Path(resume)
            self._refuse_another_run(found)
            return found
        if self.metrics.is_file():
            raise CheckpointError(
                f"{self.path} holds a run already, and --resume never would overwrite it; give "
                "this run another run.name, or delete the folder"
            )
        return None

    def _refuse_another_run(self, checkpoint: Path) -> None:
        """Refuse to go on from a checkpoint of elsewhere among the rows of a run of its own."""
        is_own = checkpoint.resolve().is_relative_to(self.path.resolve())
        has_rows = self.metrics.is_file() and self.metrics.stat().st_size > 0
        if has_rows and not is_own and checkpoint.is_dir():
            raise CheckpointError(
                f"--resume {checkpoint} is of another run, and {self.path} holds a run of its own, "
                "which would go on as a mixture of both; give this run another run.name, or leave "
                f"--resume out to go on with {self.path}"
            )
