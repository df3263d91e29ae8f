"""What a process holds of memory while it trains, beside what `rl-llm validate` estimates.

python scripts/measure_memory.py [--model FOLDER] [--dtype bfloat16] [--checkpointing]
accelerate launch --config_file recipes/accelerate/zero3.yaml --num_processes 2 --num_machines 1 \
  scripts/measure_memory.py

On CPUs. Takes updates on groups of random tokens, of equal lengths. In the second, torch's profiler
adds up what is allocated and freed: its highest sum is that of a micro-batch's passes. In the
third, as gradients are summed and no pass is under way, every tensor that is alive is counted once.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from rl_llm.algorithms import grpo
from rl_llm.cli.estimate import Counts, trainer_bytes
from rl_llm.cli.launch import launch_of
from rl_llm.config import KLSection, OptimSection, RolloutSection
from rl_llm.config.sections import LoraSection
from rl_llm.policy import PolicyEngine, Ranks, add_lora, load_base
from rl_llm.policy.imagined import (
    Passes,
    Shape,
    activation_bytes,
    imagine,
    load_config,
    shares_prompts,
)
from rl_llm.policy.pack import TrainGroup, TrainRow

SHIPPED = Path(__file__).parents[1] / "data" / "models" / "carry-adder"
MIB = 2**20


def main() -> int:
    """Measure, estimate, and print one line for each process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=str(SHIPPED), help="(default: %(default)s)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--shape", type=int, nargs=4, default=[2, 8, 32, 96], metavar="N")
    args = parser.parse_args()
    ranks = Ranks()
    prompts, rows, prompt_tokens, response_tokens = args.shape
    shape = Shape(
        num_prompts=prompts,
        rows_per_prompt=rows,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        shares_prompts=shares_prompts(load_config(args.model), recomputes=args.checkpointing),
    )
    engine, config = build(args, shape, ranks)
    groups = random_groups(shape, prompts * ranks.num_ranks)
    update(engine, groups, step=1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        update(engine, groups, step=2)
    standing, passing = alive_in_step(engine, groups, step=3), highest(profiled)
    foreseen = estimated(args, config, shape, ranks)
    for rank in range(ranks.num_ranks):
        ranks.wait()
        if rank == ranks.rank:
            print(
                f"process {rank}: standing {standing / MIB:.1f} MiB, estimated "
                f"{foreseen[0] / MIB:.1f}; passing {passing / MIB:.1f} MiB, estimated "
                f"{foreseen[1] / MIB:.1f}",
                flush=True,
            )
    ranks.close()
    return 0


def build(args: argparse.Namespace, shape: Shape, ranks: Ranks) -> tuple[PolicyEngine, Any]:
    """Build what trains, with room for the whole shape in one micro-batch."""
    base = load_base(args.model, dtype=args.dtype)
    engine = PolicyEngine(
        add_lora(base, LoraSection(), seed=1),
        algorithm=grpo(),
        optim=OptimSection(
            tokens_per_micro_batch=shape.num_positions, gradient_checkpointing=args.checkpointing
        ),
        kl=KLSection(),
        rollout=RolloutSection(max_new_tokens=shape.response_tokens),
        pad_id=0,
        ranks=ranks,
        seed=1,
    )
    return engine, base.config


def random_groups(shape: Shape, num_groups: int) -> list[TrainGroup]:
    """Return groups that all have something to teach; one token less in the first of them leaves
    padding, as there mostly is."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(2, 19, count).tolist())

    def row(number: int) -> TrainRow:
        ids = tokens(shape.response_tokens)
        return TrainRow(
            token_ids=ids, engine_logprobs=(-1.0,) * len(ids), advantage=number % 2 - 0.5
        )

    return [
        TrainGroup(
            prompt_ids=tokens(shape.prompt_tokens - (g == 0)),
            rows=tuple(row(number) for number in range(shape.rows_per_prompt)),
        )
        for g in range(num_groups)
    ]


def update(engine: PolicyEngine, groups: list[TrainGroup], *, step: int) -> None:
    """Take one optimiser step."""
    rng = np.random.default_rng(0)
    engine.update(groups, step=step, beta=0.0, lr=1e-4, with_reference=False, rng=rng)


def alive_in_step(engine: PolicyEngine, groups: list[TrainGroup], *, step: int) -> int:
    """Return what is alive in an update between its passes and its step."""
    backend: Any = engine._backend
    clip, found = backend.clip, [0]

    def clip_and_count(*numbers: Any, **options: Any) -> Any:
        norms = clip(*numbers, **options)
        found[0] = alive()
        return norms

    backend.clip = clip_and_count
    update(engine, groups, step=step)
    return found[0]


def alive() -> int:
    """Return the bytes of all tensors, those that share memory counted once."""
    gc.collect()
    # Some objects of torch.distributed warn when isinstance asks them.
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    found += [each.ds_tensor for each in found if hasattr(each, "ds_tensor")]
    found += [each.grad for each in found if each.is_leaf and each.grad is not None]
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values()
    )


def highest(profiled: profile) -> int:
    """Return the highest sum of what was allocated and freed while profiling."""
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def estimated(args: argparse.Namespace, config: Any, shape: Shape, ranks: Ranks) -> tuple[int, int]:
    """Return what stands and what passes, as `rl-llm validate` would say it."""
    launch = launch_of(ranks)
    model = imagine(config, LoraSection(), dtype=args.dtype, casts_adapter=launch.stage == 3)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    counts = Counts(base=sum(frozen), adapter=sum(trained), critic=0, reference=0)
    trainer = trainer_bytes(counts, launch, width=4 if args.dtype == "float32" else 2)
    passing = activation_bytes(model, shape, Passes(recomputes=args.checkpointing))
    assert passing is not None
    return trainer.total, passing


if __name__ == "__main__":
    raise SystemExit(main())
