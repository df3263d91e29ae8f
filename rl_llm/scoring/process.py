"""A worker process as the trainer sees it: started, asked within limits, and ended."""

import json
import os
import pickle
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rl_llm.errors import RunError
from rl_llm.launchers import without_launcher
from rl_llm.records import Group
from rl_llm.scoring.frames import frame, outcomes_from_json, take_frame
from rl_llm.scoring.reward import Failure, FailureKind, Outcome, Reward
from rl_llm.scoring.worker import LOAD_LIMIT_S, TRACE_SIGNAL, hard_limit_s, load_limit_s

_START_LIMIT_S = 120.0
_TRACE_S = 0.1
_LOOK_EVERY_S = 0.05
_MAX_KEPT_BYTES = 4096
_MAX_QUOTED_CHARS = 200

_NOT_SENT = "the problem cannot be sent to a worker"

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_THREAD = re.compile(r"^(Current thread|Thread) 0x.*$", re.MULTILINE)
_PLACE = re.compile(r'File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')


class _Ended(Exception):
    """The process is there no more, or says what no worker says."""


class WorkerProcess:
    """One worker, in a session of its own, with what rewards print kept from the terminal."""

    def __init__(self) -> None:
        """Start it; raises `RunError` where that is not possible."""
        self.num_calls = 0
        self.load_error = ""
        self._job = 0
        self._loaded: set[str] = set()
        self._received = bytearray()
        self._printed = b""
        self._channel, theirs = socket.socketpair()
        self._output, their_output = os.pipe()
        with theirs:
            try:
                self._process = _popen(theirs, their_output)
            except OSError as error:
                self._close()
                raise RunError(
                    f"a process for rewards cannot be started ({error}); lower scoring.workers, or "
                    "have rewards called in the run's own process by inline: true"
                ) from None
            finally:
                os.close(their_output)
        self._poll = select.poll()
        for descriptor in (self._channel.fileno(), self._output):
            self._poll.register(descriptor, select.POLLIN)
        self._greet()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, or was told to go."""
        return self._process.poll() is not None

    def call(self, reward: Reward, group: Group) -> list[Outcome] | None:
        """Return what a reward gives for the completions of a group.

        The process is ended, and each outcome a `Failure`, where the call does not come to its end
        by itself. None where the reward could not be loaded; the process is ended, and `load_error`
        says why.
        """
        self._job += 1
        self._printed = b""
        try:
            # Options may be of a class that the reward's file defines, which is loaded first.
            inner = map(pickle.dumps, (reward.options, group))
            body = pickle.dumps((replace(reward, options={}), *inner))
        except Exception as error:  # Columns hold whatever a prompt source put there.
            return _all_failed(group, f"{_NOT_SENT}: {error}; set inline: true")
        if not self._send(self._job.to_bytes(8, "big") + body):
            self.load_error = "the process takes no questions"
            return None
        try:
            if reward.reference not in self._loaded and not self._has_loaded(reward):
                self.end()
                return None
            return self._outcomes(reward, group)
        except _Ended as ended:
            self.end()
            return _all_failed(group, f"{ended}{self._trace(reward)}", "killed")

    def end(self) -> None:
        """End the process, and those that rewards have started in it; once is enough."""
        if self._output < 0:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def kill(self) -> None:
        """From another thread: end the process under whoever waits for it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _greet(self) -> None:
        """Wait until the process is ready."""
        try:
            is_ready = self._answer(_START_LIMIT_S) is not None
        except _Ended:
            is_ready = False
        if is_ready:
            return
        self.end()
        said = _quoted(self._printed) or "it said nothing"
        raise RunError(f"a process for rewards did not start: {said}")

    def _has_loaded(self, reward: Reward) -> bool:
        """Wait until the reward is ready for calls, or `load_error` says why it cannot be."""
        limit_s = load_limit_s(reward)
        try:
            said = self._answer(limit_s)
        except _Ended as ended:
            self.load_error = f"{ended}{self._trace(reward)}"
            return False
        if said is None:
            self.load_error = f"took longer than {limit_s:g} s (a longer timeout_s gives it more)"
        elif "error" in said:
            self.load_error = str(said["error"])
        else:
            self._loaded.add(reward.reference)
        return not self.load_error

    def _outcomes(self, reward: Reward, group: Group) -> list[Outcome]:
        said = self._answer(hard_limit_s(reward))
        if said is None:
            return self._late(reward, group)
        if "error" in said:
            return _all_failed(group, f"{_NOT_SENT}: {said['error']}; set inline: true")
        return self._read(said, group)

    def _late(self, reward: Reward, group: Group) -> list[Outcome]:
        """End a call that is too long, and say where it was."""
        self._printed = b""
        with suppress(ProcessLookupError, _Ended):
            self._process.send_signal(TRACE_SIGNAL)
            self._answer(_TRACE_S)
        self.end()
        what = (
            f"took longer than timeout_s={reward.timeout_s:g}{_place(self._printed, reward.file)}"
        )
        return _all_failed(group, what, "timeout")

    def _read(self, said: Mapping[str, Any], group: Group) -> list[Outcome]:
        try:
            outcomes, is_spent = outcomes_from_json(said["outcomes"]), bool(said["is_spent"])
        except (LookupError, TypeError, ValueError) as error:
            raise _Ended("answered what no worker answers") from error
        if len(outcomes) != len(group.completions):
            raise _Ended("answered what no worker answers")
        self.num_calls += 1
        if is_spent:
            self.end()
        return outcomes

    def _trace(self, reward: Reward) -> str:
        """Return where the process ended, or what it said last."""
        quoted = _quoted(self._printed)
        return _place(self._printed, reward.file) or (f"; it said last: {quoted}" if quoted else "")

    def _send(self, body: bytes) -> bool:
        self._channel.settimeout(LOAD_LIMIT_S)
        try:
            self._channel.sendall(frame(body))
        except OSError:
            self.end()
            return False
        return True

    def _answer(self, limit_s: float) -> Mapping[str, Any] | None:
        """Return the answer to the last question; None when time is up."""
        deadline = time.monotonic() + limit_s
        while True:
            has_ended = self.has_ended
            left_s = deadline - time.monotonic()
            wait_s = 0.0 if has_ended else max(min(left_s, _LOOK_EVERY_S), 0.0)
            num_received = self._receive(wait_s)
            if (body := self._take_frame()) is not None:
                return self._understand(body)
            if has_ended and not num_received:
                raise _Ended(_ending(self._process.returncode))
            if left_s <= 0 and not has_ended:
                return None

    def _receive(self, wait_s: float) -> int:
        """Take in what is there, and return how much of it came over the channel."""
        num_received = 0
        for descriptor, _ in self._poll.poll(wait_s * 1000):
            try:
                data = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._poll.unregister(descriptor)
            elif descriptor == self._output:
                self._printed = (self._printed + data)[-_MAX_KEPT_BYTES:]
            else:
                num_received += len(data)
                self._received += data
        return num_received

    def _take_frame(self) -> bytes | None:
        try:
            return take_frame(self._received)
        except ValueError as error:
            raise _Ended(f"answered {error}") from None

    def _understand(self, body: bytes) -> Mapping[str, Any]:
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        if not isinstance(said, dict) or said.get("job") != self._job:
            raise _Ended("answered what no worker answers")
        return said

    def _close(self) -> None:
        self._channel.close()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1


def _popen(channel: socket.socket, output: int) -> "subprocess.Popen[bytes]":
    """Start a process that runs `worker.serve`, with this one's import path."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from rl_llm.scoring.worker import serve; serve({channel.fileno()})"
    )
    # The order of sets is the same in every worker.
    environment = without_launcher(os.environ) | {
        "PYTHONHASHSEED": "0",
        **dict.fromkeys(_ONE_THREAD, "1"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[channel.fileno()],
        start_new_session=True,
        env=environment,
    )


def _all_failed(group: Group, message: str, kind: FailureKind = "raised") -> list[Outcome]:
    return [Failure(message, kind)] * len(group.completions)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended its process with exit code {code}"
    why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{why}"


def _place(printed: bytes, file: str) -> str:
    """Return where the main thread, or the one that crashed, was when Python wrote a trace: the
    innermost place in the reward's own file, where there is one."""
    text = printed.decode("utf-8", "replace")
    threads = list(_THREAD.finditer(text))
    if not threads:
        return ""
    thread = next((each for each in threads if each[1].startswith("Current")), threads[-1])
    places = list(_PLACE.finditer(text, thread.end()))
    if not places:
        return ""
    place = next((each for each in places if each["file"] == file), places[0])
    return f", in {Path(place['file']).name} line {place['line']}, {place['function']}"


def _quoted(printed: bytes) -> str:
    lines = printed.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:_MAX_QUOTED_CHARS] if lines else ""
