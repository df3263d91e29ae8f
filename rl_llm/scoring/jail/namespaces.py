"""Namespaces of the kernel, and a file system that shows what programs need and nothing else."""

import ctypes
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

NOBODY = 65534
"""Who programs run as where root starts the sandbox."""

_ALL_NAMESPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
"""Of mounts, host names, System V objects, users, processes and the network."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522

_SYSTEM = ("/bin", "/sbin", "/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/alternatives")
_FILES = (
    *("/etc/ld.so.cache", "/etc/localtime"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
_FOLDER, _FOLDER_MODE = "/program", 0o1777
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/shm": _FOLDER,
    "/tmp": _FOLDER,
    "/var/tmp": _FOLDER,
}
_OLD = "/.old"

_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """Have the system end this process with the one that started it."""
    _system("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def inherit_orphans() -> None:
    """Become the parent of processes below this one whose own has ended."""
    _system("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def give_up_rights() -> None:
    """Keep no rights of the namespaces, and gain none by starting a program."""
    if os.getuid() == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    version = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _system("capset", version, (ctypes.c_uint32 * 6)())
    gain_no_rights()


def gain_no_rights() -> None:
    """Let no program that this process starts have more rights than it has."""
    _system("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def enter_namespaces() -> None:
    """Make namespaces of our own; the next process that is forked is the first in them.

    Root stays root within, and has `NOBODY` beside it; any other user is alone. Raises `OSError`
    with the system call that the kernel does not permit.
    """
    this = os.getpid()
    if os.getuid() == 0:
        with suppress(PermissionError):  # Where root itself is one of a namespace without groups.
            os.setgroups([])
    waits, goes_on = os.pipe()
    helper = os.fork()
    if helper == 0:  # Who is who can only be said from outside.
        os.close(goes_on)
        os.read(waits, 1)
        os._exit(_map_users(this))
    os.close(waits)
    try:
        _system("unshare", _ALL_NAMESPACES)
    finally:
        os.close(goes_on)
        _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionError(1, os.strerror(1), "mapping users into a namespace")


def _map_users(pid: int) -> int:
    uid, gid = os.getuid(), os.getgid()
    both = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
    try:
        if uid != 0:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{uid} {uid} 1\n" if uid else both)
        _write(f"/proc/{pid}/gid_map", f"{gid} {gid} 1\n" if uid else both)
    except OSError:
        return 1
    return 0


def build_root(paths: Sequence[str]) -> None:
    """Make a file system of what programs need of the system and of `paths`, read-only."""
    shown = {path: os.path.realpath(path) for path in (*_SYSTEM, *paths) if os.path.isdir(path)}
    shown |= {path: os.path.realpath(path) for path in _FILES if os.path.exists(path)}
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    _system("mount", "none", "/", None, _MS_REC | _MS_PRIVATE, None)
    _system("mount", "tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir(f".{_OLD}")
    _system("pivot_root", ".", f".{_OLD}")
    os.chdir("/")
    for path, target in links.items():
        os.symlink(target, path)
    for path in sorted(shown):  # A folder comes before what lies in it.
        if not os.path.lexists(path):
            _bind(path, shown[path])
    for path, target in _LINKS.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.lexists(path):
            os.symlink(target, path)
    for path in (_FOLDER, "/proc"):
        os.mkdir(path)
    with suppress(OSError):  # In some containers, the kernel permits none.
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _system("mount", "proc", "/proc", "proc", flags, "subset=pid")
    with suppress(OSError):
        _write(f"{_OLD}/proc/sys/user/max_user_namespaces", "0")
    _make_read_only()


def mount_folder(size_bytes: int) -> str:
    """Return an empty folder in memory, which is gone with the namespaces."""
    if os.path.ismount(_FOLDER):
        if os.stat(_FOLDER).st_mode & 0o7777 == _FOLDER_MODE and not os.listdir(_FOLDER):
            return _FOLDER
        _system("umount2", _FOLDER, _MNT_DETACH)  # Takes ten times as long as a small program.
    options = f"size={size_bytes},nr_inodes=4096,mode={_FOLDER_MODE:o}"
    _system("mount", "tmpfs", _FOLDER, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    return _FOLDER


def _bind(path: str, real: str) -> None:
    """Show at `path` what lies at `real` outside."""
    source = _OLD + real
    if os.path.isdir(source):
        os.makedirs(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT, 0o644))
    _system("mount", source, path, None, _MS_BIND | _MS_REC, None)


def _make_read_only() -> None:
    """Leave the old root, and let nothing that is mounted be written to."""
    with open(f"{_OLD}/proc/self/mountinfo", "rb") as lines:
        escaped = [line.split()[4] for line in lines]
    mounts = [os.fsdecode(e.decode("unicode_escape").encode("latin-1")) for e in escaped]
    _system("umount2", _OLD, _MNT_DETACH)
    os.rmdir(_OLD)
    for path in mounts:
        if path.startswith(_OLD) or not os.path.lexists(path):
            continue
        flags = os.statvfs(path).f_flag & (_MS_NODEV | _MS_NOEXEC)  # The kernel has them kept.
        flags |= _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID
        _system("mount", "none", path, None, flags, None)


def _write(file: str, text: str) -> None:
    with open(file, "w", encoding="ascii") as opened:
        opened.write(text)


def _system(name: str, *arguments: Any) -> None:
    """Call a function of the C library; an `OSError` has its name in the place of a file's."""
    given = [os.fsencode(each) if isinstance(each, str) else each for each in arguments]
    if getattr(_libc, name)(*given) == -1:
        number = ctypes.get_errno()
        what = f"{name} {arguments[1]}" if name == "mount" else name
        raise OSError(number, os.strerror(number), what)
