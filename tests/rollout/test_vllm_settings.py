"""What vLLM is started with, on a GPU and on a CPU."""

import pytest
import torch

from rl_llm.config.rollout import VllmSection
from rl_llm.errors import ConfigError
from rl_llm.rollout.vllm_settings import VllmSettings

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")


def settings(device, *, lora_rank=16, max_batch_rows=512, **section):
    return VllmSettings(
        location="m",
        dtype="bfloat16",
        device=device,
        section=VllmSection(**section),
        max_model_len=768,
        max_batch_rows=max_batch_rows,
        lora_rank=lora_rank,
        seed=5,
    )


def test_a_gpu_gets_the_adapter_a_share_of_memory_sleep_and_a_compiled_model():
    found = settings(GPU, memory_fraction=0.3).options()
    assert found["enable_lora"] and found["max_lora_rank"] == 16
    assert (found["gpu_memory_utilization"], found["tensor_parallel_size"]) == (0.3, 1)
    assert found["enable_sleep_mode"] and not found["enforce_eager"]
    assert not settings(GPU, sleep=False).options()["enable_sleep_mode"]
    assert "kv_cache_memory_bytes" not in found


def test_a_cpu_gets_merged_weights_a_cache_of_its_size_and_small_blocks():
    found = settings(CPU, kv_cache_gib=0.25).options()
    assert "enable_lora" not in found and found["enforce_eager"]
    assert (found["kv_cache_memory_bytes"], found["block_size"]) == (2**28, 32)
    assert settings(CPU, publish="adapter").options()["enable_lora"]
    assert not settings(CPU, sleep=True).sleeps


@pytest.mark.parametrize(("rank", "takes"), [(1, 1), (2, 8), (24, 32), (320, 320), (512, 512)])
def test_vllm_makes_room_for_the_least_rank_it_knows_that_holds_the_adapter(rank, takes):
    assert settings(GPU, lora_rank=rank).options()["max_lora_rank"] == takes


def test_a_rank_that_no_room_holds_is_refused_where_the_adapter_is_published():
    with pytest.raises(ConfigError, match=r"lora\.rank=513.*512.*publish=merged"):
        settings(GPU, lora_rank=513).options()
    settings(GPU, lora_rank=513, publish="merged").options()


def test_a_pass_has_room_for_a_token_of_every_row():
    assert "max_num_batched_tokens" not in settings(GPU).options()
    assert settings(GPU, max_batch_rows=4096).options()["max_num_batched_tokens"] == 8192
    assert settings(GPU, max_batch_rows=9000).options()["max_num_batched_tokens"] == 9000


def test_each_process_runs_vllm_on_its_own_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert settings(GPU).environment(sockets="/tmp")["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert settings(GPU).environment(sockets="/tmp")["CUDA_VISIBLE_DEVICES"] == "6"
    assert "CUDA_VISIBLE_DEVICES" not in settings(GPU, tensor_parallel_size=2).environment(
        sockets="/tmp"
    )
    assert "CUDA_VISIBLE_DEVICES" not in settings(CPU).environment(sockets="/tmp")


def test_the_users_own_environment_wins(monkeypatch):
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    assert settings(CPU).environment(sockets="/tmp")["VLLM_NO_USAGE_STATS"] == "1"
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    assert settings(CPU).environment(sockets="/tmp")["VLLM_NO_USAGE_STATS"] == "0"
