"""What a process takes of memory, and of this what the rollout engine does."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from rl_llm.cli.estimate import Counts, EngineBytes, Estimate, engine_bytes, trainer_bytes
from rl_llm.cli.launch import Launch
from rl_llm.config import parse_recipe
from rl_llm.policy.launched import ZeroSettings

LAYERS = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}


def taken(config, *, on_gpu=False, gpu_bytes=None, **rollout):
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
        on_gpu=on_gpu,
        gpu_bytes=gpu_bytes,
    )
    shares = (found.share, found.within) if found.share else ()
    return found.copies, found.cache, found.takes_turns, *shares


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


@pytest.mark.parametrize("sleep", [True, False])
def test_vllm_on_a_gpu_holds_its_model_within_the_share_that_it_is_given(sleep):
    section = {"memory_fraction": 0.25, "sleep": sleep}
    at_hand = taken(LAYERS, engine="vllm", vllm=section, on_gpu=True, gpu_bytes=1000)
    assert at_hand == (0, 250, sleep)
    elsewhere = taken(LAYERS, engine="vllm", vllm=section, on_gpu=True)
    assert elsewhere == (0, 0, sleep, 0.25, 100)
    parallel = section | {"tensor_parallel_size": 4}
    assert taken(LAYERS, engine="vllm", vllm=parallel, on_gpu=True)[-1] == 25


def test_servers_take_nothing_here():
    servers = {"urls": ["http://elsewhere:8000"]}
    assert taken(LAYERS, engine="vllm_server", servers=servers) == (0, 0, True)


PLAIN = Counts(base=1000, adapter=10, critic=6, reference=10)


def zero(stage, **offloads):
    settings = {"offloads_optimizer": False, "offloads_weights": False} | offloads
    return Launch(num_ranks=4, zero=ZeroSettings(stage=stage, **settings))


def test_plain_processes_hold_everything():
    held = trainer_bytes(PLAIN, Launch(num_ranks=8), width=2)
    # 2 bytes of the base, 4 of the rest; a gradient of 4 and two moments of 4 of what is trained.
    weights = {"base": 2000, "adapter": 40, "critic": 24, "reference": 40, "gathered": 0}
    assert asdict(held) == weights | {"gradient": 64, "optimiser": 128, "offloaded": 0}
    assert held.total == 2000 + 40 + 24 + 40 + 64 + 128


def test_stage_2_shares_out_the_optimiser_and_the_summed_gradient():
    held = trainer_bytes(PLAIN, zero(2), width=2)
    # 16 trained values: their gradient and the buffer it is summed in, and a quarter of the sum; a
    # quarter of a copy and two moments.
    assert (held.gradient, held.optimiser) == (2 * 64 + 16, 3 * 16)
    assert (held.base, held.adapter, held.gathered) == (2000, 40, 0)


def test_stage_3_shares_out_weights_too_and_puts_them_together_for_passes():
    held = trainer_bytes(PLAIN, zero(3), width=2)
    assert (held.base, held.adapter, held.critic, held.reference) == (500, 5, 3, 5)
    assert held.gathered == 2 * (1000 + 10 + 6 + 10)
    assert (held.gradient, held.optimiser) == (144, 48)


def test_stage_3_puts_no_more_than_a_billion_weights_together():
    counts = Counts(base=3 * 10**9, adapter=10, critic=0, reference=0)
    assert trainer_bytes(counts, zero(3), width=2).gathered == 2 * 10**9 + 20


def test_what_is_offloaded_lies_beside_the_gpu():
    held = trainer_bytes(PLAIN, zero(3, offloads_optimizer=True, offloads_weights=True), width=2)
    assert held.offloaded == 48 + 16 + 500 + 5 + 3 + 5
    assert (held.base, held.optimiser, held.gradient) == (0, 0, 128)
    on_cpus = replace(zero(3, offloads_optimizer=True, offloads_weights=True), on_gpus=False)
    assert trainer_bytes(PLAIN, on_cpus, width=2) == trainer_bytes(PLAIN, zero(3), width=2)


def total(**changes):
    engine = EngineBytes(copies=7, cache=100, takes_turns=True)
    held = trainer_bytes(PLAIN, Launch(num_ranks=1), width=2)
    found = {"trainer": held, "engine": engine, "activations": 60, "start": 0}
    return Estimate(**found | changes, is_rule_of_thumb=False).total - held.total


def test_a_cache_and_activations_take_turns_where_the_engine_does():
    assert total() == 7 + 100
    assert total(activations=160) == 7 + 160
    apart = EngineBytes(copies=7, cache=100, takes_turns=False)
    assert total(engine=apart) == 7 + 160


@pytest.mark.parametrize(
    ("activations", "within", "start", "takes_turns", "gpu"),
    [
        (60, 0, 0, True, 400),  # Three quarters of it are vLLM's while it generates.
        (400, 0, 0, True, 100 + 400),
        (60, 0, 0, False, 4 * (100 + 60)),
        (60, 600, 0, True, 800),  # vLLM's copy of the model fills its share.
        (60, 0, 250, True, 1000),  # The whole model is here while vLLM starts.
    ],
)
def test_a_share_asks_for_a_gpu_with_room_for_the_rest(
    activations, within, start, takes_turns, gpu
):
    engine = EngineBytes(copies=0, cache=0, takes_turns=takes_turns, share=0.75, within=within)
    counts = Counts(base=50, adapter=0, critic=0, reference=0)
    trainer = trainer_bytes(counts, Launch(num_ranks=1), width=2)
    assert trainer.total == 100
    found = Estimate(
        trainer=trainer,
        engine=engine,
        activations=activations,
        start=start,
        is_rule_of_thumb=False,
    )
    assert found.total == gpu


def test_loading_may_take_most():
    held = trainer_bytes(PLAIN, Launch(num_ranks=1), width=2)
    assert total(start=9000) == 9000 - held.total
