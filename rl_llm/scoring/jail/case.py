"""One case: a process that runs a program, and what is done with it from outside."""

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rl_llm.scoring.jail.judge import run_program, run_tests
from rl_llm.scoring.jail.namespaces import (
    NOBODY,
    end_with_parent,
    gain_no_rights,
    give_up_rights,
    mount_folder,
)

_ASIDE = 64
"""Descriptors from here on are free in a process that serves cases."""


class Case:
    """A process of its own for a program, with all that it starts.

    With `modules`, tests in Python follow the program; without, its output is what counts.
    """

    def __init__(self, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Fork the process; in it, `pid` is 0."""
        self.is_tested = "modules" in asked
        self._asked, self._settings = asked, settings
        self._deadline = time.monotonic() + asked["limit_s"]
        self._folder = _fresh_folder(settings)
        self._stdin = os.memfd_create("stdin")
        with open(self._stdin, "wb", closefd=False) as file:
            file.write(asked["stdin"].encode("utf-8", "surrogatepass"))
        os.lseek(self._stdin, 0, os.SEEK_SET)
        self._said, self._says = os.pipe()
        self._hears, self._told = os.pipe()
        if settings["isolated"] and os.getuid() == 0:
            for descriptor in (self._stdin, self._says):  # So that /dev/stdin can be opened.
                os.fchown(descriptor, NOBODY, NOBODY)
        self._output = bytearray()
        self.pid = os.fork()

    def run(self) -> int:
        """In the new process: run the program, and return its exit code."""
        os.setsid()
        self._arrange_files()
        os.chdir(self._folder)
        os.environ["HOME"] = self._folder
        sys.argv = ["program.py"]
        sys.excepthook = lambda *_: None  # Nobody reads it, and a deep trace takes long to write.
        sys.path += self._settings["imports"]
        if self._settings["isolated"]:
            give_up_rights()
        else:
            end_with_parent()
            gain_no_rights()
        self._limit()
        if self.is_tested:
            return run_tests(self._asked["program"], self._asked["modules"], ask=3, answer=4)
        run_program(self._asked["program"], "__main__")
        return 0

    def watch(self, tests: str) -> dict[str, Any]:
        """Wait for the program, and end all that it has started; `tests` are for the moment that
        it asks for them."""
        for descriptor in (self._stdin, self._says, self._hears):
            os.close(descriptor)
        process = os.pidfd_open(self.pid)
        ended = self._wait(process, tests.encode("ascii") + b"\n" * self.is_tested)
        code = self._end_all()
        os.set_blocking(self._said, False)
        with suppress(BlockingIOError):
            while ended == "exit" and not self._is_too_long() and self._read():
                pass
        for descriptor in (process, self._said, self._told):
            os.close(descriptor)
        output = self._output.decode("latin-1")
        return {"ended": "output" if self._is_too_long() else ended, "code": code, "output": output}

    def _arrange_files(self) -> None:
        """Have the standard ones at 0 to 2, for tests the pipes at 3 and 4, and no others."""
        nowhere = os.open("/dev/null", os.O_RDWR)
        kept = [self._stdin, nowhere if self.is_tested else self._says, nowhere]
        kept += [self._hears, self._says] if self.is_tested else []
        kept = [os.dup2(each, _ASIDE + place) for place, each in enumerate(kept)]
        for place, each in enumerate(kept):
            os.dup2(each, place, inheritable=place < 3)
        os.closerange(len(kept), _ASIDE + len(kept))

    def _limit(self) -> None:
        settings = self._settings
        limits = {
            resource.RLIMIT_AS: settings["memory_bytes"],
            # The clock decides; this is for threads that take more than one core.
            resource.RLIMIT_CPU: int(-(-self._asked["limit_s"] // 1)) + 1,
            resource.RLIMIT_FSIZE: settings["file_bytes"],
            resource.RLIMIT_NOFILE: settings["num_files"],
            resource.RLIMIT_CORE: 0,
        }
        if settings["num_processes"] is not None:
            limits[resource.RLIMIT_NPROC] = settings["num_processes"]
        for which, limit in limits.items():
            _, hard = resource.getrlimit(which)
            bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(which, (bounded, bounded))

    def _wait(self, process: int, tests: bytes) -> str:
        """Return why the wait is over: `exit`, `time` or `output`."""
        poll = select.poll()
        for descriptor in (self._said, process):
            poll.register(descriptor, select.POLLIN)
        os.set_blocking(self._told, False)
        while (left_s := self._deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left_s * 1000):
                if descriptor == process:
                    return "exit"
                if descriptor == self._told:
                    tests = self._tell(tests)
                    if not tests:
                        poll.unregister(self._told)
                elif not self._read():
                    poll.unregister(self._said)
                elif self._is_too_long():
                    return "output"
                elif tests:
                    poll.register(self._told, select.POLLOUT)
        return "time"

    def _read(self) -> bool:
        data = os.read(self._said, 1 << 16)
        self._output += data
        return bool(data)

    def _is_too_long(self) -> bool:
        return len(self._output) > int(self._settings["output_bytes"])

    def _tell(self, waiting: bytes) -> bytes:
        """Write what the pipe takes, and return the rest; nothing where nobody reads."""
        try:
            return waiting[os.write(self._told, waiting) :]
        except OSError:
            return b""

    def _end_all(self) -> int:
        """End everything that runs here but this process; return the program's exit code."""
        code = -signal.SIGKILL
        while True:
            self._kill_all()
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return code
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)

    def _kill_all(self) -> None:
        if self._settings["isolated"]:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            return
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(child) for child in file.read().split()]
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _fresh_folder(settings: Mapping[str, Any]) -> str:
    if settings["isolated"]:
        return mount_folder(settings["file_bytes"])
    folder = f"{settings['folder']}/{time.monotonic_ns()}"
    os.mkdir(folder)
    return folder
