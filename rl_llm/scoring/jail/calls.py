"""System calls that no namespace confines, refused by the kernel (seccomp) with `EPERM`.

The numbers differ from machine to machine; where they are not known, nothing is refused.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from errno import EPERM
from typing import NamedTuple

_FAMILIES = (1, 2, 10, 16)
"""What sockets may be of: AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK, which belong to a namespace.
AF_VSOCK, to the host of a virtual machine, does not."""


class _Machine(NamedTuple):
    """Numbers of Linux: of the architecture in a filter, and of system calls.

    `others` are add_key, request_key and keyctl, whose keys are the run's; shmget, semget, msgget
    and mq_open, whose objects outlive a program; and io_uring_setup, which leads around a filter.
    """

    architecture: int
    seccomp: int
    socket: int
    others: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(
        architecture=0xC000003E,
        seccomp=317,
        socket=41,
        others=(248, 249, 250, 29, 64, 68, 240, 425),
    ),
    "aarch64": _Machine(
        architecture=0xC00000B7,
        seccomp=277,
        socket=198,
        others=(217, 218, 219, 194, 190, 186, 180, 425),
    ),
}
_FIRST_OF_X32 = 0x40000000  # The same calls again, under other numbers.

_SET_FILTER, _KEEP_SPEED = 1, 4
_LOAD, _IS, _IS_FROM, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # Where they lie in what a filter is given.


class _Step(ctypes.Structure):
    """Operation, how many steps to pass over where it holds and where not, operand."""

    _fields_ = (
        ("operation", ctypes.c_ushort),
        ("passed_if", ctypes.c_ubyte),
        ("passed_else", ctypes.c_ubyte),
        ("operand", ctypes.c_uint),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_Step)))


def refuse_calls() -> None:
    """Refuse such calls to this process and all that it starts; raises `OSError` where the kernel
    has no filters."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 1 << 32:
        return
    steps = _steps(machine)
    given = _Filter(len(steps), (_Step * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(machine.seccomp, _SET_FILTER, _KEEP_SPEED, ctypes.byref(given)) == -1:
        raise OSError(ctypes.get_errno(), "the kernel has no filters of system calls", "seccomp")


def _steps(machine: _Machine) -> list[_Step]:
    refuse, allow = _Step(_RETURN, 0, 0, _REFUSE), _Step(_RETURN, 0, 0, _ALLOW)
    return [
        _Step(_LOAD, 0, 0, _ARCHITECTURE),
        _Step(_IS, 1, 0, machine.architecture),
        _Step(_RETURN, 0, 0, _KILL),
        _Step(_LOAD, 0, 0, _NUMBER),
        _Step(_IS_FROM, 0, 1, _FIRST_OF_X32),
        refuse,
        *_any_of(machine.others, refuse),
        _Step(_IS, 1, 0, machine.socket),
        allow,
        _Step(_LOAD, 0, 0, _FIRST_ARGUMENT),
        *_any_of(_FAMILIES, allow),
        refuse,
    ]


def _any_of(values: Sequence[int], then: _Step) -> list[_Step]:
    """Return steps that end with `then` where what is loaded is one of the values."""
    return [step for value in values for step in (_Step(_IS, 0, 1, value), then)]
