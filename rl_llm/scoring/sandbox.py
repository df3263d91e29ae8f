"""Programs that nobody has read, run where they can do no harm.

What a program says is only read here, where none runs. The processes that run it are those of
`rl_llm.scoring.jail`.
"""

import fcntl
import json
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rl_llm.errors import ConfigError, SandboxError

_START_LIMIT_S = 5.0
_ANSWER_GRACE_S = 4.0  # To kill a program that has filled gigabytes takes seconds.
_END_LIMIT_S = 1.0
MARGIN_S = _START_LIMIT_S + _ANSWER_GRACE_S + _END_LIMIT_S
"""What a sandbox may take besides its cases: to start, and to end what is killed."""

_LIMITS = {
    "output_bytes": 1 << 20,
    "file_bytes": 64 << 20,
    "num_files": 64,
    "num_processes": 32,
}
_OWN_PROCESSES = 2
_FOLDER_PREFIX = "rl-llm-programs-"
_NEW_S = 60.0
_COUNTS_PROCESSES_APART = (5, 14)
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# Packages without their `__init__`, which would import what a sandbox has no use for.
_CODE = """
import sys, types
for name, folder in {folders!r}:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from rl_llm.scoring.jail.serve import main
sys.exit(main())
"""
_USUAL = """
import collections, heapq, json, math, random, re, threading
print(input())
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended: by itself with `code`, negative for a signal; or it was ended, because
    its `time` was up or its `output` too long."""

    how: Literal["exit", "time", "output"]
    code: int
    output: bytes


class Sandbox:
    """Runs programs one at a time, each as if it were the first; close it behind the last.

    A program has no network, sees nothing of other processes, the run's environment and files
    besides the system's and Python's own, which it cannot change, and is gone with all that it
    started before its end is told. Only with `allow_unisolated` does it run where the kernel
    permits none of this, and then with limits alone.
    """

    def __init__(self, *, memory_mib: int, allow_unisolated: bool = False) -> None:
        """Start it; raises `SandboxError` where it cannot be, or the kernel does not permit it."""
        if sys.platform != "linux":
            raise SandboxError(f"programs cannot be isolated on {sys.platform}; use Linux")
        self._folder: _Folder | None = None
        refused = self._start(memory_mib, is_isolated=True)
        if refused and allow_unisolated:
            self._folder = _Folder()
            refused = self._start(memory_mib, is_isolated=False)
        if refused:
            raise SandboxError(f"programs cannot be isolated here: {refused}")

    def run(self, program: str, *, stdin: str, limit_s: float) -> Ended:
        """Run a program for at most `limit_s`; raises `SandboxError` where the sandbox fails."""
        case = {"program": program, "stdin": stdin, "limit_s": limit_s}
        return _ended(self._ask(case, limit_s=limit_s + _ANSWER_GRACE_S))

    def passes(self, program: str, tests: str, *, modules: Sequence[str], limit_s: float) -> bool:
        """Run a program and then tests in its interpreter, which import `modules`; return whether
        they came to their end. Raises `SandboxError` where the sandbox fails."""
        case = {"program": program, "stdin": "", "limit_s": limit_s, "modules": list(modules)}
        token = secrets.token_hex(16)
        self._ask(case, limit_s=_ANSWER_GRACE_S)
        ended = _ended(self._ask([tests, token], limit_s=limit_s + _ANSWER_GRACE_S))
        return ended.how == "exit" and ended.output == b"?" + token.encode("ascii")

    def close(self) -> None:
        """End the sandbox, and all that runs in it."""
        self._channel.close()
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self._folder is not None:
            self._folder.remove()

    def _start(self, memory_mib: int, *, is_isolated: bool) -> str:
        """Start the processes; return what the kernel has refused."""
        self._channel, theirs = socket.socketpair()
        self._received = b""
        with theirs:
            self._process = _popen(theirs)
        settings = {
            **_LIMITS,
            "num_processes": _max_processes() if is_isolated else None,
            "memory_bytes": memory_mib << 20,
            "isolated": is_isolated,
            "folder": self._folder.name if self._folder is not None else "",
            "paths": _paths(),
            "imports": _imports(),
        }
        said = self._ask(settings, limit_s=_START_LIMIT_S)
        if "refused" in said:
            self.close()
        return str(said.get("refused", ""))

    def _ask(self, question: Any, *, limit_s: float) -> Mapping[str, Any]:
        """Send a line, and return the one that answers it."""
        deadline = time.monotonic() + limit_s
        try:
            self._channel.settimeout(limit_s)
            self._channel.sendall(json.dumps(question).encode("ascii") + b"\n")
            while b"\n" not in self._received:
                self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
                data = self._channel.recv(1 << 20)
                if not data:
                    raise ConnectionResetError
                self._received += data
        except OSError as error:
            is_late = isinstance(error, TimeoutError)
            raise self._failed(f"did not answer in {limit_s:g} s" if is_late else "ended") from None
        line, _, self._received = self._received.partition(b"\n")
        said: Mapping[str, Any] = json.loads(line)
        return said

    def _failed(self, what: str) -> SandboxError:
        """End the sandbox, and return the error that says what it said last."""
        self._process.kill()
        _, printed = self._process.communicate()
        said = printed.decode("utf-8", "replace").strip().splitlines()[-1:]
        self.close()
        return SandboxError(f"the sandbox {what}{': ' + said[0] if said else ''}")


class _Folder:
    """A folder for programs that are not isolated. It is locked while its sandbox is there: of one
    that was killed, the next removes it."""

    def __init__(self) -> None:
        """Make it."""
        for other in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
            with suppress(OSError):  # Somebody else's, or locked.
                _remove_left(other)
        self.name = tempfile.mkdtemp(prefix=_FOLDER_PREFIX)
        self._lock = os.open(self.name, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all that programs have left there."""
        shutil.rmtree(self.name, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_left(folder: Path) -> None:
    if time.time() - folder.stat().st_mtime < _NEW_S:  # It may not be locked yet.
        return
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def check_isolated() -> None:
    """Raise `SandboxError` where programs cannot run isolated from the network and from files."""
    with closing(Sandbox(memory_mib=256)) as sandbox:
        ended = sandbox.run(_USUAL, stdin="well", limit_s=_START_LIMIT_S)
    if (ended.code, ended.output) != (0, b"well\n"):
        raise SandboxError(
            f"Python's own modules cannot be imported in the sandbox (exit code {ended.code}): "
            f"any user must be able to read {sys.base_prefix}"
        )


def check_limits(
    *, limit_s: float, total_s: float, memory_mib: int, timeout_s: float, allow_unisolated: bool
) -> None:
    """Refuse limits of a reward that do not fit each other or its `timeout_s`, and a machine that
    does not isolate programs unless `allow_unisolated`; raises `ConfigError`."""
    if not 0 < limit_s <= total_s:
        raise ConfigError(
            f"limit_s={limit_s:g} of one test must lie above 0 and not above total_s={total_s:g} "
            "of all tests; set both"
        )
    if total_s + MARGIN_S > timeout_s:
        raise ConfigError(
            f"total_s={total_s:g} of the tests and {MARGIN_S:g} s for the sandbox do not fit into "
            f"timeout_s={timeout_s:g}, so that slow programs would fail the reward in place of "
            f"their tests; set timeout_s: {total_s + MARGIN_S:g}, or a lower total_s"
        )
    if memory_mib < 64:
        raise ConfigError(f"memory_mib={memory_mib} is less than Python takes; use 64")
    if allow_unisolated:
        return
    try:
        check_isolated()
    except SandboxError as error:
        raise ConfigError(
            f"{error}; run where user namespaces are permitted, or set allow_unisolated: true to "
            "have programs run with limits of time and memory alone, free to use the network and "
            "to read and change your files"
        ) from None


def _ended(said: Mapping[str, Any]) -> Ended:
    return Ended(how=said["ended"], code=said["code"], output=said["output"].encode("latin-1"))


def _popen(channel: socket.socket) -> "subprocess.Popen[bytes]":
    package = Path(__file__).parents[1]
    folders = {"rl_llm": str(package), "rl_llm.scoring": str(package / "scoring")}
    code = _CODE.format(folders=[*folders.items()])
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-X", "utf8", "-c", code],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        env=_ENVIRONMENT,
    )


def _max_processes() -> int | None:
    """Return how many there may be in a sandbox, its own included; None where the kernel would
    count those of the same user elsewhere."""
    major, minor = map(int, re.findall(r"\d+", platform.release())[:2])
    if (major, minor) < _COUNTS_PROCESSES_APART:
        return None
    return _LIMITS["num_processes"] + _OWN_PROCESSES


def _imports() -> list[str]:
    """Return the folders of installed packages."""
    return list(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))))


def _paths() -> list[str]:
    return [sys.base_prefix, sys.base_exec_prefix, *_imports()]
