"""Ends all processes of a run with the first one that fails or dies, with its cause said once.

Every process keeps one connection to that of rank 0 open. The kernel closes it when a process is
gone, however it went, and its keepalive probes find machines that are gone: so nothing beats, and a
process that is merely busy is never taken for dead.
"""

import json
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NoReturn

from rl_llm.errors import RunError

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)

_CONNECT_S = 60.0
_GREET_S = 5.0
_SETTLE_S = 1.0  # How long a death has to show itself, when an error may only be its echo.
_ANSWER_S = 10.0  # How long rank 0 may take to hear of an error.
_LEAVE_S = 10.0  # How long a process may take to unwind.
_PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # A lost machine: 30 s.
_TURN_S = 3600.0
_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a process sits: its number among all, and its number on its machine."""

    rank: int
    num_ranks: int
    local_rank: int
    pid: int
    host: str

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


@dataclass(frozen=True, kw_only=True)
class End:
    """Why all processes end: what is said of it, and the code to leave with.

    `is_death` is True where a process went without a word, which others found out; `is_late` where
    one was waited for in vain.
    """

    rank: int
    text: str
    code: int
    is_death: bool = False
    is_late: bool = False

    @property
    def order(self) -> int:
        """Which of several is the cause: the least. A death makes errors elsewhere, and a signal is
        sent for either."""
        return 0 if self.is_death else 2 if self.code in INTERRUPTED else 1


class Line:
    """A connection to another process; messages are lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        """Have the kernel find out when the machine at the other end is gone."""
        self.socket = connection
        self._begun = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _PROBES.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; to an end that is gone, nothing."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that are whole by now, after waiting for some bytes; None when the
        other end is gone."""
        try:
            read = self.socket.recv(_BYTES)
        except OSError:
            read = b""
        if not read:
            return None
        *whole, self._begun = (self._begun + read).split(b"\n")
        return [json.loads(line) for line in whole]


class Watch:
    """One process's part: a thread that waits, and costs nothing, until something happens."""

    def __init__(self, seat: Seat, lines: Mapping[Seat, Line], say: Callable[[End], None]) -> None:
        """Watch whoever sits at the other end of `lines`: rank 0 all others, the others rank 0.

        `say` is called in the first process of every machine that is left.
        """
        self._seat = seat
        self._lines = dict(lines)
        self._say = say
        self._decided: End | None = None  # What rank 0 sent.
        self._end: End | None = None
        self._has_ended = threading.Event()
        self._told: SimpleQueue[End | None] = SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._selector = DefaultSelector()
        self._selector.register(self._woken, EVENT_READ)
        for other, line in self._lines.items():
            self._selector.register(line.socket, EVENT_READ, other)
        self._silent: set[Seat] = set()
        self._is_left = False
        self._unwinds = False
        self._thread = threading.Thread(target=self._watch, name="ranks-watch", daemon=True)
        self._thread.start()

    def is_ending(self, *, wait_s: float) -> bool:
        """Say whether the processes end, or are found to within `wait_s`."""
        return self._has_ended.wait(wait_s)

    def end_all(self, end: End) -> End:
        """Have all processes end, because of an error in this one; return the cause once it is
        said: where another came before, or made this one, the other. For the main thread."""
        self._unwinds = True
        self.tell(end)
        self._has_ended.wait(_ANSWER_S + _SETTLE_S)
        return self._end or end

    def leave(self) -> None:
        """End the watch, because this process is done: the others are not to take it for dead."""
        if not self._has_ended.is_set():
            self.tell(None)
            self._thread.join(_ANSWER_S)
            for each in (self._wake, self._woken, *(line.socket for line in self._lines.values())):
                each.close()

    def tell(self, end: End | None) -> None:
        """Have all processes end, this one among them, or with None have them not; for any
        thread."""
        self._told.put(end)
        self._wake.send(b".")

    def _watch(self) -> None:
        end = self._wait_for_end()
        if end is not None:
            self._conclude(end)

    def _wait_for_end(self) -> End | None:
        """Return why all processes end; None when this one leaves before they do."""
        patience_s = _SETTLE_S if self._seat.rank == 0 else _ANSWER_S
        heard, decides_at = list[End](), math.inf
        while (left_s := decides_at - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left_s, _TURN_S)):
                heard += self._hear_own() if key.data is None else self._hear(key.data)
            if self._is_left or self._decided is not None:
                return self._decided
            if any(end.is_death for end in heard):
                break
            if heard and decides_at == math.inf:
                decides_at = time.monotonic() + patience_s
                self._silent = set(self._lines)
                self._send({"asks": self._seat.rank})
        return self._with_the_silent(min(heard, key=lambda end: end.order))

    def _with_the_silent(self, end: End) -> End:
        """Add who did not answer within the time that was left: a process that hangs as a whole."""
        if end.is_death or not (end.is_late or self._seat.rank) or not self._silent:
            return end
        names = ", ".join(seat.name for seat in sorted(self._silent, key=lambda seat: seat.rank))
        end = replace(end, text=f"{end.text}\nno answer from {names}")
        return replace(end, rank=0, is_death=True) if self._seat.rank else end

    def _hear_own(self) -> list[End]:
        """Take what the main thread told."""
        self._woken.recv(1)
        end = self._told.get()
        if end is None:
            self._is_left = True
            self._send({"leaves": self._seat.rank})
            return []
        if self._seat.rank != 0:
            self._send({"reports": asdict(end)})
        return [end]

    def _hear(self, seat: Seat) -> list[End]:
        """Take what came from another process."""
        messages = self._lines[seat].receive()
        if messages is None:
            self._forget(seat)
            return [_death(seat)]
        ends: list[End] = []
        for message in messages:
            match message:
                case {"reports": end}:
                    ends.append(End(**end))
                case {"ends": end}:
                    self._decided = End(**end)
                case {"asks": _}:
                    self._lines[seat].send({"answers": self._seat.rank})
                case {"answers": _}:
                    self._silent.discard(seat)
                case {"leaves": _}:
                    self._forget(seat)
        return ends

    def _forget(self, seat: Seat) -> None:
        self._silent.discard(seat)
        gone = self._lines.pop(seat).socket
        self._selector.unregister(gone)
        gone.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        for line in self._lines.values():
            line.send(message)

    def _conclude(self, end: End) -> None:
        """Pass the end on, say it where it is this process's turn, and see this process end too."""
        self._end = end
        if self._seat.rank == 0:
            self._send({"ends": asdict(end)})
        try:
            if self._speaks(end):
                self._say(end)
        finally:  # Where it cannot be said, as stderr is closed, it ends all the same.
            self._leave_soon(end.code)

    def _leave_soon(self, code: int) -> NoReturn:
        """Have the main thread unwind, and end the process if that takes too long."""
        self._has_ended.set()
        main = threading.main_thread().ident
        if not self._unwinds and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(_LEAVE_S)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    def _speaks(self, end: End) -> bool:
        """Say whether this is the first process of its machine, of those that are left."""
        first = self._seat.rank - self._seat.local_rank
        is_first_gone = end.is_death and end.rank == first
        return bool(end.text) and self._seat.local_rank == int(is_first_gone)


def start_watch(
    seat: Seat, from_main: Callable[[Any], Any], *, is_one_machine: bool, say: Callable[[End], None]
) -> Watch:
    """Connect the processes and start to watch; every rank calls it at the same point.

    `from_main` returns rank 0's value on every rank. Raises `RunError` where a connection cannot be
    made.
    """
    if seat.rank == 0:
        return Watch(seat, _accept(seat, from_main, is_one_machine=is_one_machine), say)
    port, secret, first = from_main(None)
    address = "127.0.0.1" if is_one_machine else os.environ["MASTER_ADDR"]
    try:
        line = Line(socket.create_connection((address, port), timeout=_CONNECT_S))
    except OSError as error:
        raise RunError(
            f"{seat.name} cannot connect to rank 0 at {address}:{port}: {error}; processes of a "
            "run on several machines need all TCP ports between them open"
        ) from None
    line.socket.settimeout(None)
    line.send({"secret": secret, "seat": asdict(seat)})
    return Watch(seat, {Seat(**first): line}, say)


def _accept(
    seat: Seat, from_main: Callable[[Any], Any], *, is_one_machine: bool
) -> dict[Seat, Line]:
    """Wait for a connection from every other rank; then nobody listens any more."""
    secret, lines = secrets.token_hex(16), dict[Seat, Line]()
    with _server(seat.num_ranks, is_one_machine=is_one_machine) as server:
        from_main((server.getsockname()[1], secret, asdict(seat)))
        until = time.monotonic() + _CONNECT_S
        while len(lines) < seat.num_ranks - 1:
            server.settimeout(max(0.1, until - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                raise RunError(
                    f"{len(lines)} of {seat.num_ranks - 1} other processes connected to rank 0 "
                    f"within {_CONNECT_S:.0f} s; the others say why, or are gone"
                ) from None
            line = Line(connection)
            theirs = _greeting(line, secret)
            if theirs is None:
                connection.close()
            else:
                lines[theirs] = line
    return lines


def _server(num_ranks: int, *, is_one_machine: bool) -> socket.socket:
    """Listen where the other processes are: on this machine alone, or on all its addresses."""
    if is_one_machine:
        return socket.create_server(("127.0.0.1", 0), backlog=num_ranks)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=num_ranks, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=num_ranks)


def _greeting(line: Line, secret: str) -> Seat | None:
    """Return who has connected; None for a stranger."""
    line.socket.settimeout(_GREET_S)
    try:
        hello = line.receive() or line.receive()  # It may come in two pieces.
    except ValueError:
        return None
    line.socket.settimeout(None)
    match hello:
        case [{"secret": given, "seat": theirs}] if given == secret:
            return Seat(**theirs)
    return None


def _death(seat: Seat) -> End:
    text = (
        f"error: {seat.name} is gone without a word: it was killed, as the kernel does when memory "
        "runs out, or it crashed"
    )
    return End(rank=seat.rank, text=text, code=1, is_death=True)
