"""Folders that look like checkpoints from outside."""

import json

import pytest

from rl_llm.trainer.checkpoint import FORMAT
from rl_llm.trainer.manifest import seal


@pytest.fixture
def write():
    """Write a checkpoint that is whole, as far as its manifest says."""

    def into(folder, step, name=None):
        path = folder / (name or f"step-{step:06d}")
        path.mkdir(parents=True)
        state = {"format": FORMAT, "counters": {"step": step}}
        (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (path / "curriculum.parquet").write_bytes(bytes(4096))
        seal(path)
        return path

    return into


@pytest.fixture
def truncate():
    """Cut a checkpoint's beliefs off."""

    def cut(checkpoint):
        with (checkpoint / "curriculum.parquet").open("r+b") as file:
            file.truncate(1024)

    return cut
