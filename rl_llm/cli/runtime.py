"""How the process itself behaves: idle threads and freed memory, before torch loads; what it
prints where the encoding is narrow; and whose warnings are heard, where it is one of several."""

import codecs
import ctypes
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_BYTES = 2**30
_FITTING, _RAISING = "rl-llm-fitting", ("strict", "surrogateescape")


def let_idle_threads_sleep() -> None:
    """Ask OpenMP not to spin at its barriers, unless the user's environment says otherwise.

    Where anything else runs beside training, spinning threads keep the one that they wait for from
    running, and small operations take a hundred times longer.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next tensor of their size.

    By default it gives every block of a few MiB back to the kernel, which clears the pages again
    when the next one is asked for: on a CPU that is a fifth of an update's time. Other C libraries
    are left as they are, and so is a process whose environment tunes malloc.
    """
    tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if tuned or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)


def print_all_that_fits() -> None:
    """Have a character that stdout's encoding lacks printed as `?`: what a model wrote must not end
    the run that shows it, and JSON stays JSON. Names of files keep their bytes."""
    codecs.register_error(_FITTING, _fitting)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in _RAISING:
        sys.stdout.reconfigure(errors=_FITTING)


def _fitting(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.replace_errors(error)


def tag_warnings(tag: str) -> None:
    """Put a tag before every warning of a logger that nobody else handles."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter(f"{tag}%(message)s"))


@contextmanager
def warnings_heard(is_heard: bool) -> Iterator[None]:
    """Until the end, drop the warnings of all loggers unless they are to be heard: for what several
    processes do alike."""
    before = logging.root.manager.disable
    if not is_heard:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
