"""Writing that neither a kill nor a full disk leaves half done, and what is said when it fails."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rl_llm.errors import RlLlmError, StorageError

_WAYS_OUT = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
}
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)
# How safetensors, and shutil for what it copies, say the number.
_NUMBER = re.compile(r"(?:os error |Errno )(\d+)")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the system says against writing into one `StorageError` that names `target`."""
    try:
        yield
    except RlLlmError:  # It says what it is about itself.
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = system_error(error)
        if cause is None:
            raise
        raise storage_error(target, cause) from error


def system_error(error: Exception) -> OSError | None:
    """Return what the system said, also where torch or safetensors wrapped it; None for errors of
    another kind."""
    if isinstance(error, OSError) and error.errno:
        return error
    if isinstance(error.__context__, OSError):
        return error.__context__
    found = _NUMBER.search(str(error))
    if found:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return error if isinstance(error, OSError) else None


def storage_error(target: Path, cause: OSError, *, needed: str = "") -> StorageError:
    """Return the error that names what cannot be written and why, what is `needed`, what is free,
    and the way out."""
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    way_out = _WAYS_OUT.get(cause.errno or 0, "mend that")
    return StorageError(
        f"{target} cannot be written: {reason} ({needed}{_free_bytes(target)}); {way_out}"
    )


def readable_bytes(num_bytes: int) -> str:
    """Return a size for people: below 100 kB to the byte, else in MB or GB."""
    if num_bytes < 100_000:
        return f"{num_bytes:,} bytes"
    in_mb = num_bytes < 1_000_000_000
    return f"{num_bytes / 1e6:.1f} MB" if in_mb else f"{num_bytes / 1e9:,.1f} GB"


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: another process sees the old text or the new one.

    Raises `StorageError`, and leaves the old file, where it cannot be written.
    """
    aside = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            aside.write_text(text, encoding="utf-8", errors="replace")
            flush(aside)
            aside.replace(path)
            flush(path.parent)
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def flush(path: Path) -> None:
    """Put a file, or a folder's list of names, on the disk: then a loss of power spares it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot do this for folders.
        if error.errno not in _NO_FSYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Put a folder on the disk with all that is in it."""
    for inside in folder.rglob("*"):
        flush(inside)
    flush(folder)


def discard(folder: Path) -> None:
    """Delete a folder, so that a kill leaves nothing half under its name; gone already is fine."""
    aside = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _free_bytes(target: Path) -> str:
    """Say how much is free where a path lies, or will lie."""
    place = target
    while not place.exists() and place != place.parent:
        place = place.parent
    return f"{readable_bytes(shutil.disk_usage(place).free)} are free"
