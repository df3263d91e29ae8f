"""A step of recipes/qwen2.5-1.5b/grpo-gsm8k.yaml on N GPUs, from measured parts and stated
assumptions; the equations stand in docs/distributed.md.

Legend: N GPUs, P problems a step, G completions of each.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parts.scaling.table import host_figures
from parts.shared.docs import BENCHMARKS, table

NUM_GPUS = (8, 64, 512)
EVERY_CHECKPOINT = 25  # steps, as checkpoint.every says
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The model and the recipe."""

    parameters: float = 1.54e9
    trained: float = 18.5e6  # lora.rank 16 on all linear layers
    group_size: int = 8
    prompt_tokens: int = 128
    response_tokens: int = 300  # the mean, an assumption
    longest: int = 512  # rollout.max_new_tokens


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What is assumed of a GPU and its network, because nothing of it was measured."""

    decode_s: float = 0.008  # a decoding step of up to `slots` sequences, vLLM
    slots: int = 256
    flops_per_s: float = 0.3 * 989e12  # an H100 in bfloat16, and the share of it that passes reach
    link_bytes_per_s: float = 25e9  # between machines, for each GPU


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on CPUs, in seconds."""

    host: Mapping[str, float]
    schedule_s: float  # planning, beliefs, metrics: 1,024 groups of 1,000,000 problems
    load_s_per_byte: float  # an adapter into vLLM


def model_markdown(rows: Iterable[Row]) -> str:
    """Return the table of steps; empty before the parts are measured."""
    host = host_figures(rows)
    if not host:
        return ""
    measured = Measured(host=host, **measured_elsewhere())
    names = ("generate", "learn", "host", "publish")
    lines = [
        "problems a step | GPUs | step, s | " + " | ".join(names) + " | GPUs at work | longest"
    ]
    for label, problems in (("64, the recipe's", 0), ("16 for each GPU", 16)):
        for num_gpus in NUM_GPUS:
            num_problems = problems * num_gpus or 64
            stages = step(num_gpus, num_problems, Work(), Gpu(), measured)
            total = sum(stages.values())
            cells = " | ".join(f"{stages[name]:.2f}" for name in names)
            busy = min(1.0, num_problems / num_gpus)
            share = (stages["generate"] + stages["learn"]) / total * busy
            longest = max(stages, key=lambda name: stages[name])
            lines.append(f"{label} | {num_gpus} | {total:.1f} | {cells} | {share:.0%} | {longest}")
    return table(lines)


def step(
    num_gpus: int, num_problems: int, work: Work, gpu: Gpu, measured: Measured
) -> dict[str, float]:
    """Return the seconds of each stage of a step."""
    host = measured.host
    completions = num_problems * work.group_size
    groups_here = math.ceil(num_problems / num_gpus)
    here = groups_here * work.group_size
    tokens_here = groups_here * work.prompt_tokens + here * work.response_tokens
    rounds = max(1.0, here * work.response_tokens / (gpu.slots * work.longest))
    adapter_bytes = 4 * work.trained
    share = (num_gpus - 1) / num_gpus
    # Frozen weights need no gradient: forward and backward are 2 FLOP a weight each, and so is the
    # reference's forward pass.
    passes_s = 6 * work.parameters * tokens_here / gpu.flops_per_s
    sums_s = 2 * share * adapter_bytes / gpu.link_bytes_per_s
    send_s = 1e-6 * (here * host["send_us"] + completions * host["receive_us"])
    wire_s = share * completions * host["sent_bytes"] / gpu.link_bytes_per_s
    own_s = 1e-6 * here * (host["score_us"] + host["pack_us"])
    whole_s = 1e-6 * (completions * host["learn_us"] + num_problems * host["rows_us"])
    write_s = adapter_bytes / (1e6 * host["write_mb_per_s"])
    return {
        "generate": rounds * work.longest * gpu.decode_s,
        "learn": passes_s + sums_s,
        "host": send_s + wire_s + own_s + whole_s + measured.schedule_s * num_problems / 1024,
        # The adapter is written and read every step; a checkpoint has its two moments as well.
        "publish": write_s * (1 + 3 / EVERY_CHECKPOINT) + adapter_bytes * measured.load_s_per_byte,
    }


def measured_elsewhere() -> dict[str, float]:
    """Return what other benchmarks found."""
    scale = json.loads((BENCHMARKS / "curriculum.json").read_text(encoding="utf-8"))["scale"]
    rollout = json.loads((BENCHMARKS / "rollout.json").read_text(encoding="utf-8"))["summary"]
    milliseconds = scale["plan_ms"] + scale["observe_ms"] + scale["metrics_ms"]
    smollm2_adapter_bytes = 4 * 4.88e6
    return {
        "schedule_s": milliseconds / 1e3,
        "load_s_per_byte": rollout["publish_s/smollm2/adapter"] / smollm2_adapter_bytes,
    }
