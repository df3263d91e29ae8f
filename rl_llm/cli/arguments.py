"""Checks of arguments that several commands take."""

import argparse
from pathlib import Path
from tempfile import TemporaryFile

from rl_llm.errors import InputError


def positive(text: str) -> int:
    """Return a whole number from 1 on, for argparse."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; use 1 or more")
    return number


def parquet_file(out: Path, *, example: str) -> Path:
    """Return `writable_file`; refuse a name that promises another format than parquet."""
    if not out.is_dir() and out.suffix != ".parquet":
        raise InputError(
            f"--out {out}: what is written is parquet; name it {out.with_suffix('.parquet')}"
        )
    return writable_file(out, example=example)


def writable_file(out: Path, *, example: str) -> Path:
    """Make the folder of `--out`; refuse a file that could not be written before hours are spent on
    it, and a folder, in which the file could be named as in the example."""
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file, such as {out / example}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: its folder cannot be made: {error.strerror}") from None
    try:
        with TemporaryFile(dir=out.parent):
            return out
    except OSError as error:
        raise InputError(
            f"--out {out}: its folder cannot be written to: {error.strerror}; name a file in one "
            "that can"
        ) from None
