"""Tasks one after another, in this thread or in one beside it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from rl_llm.errors import EngineLost

T = TypeVar("T")


class _Behind(Exception):
    """What became of a task that did not run, because one before it failed with `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class TaskLine:
    """Runs tasks in the order in which they are submitted; behind one that failed, none runs.

    In a thread of its own, errors are kept for whoever waits. Without one, a task runs while it is
    submitted and raises there, but for `EngineLost`, which is kept in both cases: a step that is
    complete is written down before the loss of the engine ends the run.
    """

    def __init__(self, *, in_thread: bool, device: torch.device) -> None:
        """`device` is the one that tasks find as the current one."""
        self._last: Future[Any] | None = None
        self._pool: ThreadPoolExecutor | None = None
        if in_thread:
            self._pool = ThreadPoolExecutor(
                1, "rollouts", initializer=_make_current, initargs=(device,)
            )

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Add a task; the future is for `wait` alone."""
        before = self._last

        def run() -> T:
            _refuse_behind(before)
            return task()

        future = _run_here(run) if self._pool is None else self._pool.submit(run)
        self._last = future
        return future

    def wait(self, future: "Future[T]") -> T:
        """Return what a task returned, or raise what it raised; for a task that did not run, what
        the one that failed before it raised."""
        try:
            return future.result()
        except _Behind as behind:
            error = behind.error
        raise error

    def wait_for_all(self) -> None:
        """Return once nothing is left to do, whether or not something failed."""
        if self._last is not None:
            self._last.exception()

    @property
    def error(self) -> BaseException | None:
        """What the first failed task raised, once `wait_for_all` has returned."""
        error = None if self._last is None else self._last.exception()
        return error.error if isinstance(error, _Behind) else error

    def close(self) -> None:
        """End the thread behind the task that it is at; those that wait are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _run_here(task: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(task())
    except (EngineLost, _Behind) as error:
        future.set_exception(error)
    return future


def _refuse_behind(before: "Future[Any] | None") -> None:
    error = None if before is None else before.exception()
    if isinstance(error, _Behind):
        raise _Behind(error.error)
    if error is not None:
        raise _Behind(error)


def _make_current(device: torch.device) -> None:
    """Every thread has a current CUDA device of its own, the first one unless told."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
