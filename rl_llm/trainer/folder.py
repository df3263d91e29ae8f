"""A run's folder: where everything lies, and whether there is something to resume."""

from dataclasses import dataclass
from pathlib import Path

from rl_llm.errors import CheckpointError
from rl_llm.trainer.manifest import is_sealed
from rl_llm.trainer.metrics import iter_rows
from rl_llm.trainer.shelf import (
    examine,
    list_checkpoints,
    newest_whole,
    read_state,
    set_aside,
    step_of,
    tidy,
)
from rl_llm.trainer.storage import flush, writing


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """The checkpoint that a run goes on from; `warning` says which damaged ones were passed over,
    `dropped` what of the run's own later part goes."""

    checkpoint: Path
    warning: str = ""
    dropped: str = ""


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
    def evaluations(self) -> Path:
        """One JSON object for each held-out problem of each evaluation."""
        return self.path / "evaluations.jsonl"

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

    @property
    def failure(self) -> Path:
        """What was said of the error that ended the run; absent while it goes on, or went well."""
        return self.path / "failure.txt"

    def samples(self, step: int) -> Path:
        """Return the file of sample completions of a step."""
        return self.path / "completions" / f"step-{step:06d}.jsonl"

    def past(self, step: int) -> list[Path]:
        """Return the checkpoints and sample files of later steps than this one."""
        samples = self.samples(0).parent.glob("step-*.jsonl")
        return [
            *self._checkpoints_past(step),
            *(path for path in samples if int(path.stem.removeprefix("step-")) > step),
        ]

    def flush_rows(self) -> None:
        """Put the rows on the disk that a checkpoint will count on; raises `StorageError`."""
        for path in (self.metrics, self.draws, self.evaluations, self.path):
            if path.exists():
                with writing(path):
                    flush(path)

    def find_checkpoint(self, resume: str) -> ResumePoint | None:
        """Return what `--resume` means: `auto` the newest whole checkpoint, `never` none, else a
        path.

        The folder of a run means its newest whole checkpoint. Damaged ones of this folder are set
        aside. Raises `CheckpointError` for `never` on a folder that holds a run, where no
        checkpoint is whole, for a damaged one that was named, and for one of another run here.
        """
        if resume == "never":
            self._refuse_a_run()
            return None
        if resume == "auto":
            return self._newest(self.checkpoints)
        self._refuse_another_run(Path(resume))
        inside = Path(resume) / "checkpoints"
        return self._newest(inside) if list_checkpoints(inside) else self._named(Path(resume))

    def _newest(self, checkpoints: Path) -> ResumePoint | None:
        """Walk back to a whole checkpoint of this run or of another one."""
        is_own = self._holds(checkpoints)
        if is_own:
            with writing(checkpoints):
                tidy(checkpoints)
        found, damaged = newest_whole(checkpoints)
        if not damaged:
            return None if found is None else ResumePoint(checkpoint=found)
        if found is None:
            faults = ", ".join(f"{each.path.name} ({each.fault})" for each in damaged)
            raise CheckpointError(
                f"no checkpoint in {checkpoints} is whole: {faults}; put one back from a copy, or "
                "delete all of them to start over"
            )
        faults = ", ".join(
            f"{each.path} ({each.fault}{f'; kept as {set_aside(each).name}' if is_own else ''})"
            for each in damaged
        )
        return ResumePoint(
            checkpoint=found,
            warning=f"warning: damaged: {faults}; {found.name} is used instead",
        )

    def _named(self, checkpoint: Path) -> ResumePoint:
        """Check a checkpoint that was named by its own path, and say what going back to it
        drops."""
        if not checkpoint.is_dir():
            raise CheckpointError(
                f"--resume {checkpoint}: there is no such folder; name that of a run, such as "
                "runs/NAME, or of a checkpoint, such as runs/NAME/checkpoints/step-000050"
            )
        if not is_sealed(checkpoint):
            read_state(checkpoint)
        fault = examine(checkpoint)
        if fault is not None:
            raise CheckpointError(f"{checkpoint} is damaged: {fault}; name another checkpoint")
        if not self._holds(checkpoint):
            return ResumePoint(checkpoint=checkpoint)
        step = int(read_state(checkpoint)["counters"]["step"])
        return ResumePoint(checkpoint=checkpoint, dropped=self._dropped_past(step))

    def _dropped_past(self, step: int) -> str:
        """Say what of this run lies past a step; empty where nothing does."""
        last = max((row["step"] for row in iter_rows(self.metrics)), default=0)
        rows = [f"the rows of steps {step + 1} to {last}"] if last > step else []
        later = ", ".join(f"checkpoint {path.name}" for path in self._checkpoints_past(step))
        dropped = " and ".join([*rows, *([later] if later else [])])
        return f"going back to step {step}: {dropped} are dropped" if dropped else ""

    def _checkpoints_past(self, step: int) -> list[Path]:
        return [path for path in list_checkpoints(self.checkpoints) if step_of(path) > step]

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.path.resolve())

    def _refuse_a_run(self) -> None:
        """Refuse to start anew among the rows of a run."""
        if self.metrics.is_file():
            raise CheckpointError(
                f"{self.path} holds a run already, and --resume never would overwrite it; give "
                "this run another run.name, or delete the folder"
            )

    def _refuse_another_run(self, given: Path) -> None:
        """Refuse to go on from a checkpoint of elsewhere among the rows of a run of its own."""
        has_rows = self.metrics.is_file() and self.metrics.stat().st_size > 0
        if has_rows and not self._holds(given) and given.is_dir():
            raise CheckpointError(
                f"--resume {given} is of another run, and {self.path} holds a run of its own, "
                "which would go on as a mixture of both; give this run another run.name, or leave "
                f"--resume out to go on with {self.path}"
            )
