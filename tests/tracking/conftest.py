"""A Weights & Biases server on this machine, and an environment that leads there."""

from pathlib import Path

import pytest

from rl_llm.plugins import load_module

fake_wandb = load_module(Path(__file__).parent / "fake_wandb.py")


@pytest.fixture
def server(tmp_path_factory):
    """A server of our own, empty."""
    started = fake_wandb.FakeWandb(home=tmp_path_factory.mktemp("home"))
    yield started
    started.close()
