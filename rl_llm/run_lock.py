"""One run at a time in a folder: the file `run.lock` there names the process that trains.

The file stays as long as the run does, and says enough to tell whether that process is still alive:
no lock of the operating system does, on a network file system, or says who holds it. `flock` is
used for the moment of taking or giving back alone, so that of several runs that start together one
wins. A file system without it still gives a new lock to one of them only, but may let two take over
the same one that was left behind.
"""

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from rl_llm.errors import InputError

LOCK_FILE = "run.lock"
BEAT_S = 30.0
"""So often a run touches its lock."""
SILENT_S = 300.0
"""A run that cannot be looked at, on another machine, counts as gone after so much silence."""

_MAX_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that holds a lock.

    `place` is equal for processes that see each other's ids; `birth` tells a process from a later
    one of the same id.
    """

    host: str
    pid: int
    place: str
    birth: str
    since: str

    def __str__(self) -> str:
        """Name the process for a person."""
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """Return the process that asks, as an owner from now on."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        place=_place(),
        birth=_state_and_birth(os.getpid())[1],
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


@contextmanager
def hold(folder: Path, *, on_loss: Callable[[str], None]) -> Iterator[str | None]:
    """Hold the lock of a run's folder until the end; yield what is to be said of a lock that was
    left behind and is taken over, else None.

    The folder is made, and taken away again if nothing was put into it. Raises `InputError` where
    another run holds the lock, and `OSError` where nothing can be written. `on_loss` is called with
    a message, from a thread of its own, when another run has got hold of the lock meanwhile: the
    file was deleted, or this machine slept.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    path, owner = folder / LOCK_FILE, this_process()
    try:
        note = _take(path, owner)
        try:
            with _beating(path, owner, on_loss):
                yield note
        finally:
            _give_back(path, owner)
    finally:
        with suppress(OSError):  # Not empty, or another run is just starting there.
            for each in made:
                each.rmdir()


@contextmanager
def _beating(path: Path, owner: Owner, on_loss: Callable[[str], None]) -> Iterator[None]:
    ended = threading.Event()
    heart = threading.Thread(
        target=_beat, args=(path, owner, ended, on_loss), name="run-lock", daemon=True
    )
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def _take(path: Path, owner: Owner) -> str | None:
    """Make the lock this process's, and return what to say of an owner that is gone."""
    with _opened(path) as (lock, is_new, is_guarded):
        before = _read(lock)
        if before is None and not (is_new or is_guarded):
            raise InputError(
                f"{path.parent} is in use: another run is just taking {path}; try again, or, if "
                "there is none, delete that file"
            )
        if before is not None:
            _refuse_alive(path, before)
        try:
            _write(lock, owner, path)
        except OSError:
            if is_new:
                path.unlink()
            raise
    return None if before is None else f"{path} was left behind by {before}; it is taken over"


def _write(lock: int, owner: Owner, path: Path) -> None:
    content = json.dumps(asdict(owner), indent=1).encode() + b"\n"
    if os.pwrite(lock, content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    os.ftruncate(lock, len(content))
    os.fsync(lock)


def holder(folder: Path) -> Owner | None:
    """Return the process that trains in a run's folder; None where there is none, or where it is
    gone for certain, or long silent."""
    path = folder / LOCK_FILE
    try:
        with path.open("rb") as file:
            owner = _read(file.fileno())
        return None if owner is None or _silence(path, owner) is None else owner
    except OSError:
        return None


def _refuse_alive(path: Path, owner: Owner) -> None:
    """Raise `InputError` unless the owner of a lock is gone for certain, or long silent."""
    silent_s = _silence(path, owner)
    if silent_s is None:
        return
    seen = ""
    if owner.place != _place():
        seen = (
            f", and gave its last sign of life {silent_s:.0f} s ago (it counts as gone "
            f"after {SILENT_S:.0f} s of silence)"
        )
    raise InputError(
        f"{path.parent} is in use: {owner} has been training there since {owner.since}{seen}; let "
        "it end or stop it, or give this run another run.name; if that process is gone, delete "
        f"{path}"
    )


def _silence(path: Path, owner: Owner) -> float | None:
    """Return for how many seconds an owner that lives has been silent, 0 for one that can be looked
    at; None for one that is gone."""
    if owner.place == _place():
        return 0.0 if _is_alive(owner) else None
    silent_s = max(_now_of_disk(path.parent) - path.stat().st_mtime, 0.0)
    return silent_s if silent_s <= SILENT_S else None


def _give_back(path: Path, owner: Owner) -> None:
    """Delete the lock if it is still this process's; a folder that is gone has none, and a fork of
    the owner is not the owner."""
    with suppress(OSError), _opened(path, create=False) as (lock, _, _):
        if _read(lock) == owner and os.getpid() == owner.pid:
            path.unlink()


def _beat(path: Path, owner: Owner, ended: threading.Event, on_loss: Callable[[str], None]) -> None:
    """Touch the lock until the end, or until it is another run's."""
    while not ended.wait(BEAT_S):
        with suppress(OSError), path.open("rb") as file:
            found = _read(file.fileno())
            if found == owner:
                os.utime(path)
            elif found is not None:
                on_loss(
                    f"{path} is now held by {found}, so this run stops at once: two would write "
                    f"into {path.parent}"
                )
                return


@contextmanager
def _opened(path: Path, *, create: bool = True) -> Iterator[tuple[int, bool, bool]]:
    """Yield the lock's descriptor, whether this process made the file, and whether nobody else can
    take or give back the lock meanwhile."""
    for _ in range(_MAX_TRIES):
        lock, is_new = _open(path, create=create)
        try:
            is_guarded = _guard(lock)
            if _is_at(path, lock):
                yield lock, is_new, is_guarded
                return
        finally:
            os.close(lock)
    raise InputError(f"{path} appears and vanishes again and again; see which runs start there")


def _open(path: Path, *, create: bool) -> tuple[int, bool]:
    for _ in range(_MAX_TRIES):
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError, FileNotFoundError):
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
        try:
            return os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # Given back in between.
            if not create:
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _guard(lock: int) -> bool:
    """Wait for the `flock` that closing gives back; False where the file system has none."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _read(lock: int) -> Owner | None:
    """Return the owner that an open lock names; None for a file that is empty or cut off."""
    content = os.pread(lock, 1 << 16, 0)
    try:
        tree = json.loads(content)
        return Owner(**{field.name: tree[field.name] for field in fields(Owner)})
    except (ValueError, TypeError, LookupError):
        return None


def _now_of_disk(folder: Path) -> float:
    """Return the time by the clock that stamps files there, which a server may keep; by this
    machine's where nothing can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _place() -> str:
    """Return one boot of one kernel and one namespace of process ids; elsewhere than on Linux, the
    host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_alive(owner: Owner) -> bool:
    """Say whether the owner, whose id means the same here, still runs; in doubt it does."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Another user's.
    state, birth = _state_and_birth(owner.pid)
    return state not in ("Z", "X") and birth in ("", owner.birth)


def _state_and_birth(pid: int) -> tuple[str, str]:
    """Return a process's state (Z: dead, not yet buried) and when it started, in ticks since boot,
    which no change of the clock moves; both empty where /proc does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields_behind_name = stat.rpartition(")")[2].split()
    return fields_behind_name[0], fields_behind_name[19]
