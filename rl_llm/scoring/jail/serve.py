"""The first two processes of a sandbox: shut in, they have one case after another run."""

import gc
import json
import os
import signal
import site
from collections.abc import Iterator
from typing import Any

from rl_llm.scoring.jail.calls import refuse_calls
from rl_llm.scoring.jail.case import Case
from rl_llm.scoring.jail.namespaces import (
    build_root,
    end_with_parent,
    enter_namespaces,
    inherit_orphans,
)

CONTROL = 0
"""The socket of whoever started this, in the place of the standard input."""


def main() -> int:
    """Serve cases until the other side is gone; in a case's own process, return its exit code."""
    lines = _lines(CONTROL)
    settings = json.loads(next(lines))
    if settings["isolated"]:
        try:
            _shut_in(settings["paths"])
        except OSError as error:
            _say(refused=f"{error.filename or 'fork'}: {error.strerror}")
            return 1
    else:
        end_with_parent()
        inherit_orphans()
    site.setquit()  # What programs call `exit()`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # From within, process 1 gets none that it could.
    gc.freeze()  # What programs share with this process, they need not look through.
    _say(ready=True)
    for line in lines:
        case = Case(json.loads(line), settings)
        if case.pid == 0:
            return case.run()
        tests = ""
        if case.is_tested:  # They come when the program's process is there, which gets no copy.
            _say(begun=True)
            tests = next(lines)
        _say(**case.watch(tests))
    return 0


def _shut_in(paths: list[str]) -> None:
    """Return in a process that is the first in namespaces of its own."""
    enter_namespaces()
    end_with_parent()
    first = os.fork()
    if first:
        os.close(CONTROL)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    end_with_parent()
    build_root(paths)
    refuse_calls()


def _lines(descriptor: int) -> Iterator[str]:
    waiting = b""
    parts: list[bytes] = []
    while True:
        head, newline, rest = waiting.partition(b"\n")
        parts.append(head)
        waiting = rest
        if newline:
            yield b"".join(parts).decode("ascii")
            parts = []
        elif not (waiting := os.read(descriptor, 1 << 16)):
            return


def _say(**said: Any) -> None:
    data = json.dumps(said).encode("ascii") + b"\n"
    while data:
        data = data[os.write(CONTROL, data) :]
