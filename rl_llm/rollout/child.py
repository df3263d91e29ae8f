"""What a process that an engine starts sees of ours, and what it has to say when it ends."""

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from rl_llm.launchers import without_launcher

_LOOK_EVERY_S = 0.5
_START = BaseProcess.start

_STAMP = re.compile(r"^(\([^)]*pid=\d+\) )?((?P<level>[A-Z]+) \S+ \S+ \[.*?\] ?)?")
_HARMLESS = ("DEBUG", "INFO", "WARNING")
_RAISED = re.compile(r"^[\w.]*(Error|Exception)\b.*")
_POINTS_ELSEWHERE = re.compile(
    r"root cause|[Ii]nitialization failed|stack trace|: cancelled$|: Executor failed"
)
_DIED = re.compile(r".*\bdied unexpectedly\b.*")
_IDLE = re.compile(r"\d+%.*\b\d+/\d+ \[|Warning: ")
_EXITED = re.compile(r"died unexpectedly \(exit code: (-?\d+)\)|Failed core proc.*?: (-?\d+)\b")
_WHY = {
    signal.SIGBUS: ", as when /dev/shm is full",
    signal.SIGKILL: ", as the system does when memory runs out",
}


@contextmanager
def environment_of_child(settings: Mapping[str, str]) -> Iterator[None]:
    """Until the end: `settings` in the environment, and nothing of a launcher of processes, which
    would have the child wait for ranks that are not its own."""
    ours = dict(os.environ)
    for name in ours.keys() - without_launcher(ours).keys():
        del os.environ[name]
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in os.environ.keys() - ours.keys():
            del os.environ[name]
        os.environ.update(ours)


@contextmanager
def bound_to_this_process() -> Iterator[None]:
    """Until the end, processes that `multiprocessing` starts are bound to this one, and so are
    those that they start.

    They end when it has ended, however it did and also while they start. A signal to the whole
    process group is for this process alone: Ctrl-C in a terminal, or a launcher's SIGTERM.
    """
    BaseProcess.start = _start_bound  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        BaseProcess.start = _START  # type: ignore[method-assign]


def _start_bound(process: Any) -> None:
    """Start a process that is bound to this one, and whose exit code is there when its end is seen.

    The system closes what a process has open, and with it `sentinel`, a moment before the exit
    code can be had; who asked within that moment was told None, and now waits it out.
    """
    process._target = _Bound(process._target, os.getpid())
    _START(process)
    poll = process._popen.poll

    def poll_surely(flag: int = os.WNOHANG) -> int | None:
        code: int | None = poll(0 if wait([process.sentinel], timeout=0) else flag)
        return code

    process._popen.poll = poll_surely


@dataclass(frozen=True)
class _Bound:
    """What a process that is started runs: its `target`, in a process group of its own, until the
    process `parent` has ended."""

    target: Callable[..., object]
    parent: int

    def __call__(self, *given: Any, **named: Any) -> None:
        os.setpgid(0, 0)
        BaseProcess.start = _start_bound  # type: ignore[assignment,method-assign] # not forked
        watch = threading.Thread(target=self._end_with_parent, name="parent-watch", daemon=True)
        watch.start()
        self.target(*given, **named)

    def _end_with_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)


class ChildLog:
    """Keeps what child processes print, in a file without a name, to quote from when they end."""

    def __init__(self) -> None:
        """Open the file; it is gone with its last writer."""
        self._is_used = False
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 # it is open as long as this is

    @contextmanager
    def taking_output(self) -> Iterator[None]:
        """Until the end, what this process prints goes to the file; a process that is started
        meanwhile prints there for good."""
        self._is_used = True
        _flush()
        saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in saved:
                os.dup2(self._file.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in saved.items():
                os.dup2(copy, descriptor)
                os.close(copy)

    def read(self) -> str:
        """Return all that was printed; the writers' place in the file stays as it is."""
        descriptor = self._file.fileno()
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, size, 0).decode("utf-8", "replace")

    def cause(self, exit_codes: Iterable[int] = ()) -> str:
        """Say what ended the child: a signal, as its `exit_codes` or those of its own processes
        tell, or what it printed."""
        printed = self.read()
        codes = [*exit_codes_in(printed), *exit_codes]
        signals = [-code for code in codes if code < 0]
        if signals:
            number = signal.Signals(signals[0])
            return f"one of its processes was ended by {number.name}{_WHY.get(number, '')}"
        if not self._is_used:
            return "what it printed says why"
        error = error_in(printed)
        if 0 in codes and (error is None or _DIED.match(error)):
            return "one of its processes was told to end, as by SIGTERM"
        return cause_in(printed) or "it said nothing"

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def exit_codes_in(text: str) -> list[int]:
    """Return the exit codes of processes that a text says have ended; -9 is that of SIGKILL."""
    return [int(worker or core) for worker, core in _EXITED.findall(text)]


def cause_in(printed: str) -> str:
    """Return the error in what processes printed, else their last lines; what they only warned of,
    and how far they were, is none."""
    return error_in(printed) or " / ".join(_telling(printed)[-3:])


def error_in(printed: str) -> str | None:
    """Return the error that came first in what processes printed, else that one of them died."""
    lines = _telling(printed)
    raised = [line for line in lines if _RAISED.match(line) and not _POINTS_ELSEWHERE.search(line)]
    return next(iter([*raised, *filter(_DIED.match, lines)]), None)


def _telling(printed: str) -> list[str]:
    """Return the lines that may say what went wrong."""
    stamps = [(_STAMP.match(line), line) for line in printed.splitlines()]
    lines = [
        line[stamp.end() :].rstrip()
        for stamp, line in stamps
        if stamp is not None and stamp["level"] not in _HARMLESS and not _IDLE.search(line)
    ]
    return [line for line in lines if line.strip()]


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
