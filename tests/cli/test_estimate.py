"""What the rollout engine takes of this machine's memory."""

from types import SimpleNamespace

import pytest
import torch

from rl_llm.cli.estimate import engine_bytes
from rl_llm.config import parse_recipe

LAYERS = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}


def taken(config, **rollout):
    recipe = parse_recipe(
        {
            "run": {"name": "a", "steps": 100},
            "model": {"path": "m", "dtype": "float32"},
            "data": {"train": [{"use": "arithmetic", "levels": [1]}], "max_prompt_tokens": 32},
            "rewards": [{"use": "exact_answer"}],
            "rollout": {"max_new_tokens": 96, **rollout},
        },
        where="test",
    )
    found = engine_bytes(
        recipe,
        SimpleNamespace(**config),
        base_bytes=100,
        num_rows=8,
        device=torch.device("cpu"),
    )
    return found.copies, found.cache, found.takes_turns


@pytest.mark.parametrize(
    ("heads", "values_a_position"),
    [
        ({}, 4 * 32),
        ({"num_key_value_heads": 2}, 2 * 32),
        ({"num_key_value_heads": 2, "head_dim": 64}, 2 * 64),
    ],
)
def test_the_cache_holds_keys_and_values_of_every_head_that_has_them(heads, values_a_position):
    # Keys and values, 2 layers, 8 rows of 32 + 96 positions, 4 bytes each.
    cache = 2 * 2 * 8 * 128 * values_a_position * 4
    assert taken(LAYERS | heads, engine="transformers") == (100, cache, True)


def test_vllm_on_a_cpu_holds_its_model_and_its_cache_all_the_time():
    section = {"kv_cache_gib": 0.5}
    assert taken(LAYERS, engine="vllm", vllm=section) == (200, 2**29, False)
    adapter = section | {"publish": "adapter"}
    assert taken(LAYERS, engine="vllm", vllm=adapter) == (100, 2**29, False)


def test_servers_take_nothing_here():
    servers = {"urls": ["http://elsewhere:8000"]}
    assert taken(LAYERS, engine="vllm_server", servers=servers) == (0, 0, True)
