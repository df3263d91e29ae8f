"""Tests of commands share recipes and finished runs with the integration tests."""

from pathlib import Path

from rl_llm.plugins import load_module

_shared = load_module(Path(__file__).parents[1] / "integration" / "conftest.py")

finished = _shared.finished
once = _shared.once
python = _shared.python
read_metrics = _shared.read_metrics
repository = _shared.repository
program = _shared.program
small = _shared.small
write_small = _shared.write_small
