"""How vLLM is started: what a recipe says of it, in vLLM's own words."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rl_llm.config.rollout import VllmSection
from rl_llm.errors import ConfigError

CPU_BLOCK_TOKENS = 32
"""Tokens of a block of the key-value cache on a CPU, the fewest that its attention takes: a group
shares the whole blocks of its prompt."""

WORKER = "rl_llm.rollout.vllm_worker.WorkerExtension"

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of an adapter."""


def least_lora_rank(rank: int) -> int | None:
    """Return the least of `LORA_RANKS` that adapters of `rank` fit into; None for too large a
    rank."""
    return next((allowed for allowed in LORA_RANKS if allowed >= rank), None)


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """What vLLM is started with.

    `location` is a folder or a hub name. `max_model_len` bounds a prompt with its completion, in
    tokens, `max_batch_rows` the completions generated at once.
    """

    location: str
    dtype: str
    device: torch.device
    section: VllmSection
    max_model_len: int
    max_batch_rows: int
    lora_rank: int
    seed: int

    @property
    def on_gpu(self) -> bool:
        """Whether vLLM runs on a GPU."""
        return self.device.type == "cuda"

    @property
    def publish(self) -> Literal["adapter", "merged"]:
        """How new weights reach vLLM."""
        return self.section.publish or ("adapter" if self.on_gpu else "merged")

    @property
    def sleeps(self) -> bool:
        """Whether vLLM gives its memory back between calls."""
        return self.on_gpu and self.section.sleep

    def environment(self, *, sockets: str) -> dict[str, str]:
        """Return what vLLM's processes see beside the user's own environment, which wins; their
        sockets are in the folder `sockets`."""
        wanted = {
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_RPC_BASE_PATH": sockets,
        }
        found = {name: os.environ.get(name, value) for name, value in wanted.items()}
        if self.on_gpu and self.section.tensor_parallel_size == 1:
            index = self.device.index or 0
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            found["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index] if visible else str(index)
        return found

    def options(self) -> dict[str, Any]:
        """Return the arguments of `vllm.LLM`."""
        section, on_gpu = self.section, self.on_gpu
        compiles = on_gpu if section.compile is None else section.compile
        options = {
            "model": self.location,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "dtype": self.dtype,
            "seed": self.seed % 2**31,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_batch_rows,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "enforce_eager": not compiles,
            "disable_log_stats": True,
            "worker_extension_cls": WORKER,
        }
        if on_gpu:
            options["gpu_memory_utilization"] = section.memory_fraction
            options["tensor_parallel_size"] = section.tensor_parallel_size
            options["enable_sleep_mode"] = self.sleeps
        else:
            options["kv_cache_memory_bytes"] = int(section.kv_cache_gib * 2**30)
            options["block_size"] = CPU_BLOCK_TOKENS
            # Behind a part of a prompt vLLM takes a seeded draw back, which a CPU cannot.
            options["enable_chunked_prefill"] = False
        if self.max_batch_rows > 2048:
            most = max(8192, self.max_batch_rows, self.max_model_len)
            options["max_num_batched_tokens"] = most
        if self.publish == "adapter":
            rank = least_lora_rank(self.lora_rank)
            if rank is None:
                raise ConfigError(
                    f"lora.rank={self.lora_rank} is more than the {LORA_RANKS[-1]} that vLLM "
                    "takes as an adapter; use fewer, or rollout.vllm.publish=merged"
                )
            options |= {
                "enable_lora": True,
                "max_lora_rank": rank,
                "max_loras": 1,
                "max_cpu_loras": 2,
            }
        return options
