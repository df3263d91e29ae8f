"""The worker processes of a run, each asked by a thread of its own."""

import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace

from rl_llm.errors import RunError
from rl_llm.records import Group
from rl_llm.scoring.process import WorkerProcess
from rl_llm.scoring.reward import Failure, Outcome, Reward

_MAX_DEFAULT_WORKERS = 4
_LOST = ("timeout", "killed")


@dataclass(frozen=True)
class _Task:
    """A call that waits for a worker, and where its outcomes go."""

    reward: Reward
    group: Group
    outcomes: "Future[list[Outcome]]"


class WorkerPool:
    """Calls rewards in processes that are started when they are needed, and anew when they ended.

    A call whose process ends under it is the failure of that call alone: where the process had
    served others before, which may have broken it, the call is made once more in a fresh one.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        """Start nothing yet; None takes the number of cores, at most 4."""
        self._num_workers = num_workers or min(_MAX_DEFAULT_WORKERS, _num_cores())
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._callers: list[_Caller] = []
        self._lock = threading.RLock()
        self._is_closed = False

    def submit(self, reward: Reward, group: Group) -> list["Future[list[Outcome]]"]:
        """Have a reward called on a group; the outcomes of all futures in a row are the group's.

        A future raises `RunError` where no process can be started or the reward cannot be loaded
        in one, and `CancelledError` where the pool is closed before.
        """
        return [self._submit(reward, part) for part in _parts(reward, group)]

    def close(self) -> None:
        """End all processes at once, and cancel what waits; a pool that is closed stays so."""
        with self._lock:
            self._is_closed = True
            callers = list(self._callers)
            for _ in callers:
                self._tasks.put(None)
        for caller in callers:
            caller.stop()
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None:
                task.outcomes.cancel()

    def _submit(self, reward: Reward, group: Group) -> "Future[list[Outcome]]":
        task = _Task(reward, group, Future())
        with self._lock:
            if self._is_closed:
                task.outcomes.cancel()
                return task.outcomes
            self._tasks.put(task)
            num_idle = sum(caller.is_idle for caller in self._callers)
            if self._tasks.qsize() > num_idle and len(self._callers) < self._num_workers:
                self._callers.append(_Caller(self._tasks, number=len(self._callers)))
        return task.outcomes


class _Caller:
    """A thread that takes tasks, and the worker process that it asks."""

    def __init__(self, tasks: "queue.SimpleQueue[_Task | None]", *, number: int) -> None:
        self.is_idle = False
        self._tasks = tasks
        self._worker: WorkerProcess | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._serve, name=f"rewards-{number}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the process, whatever it does, and wait for the thread."""
        self._is_stopped = True
        if (worker := self._worker) is not None:
            worker.kill()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        while not self._is_stopped and (task := self._next()) is not None:
            if not task.outcomes.set_running_or_notify_cancel():
                continue
            try:
                task.outcomes.set_result(self._call(task.reward, task.group))
            except BaseException as error:  # Whoever waits for the outcomes is to hear of it.
                task.outcomes.set_exception(error)
        if self._worker is not None:
            self._worker.end()

    def _next(self) -> _Task | None:
        self.is_idle = True
        try:
            return self._tasks.get()
        finally:
            self.is_idle = False

    def _call(self, reward: Reward, group: Group) -> list[Outcome]:
        outcomes = self._ask(reward, group)
        if self._is_stopped:
            raise CancelledError
        if _were_lost_together(reward, outcomes):
            # They waited together: which of them it was shows when each is asked alone.
            parts = (_alone(group, row) for row in range(len(group.completions)))
            return [outcome for part in parts for outcome in self._call(reward, part)]
        return outcomes

    def _ask(self, reward: Reward, group: Group) -> list[Outcome]:
        """Ask the worker, and a second one where the first may be to blame."""
        for _ in range(2):
            worker = self._ready()
            if self._is_stopped:  # And did not see the worker that has just been started.
                raise CancelledError
            was_fresh = worker.num_calls == 0
            outcomes = worker.call(reward, group)
            if worker.has_ended:
                worker.end()
                self._worker = None
            if self._is_stopped:
                raise CancelledError
            if outcomes is not None and (was_fresh or not _was_killed(outcomes)):
                return outcomes
        if outcomes is None:
            raise RunError(
                f"reward {reward.name!r} cannot be loaded in a worker: {worker.load_error}; "
                "mend it, or have it called in the run's own process by inline: true"
            )
        return outcomes

    def _ready(self) -> WorkerProcess:
        if self._worker is not None and self._worker.has_ended:
            self._worker.end()
            self._worker = None
        if self._worker is None:
            self._worker = WorkerProcess()
        return self._worker


def _parts(reward: Reward, group: Group) -> list[Group]:
    """Return what is called apart, without what no reward is given."""
    lean = replace(
        group,
        prompt_ids=(),
        completions=tuple(replace(each, logprobs=()) for each in group.completions),
    )
    if reward.style != "completion" or reward.is_async:
        return [lean]
    return [_alone(lean, row) for row in range(len(lean.completions))]


def _alone(group: Group, row: int) -> Group:
    return replace(group, completions=group.completions[row : row + 1])


def _were_lost_together(reward: Reward, outcomes: Sequence[Outcome]) -> bool:
    """Whether the calls for several completions ended as one, though each is a call of its own."""
    if not reward.is_async or reward.style != "completion" or len(outcomes) < 2:
        return False
    return all(isinstance(each, Failure) and each.kind in _LOST for each in outcomes)


def _was_killed(outcomes: Sequence[Outcome]) -> bool:
    return any(isinstance(each, Failure) and each.kind == "killed" for each in outcomes)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
