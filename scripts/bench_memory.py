"""What PPO keeps in memory: a critic and a reference on adapters, against models of their own.

python scripts/bench_memory.py [--model FOLDER]

Every layout is built, takes one optimiser step on one short completion, and then every tensor of
its parameters and its AdamW state is counted once, in float32. Gradients and activations are left
out. Writes docs/benchmarks/ppo-memory.json and its table in docs/benchmarks.md.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parts.shared.checkout import ROOT
from parts.shared.docs import DOCUMENT, provenance, write_between
from rl_llm.algorithms import ppo
from rl_llm.config import KLSection, OptimSection, RolloutSection
from rl_llm.config.sections import LoraSection
from rl_llm.policy import PolicyEngine, Ranks, add_lora, load_base
from rl_llm.policy.pack import TrainGroup, TrainRow

RESULT = ROOT / "docs" / "benchmarks" / "ppo-memory.json"
SMOLLM2 = ROOT / ".cache" / "smollm2-135m-instruct"
MIB = 2**20
GROUP = TrainGroup(
    prompt_ids=(5, 6, 7),
    rows=(TrainRow(token_ids=(8, 9), engine_logprobs=(-1.0, -1.0), advantage=1.0),),
)
Row = dict[str, Any]


def main() -> int:
    """Measure every layout, and write rows and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=SMOLLM2, help="(default: %(default)s)")
    model = str(parser.parse_args().model)
    rows = [shared_base(model, mode="base"), shared_base(model, mode="snapshot")]
    rows += [separate_models(model, lora=True), separate_models(model, lora=False)]
    for row in rows:
        row["ratio"] = round(row["total_mib"] / rows[0]["total_mib"], 2)
    command = "python scripts/bench_memory.py"
    tree = {**provenance(command), "model": Path(model).name, "rows": rows}
    RESULT.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    write_between(DOCUMENT, "ppo-memory", markdown(tree))
    print(markdown(tree))
    return 0


def shared_base(model: str, *, mode: str) -> Row:
    """rl-llm's own engine: adapters for policy and critic, and the base as the reference or a third
    adapter."""
    reference: dict[str, Any] = {"mode": mode}
    reference |= {"refresh_every": 100} if mode == "snapshot" else {}
    engine = PolicyEngine(
        add_lora(load_base(model, dtype="float32"), LoraSection(), seed=1),
        algorithm=ppo(critic_warmup_steps=0),
        optim=OptimSection(),
        kl=KLSection.model_validate({"reference": reference}),
        rollout=RolloutSection(),
        pad_id=0,
        ranks=Ranks(),
        seed=1,
    )
    engine.update(
        [GROUP], step=1, beta=0.1, lr=1e-4, with_reference=True, rng=np.random.default_rng(0)
    )
    assert engine.critic is not None
    parameters = [*engine.parameters(), *engine.critic.parameters()]
    kept = "the base" if mode == "base" else "a third adapter"
    name = f"one base: adapters for policy and critic, reference is {kept}"
    return row_of(name, parameters, engine.state_dict()["optimizer"]["state"])


def separate_models(model: str, *, lora: bool) -> Row:
    """Three models: a policy and a critic that are trained, and a frozen reference."""
    policy, critic, reference = (load_base(model, dtype="float32") for _ in range(3))
    head = nn.Linear(critic.get_input_embeddings().weight.shape[1], 1)
    if lora:
        policy, critic = (add_lora(each, LoraSection(), seed=1) for each in (policy, critic))
    else:
        policy.requires_grad_(True)
        critic.requires_grad_(True)
    parameters = [*policy.parameters(), *critic.parameters(), *head.parameters()]
    trained = [each for each in parameters if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.tensor([[*GROUP.prompt_ids, *GROUP.rows[0].token_ids]])
    hidden = critic(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    loss = policy(input_ids=ids).logits.logsumexp(-1).mean() + head(hidden).square().mean()
    loss.backward()
    optimizer.step()
    name = "three models: " + ("adapters for policy and critic" if lora else "all weights trained")
    return row_of(name, [*parameters, *reference.parameters()], optimizer.state_dict()["state"])


def row_of(
    name: str, parameters: Iterable[Tensor], state: Mapping[int, Mapping[str, Tensor]]
) -> Row:
    """Count what lies in memory, tied and shared tensors once."""
    moments = [tensor for each in state.values() for tensor in each.values()]
    parameters_mib, optimiser_mib = mebibytes(parameters), mebibytes(moments)
    return {
        "layout": name,
        "parameters_mib": round(parameters_mib, 1),
        "optimiser_mib": round(optimiser_mib, 1),
        "total_mib": round(parameters_mib + optimiser_mib, 1),
    }


def mebibytes(tensors: Iterable[Tensor]) -> float:
    """Return the size of the storages behind tensors, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values()) / MIB


def markdown(tree: Mapping[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"{tree['model']}, float32, LoRA rank 16 on all linear layers; `{tree['command']}`",
        "",
        "| layout | parameters, MiB | AdamW state, MiB | together | of the first |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['layout']} | {row['parameters_mib']:,.0f} | {row['optimiser_mib']:,.0f} | "
        f"{row['total_mib']:,.0f} | {row['ratio']:.2f} |"
        for row in tree["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
