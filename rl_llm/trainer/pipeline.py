"""Who generates what, with which weights, and when: in turns with the updates, or ahead of them."""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch

from rl_llm.curriculum import Scheduler
from rl_llm.curriculum.pool import StateDict
from rl_llm.errors import CheckpointError, EngineLost
from rl_llm.trainer.evaluate import Evaluation, Evaluator
from rl_llm.trainer.generation import Generation
from rl_llm.trainer.pending import HarvestReport, Pending
from rl_llm.trainer.storage import writing
from rl_llm.trainer.task_line import TaskLine

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How far generation runs ahead: `max_staleness` S harvests, none of a step past `last_step`.

    `in_thread` is True where generation has a thread of its own; without one, S is 0.
    """

    max_staleness: int
    last_step: int
    in_thread: bool

    def version_for(self, step: int) -> int:
        """Return the version of the weights that generate the harvest of a step, from 1: with S = 0
        that of the step before."""
        return max(0, step - 1 - self.max_staleness)

    def ahead_of(self, step: int) -> range:
        """Return the later steps whose harvests are asked for before that of `step` is learnt
        from."""
        return range(step + 1, min(step + self.max_staleness, self.last_step) + 1)


class Pipeline:
    """Everything that touches the rollout engine, the rubric and the scheduler, in one order.

    With S = 0 all of it happens in the caller's thread, when it is asked for. With S of 1 or more
    it happens in one thread beside it: harvests one after another, each with the weights of
    `Overlap.version_for`, and evaluations between them. What is generated with which weights does
    not depend on who is faster, so that a run can be resumed exactly.

    Because harvests follow each other, the scheduler has seen every outcome before it plans the
    next: nothing is in flight when a step is planned. What beliefs and reviews then know is of
    weights that lie up to S updates behind.

    On several ranks every rank runs the same tasks in the same order, over a channel of its own.
    """

    def __init__(
        self,
        *,
        generation: Generation,
        scheduler: Scheduler,
        evaluator: Evaluator,
        pending: Pending,
        overlap: Overlap,
        num_wanted: int,
        device: torch.device,
    ) -> None:
        """Go on with what is `pending`; `num_wanted` groups are what a harvest refills up to. Use
        it as a context manager."""
        self._generation = generation
        self._scheduler = scheduler
        self._evaluator = evaluator
        self._pending = pending
        self._overlap = overlap
        self._num_wanted = num_wanted
        if overlap.in_thread:
            generation.use_channel()
        self._line = TaskLine(in_thread=overlap.in_thread, device=device)
        self._harvests = {step: _done(report) for step, report in pending.reports.items()}
        self._own_folder = tempfile.TemporaryDirectory(prefix="rl-llm-adapters-")
        self._adapters = self._own_copies(pending.adapters)
        self._loaded: int | None = None  # The version that the engine will have behind the line.
        self._before: StateDict | None = None  # The scheduler, as it was before a harvest began.
        self._heard: deque[str] = deque()
        self._times: dict[str, float] = {}

    def __enter__(self) -> "Pipeline":
        """Start with nothing asked for."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the thread; behind an error, at the next group of what it generates at the latest."""
        if error is not None:
            self._generation.cut()
        try:
            self._line.close()
        finally:
            self._own_folder.cleanup()

    def publish(self, save_adapter: Callable[[Path], None], *, version: int) -> None:
        """Write the adapter, and have it loaded behind what was asked for before."""
        folder = self._folder_of(version)
        with writing(folder):
            save_adapter(folder)
        self._adapters[version] = folder
        self._load(version)
        oldest = self._overlap.version_for(version + 1)
        for old in [each for each in self._adapters if each < oldest]:
            shutil.rmtree(self._adapters.pop(old))

    def catch_up(self, step: int) -> None:
        """Behind `step`, of which a checkpoint was taken up: ask for the harvests that had been
        asked for before it and were lost. Call it before the newest weights are published."""
        for lost in self._overlap.ahead_of(step):
            self._ask(lost)

    def take(self, step: int) -> HarvestReport:
        """Ask for all that may be generated before `step` is learnt from, and wait for its own
        harvest.

        In turns, engines may then give memory back until they are asked again. That one was lost
        meanwhile is raised by whoever needs it next: the harvest before is whole.
        """
        started = time.perf_counter()
        for each in (step, *self._overlap.ahead_of(step)):
            self._ask(each)
        report = self._line.wait(self._harvests.pop(step))
        if self._overlap.in_thread:
            self._times["wait"] = time.perf_counter() - started
        else:
            self._submit(self._generation.rest)
        return report

    def take_times(self) -> dict[str, float]:
        """Return the seconds, by stage, that steps waited for a thread since the last call."""
        times, self._times = self._times, {}
        return times

    def evaluate(self, step: int, *, teach: bool) -> Evaluation:
        """Evaluate the newest weights behind `step`; with `teach` beliefs learn from it right
        there, before the next harvest is planned."""

        def task() -> Evaluation:
            evaluation = self._evaluator(step)
            if teach:
                self._scheduler.observe_evaluation(evaluation.scored_train, step=step)
            return evaluation

        return self._line.wait(self._submit(task))

    def drain(self, step: int) -> None:
        """Wait until nothing is left to do, and put down as pending behind `step`, the last that
        was learnt from, what has been generated and what would have to be generated again."""
        self._line.wait_for_all()
        self._pending.reports = {
            later: harvest.result()
            for later, harvest in self._harvests.items()
            if harvest.exception() is None
        }
        lost = set(self._overlap.ahead_of(step)) - self._pending.reports.keys()
        versions = sorted({self._overlap.version_for(each) for each in lost})
        self._pending.adapters = {version: self._adapters[version] for version in versions}
        self._pending.curriculum = self._before

    def finish(self) -> None:
        """Raise what failed and nobody waited for; not the loss of an engine that nobody needs any
        more, and not what ended a harvest of a step that an earlier end leaves out."""
        self._line.wait_for_all()
        error = self._line.error
        left_out = [harvest.exception() for harvest in self._harvests.values()]
        if error is not None and not isinstance(error, EngineLost) and error not in left_out:
            raise error

    def take_messages(self) -> list[str]:
        """Return what the engines had to say since the last call."""
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def _ask(self, step: int) -> None:
        """Have a harvest generated, with the weights that are due, unless it was asked for."""
        if step not in self._harvests:
            self._load(self._overlap.version_for(step))
            self._harvests[step] = self._submit(partial(self._harvest, step))

    def _load(self, version: int) -> None:
        if version == self._loaded:
            return
        folder = self._adapters.get(version)
        if folder is None:
            raise CheckpointError(
                f"the weights of version {version} are needed to generate again what was lost, and "
                "the checkpoint's pending.json names no adapter of them; resume from the "
                "checkpoint before"
            )
        self._submit(partial(self._generation.load_weights, folder, version=version))
        self._loaded = version

    def _folder_of(self, version: int) -> Path:
        return Path(self._own_folder.name) / f"{version:06d}"

    def _own_copies(self, adapters: Mapping[int, Path]) -> dict[int, Path]:
        """Copy adapters out of a checkpoint, which may be deleted before they are needed."""
        return {
            version: Path(shutil.copytree(folder, self._folder_of(version)))
            for version, folder in adapters.items()
        }

    def _harvest(self, step: int) -> HarvestReport:
        """Generate, observe and report; until it has succeeded, the state of before is kept where
        it may be needed."""
        if self._overlap.in_thread or self._generation.may_be_lost:
            self._before = self._scheduler.state_dict()
        harvest = self._generation.harvest(self._scheduler, step, num_wanted=self._num_wanted)
        self._before = None
        return HarvestReport(
            harvest=harvest,
            metrics=self._scheduler.metrics(step),
            messages=tuple(self._scheduler.take_messages()),
        )

    def _submit(self, task: Callable[[], T]) -> "Future[T]":
        """Add a task, behind which the engines are heard, also where it lost them."""

        def heard() -> T:
            try:
                with self._generation.failing_together():
                    result = task()
            except EngineLost:
                self._heard.extend(self._generation.take_messages())
                raise
            self._heard.extend(self._generation.take_messages())
            return result

        return self._line.submit(heard)


def _done(report: HarvestReport) -> "Future[HarvestReport]":
    future: Future[HarvestReport] = Future()
    future.set_result(report)
    return future
