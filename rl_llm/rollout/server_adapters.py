"""Adapters on their way to servers, through a folder that trainer and servers share."""

import hashlib
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from rl_llm.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A published adapter: `name` is what servers call it, `folder` where they read it."""

    name: str
    folder: Path
    version: int


def publish(adapter_dir: Path, source: Path, *, version: int, seed: int) -> Adapter:
    """Copy the PEFT folder `source` to where servers read it; it appears there whole or not at all.

    The name follows from what the adapter holds, where it lies and the run's `seed`. So all ranks
    of a run publish one adapter, and no server takes an adapter of another run for this one's.
    Raises `StorageError` where it cannot be written, to which the caller adds the way out.
    """
    name = f"rl-llm-{_digest(adapter_dir, source, seed=seed)}-v{version}"
    folder = adapter_dir.absolute() / name
    aside = folder.with_name(f".{name}.{socket.gethostname()}.{os.getpid()}")
    try:
        if not folder.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for file in _files(source):
                shutil.copy2(file, aside)
            _rename(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StorageError(
            f"rollout.servers.adapter_dir: {str(adapter_dir)!r} cannot be written to: "
            f"{error.strerror}"
        ) from None
    return Adapter(name=name, folder=folder, version=version)


def withdraw(adapter: Adapter) -> None:
    """Delete what was published; another rank may have done so already."""
    shutil.rmtree(adapter.folder, ignore_errors=True)


def _digest(adapter_dir: Path, source: Path, *, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}\0{adapter_dir.absolute()}".encode())
    for file in _files(source):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.is_file())


def _rename(aside: Path, folder: Path) -> None:
    """Give `aside` its name, unless another rank was faster."""
    try:
        aside.rename(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not folder.is_dir():
            raise
