"""What counts as memory: every storage once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rl_llm.plugins import load_module

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return load_module(SCRIPTS / "bench_memory.py")


def test_tied_and_viewed_tensors_count_once(memory):
    weight = nn.Parameter(torch.zeros(256, 1024))  # 1 MiB in float32
    assert memory.mebibytes([weight, weight, weight[:3], weight.detach()]) == 1.0
    assert memory.mebibytes([weight, torch.zeros(128, 1024)]) == 1.5


def test_ppo_on_adapters_keeps_one_base_and_separate_models_three(memory):
    model = str(SCRIPTS.parent / "data" / "models" / "carry-adder")
    shared, three = memory.shared_base(model, mode="base"), memory.separate_models(model, lora=True)
    adapters = shared["optimiser_mib"] / 2  # two moments for each trained number
    base = shared["parameters_mib"] - adapters
    assert three["optimiser_mib"] == pytest.approx(shared["optimiser_mib"], abs=0.1)
    assert three["parameters_mib"] == pytest.approx(3 * base + adapters, abs=0.3)
    whole = memory.separate_models(model, lora=False)
    assert whole["optimiser_mib"] == pytest.approx(2 * 2 * base, abs=0.3)
