"""Updates of many kinds on as many ranks as there are: what test_zero_gradient.py launches."""

import copy
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from rl_llm.algorithms import grpo, ppo
from rl_llm.plugins import load_module
from rl_llm.policy import Ranks
from rl_llm.policy.sharded import assign, whole_values

engines = load_module(Path(__file__).with_name("engines.py"))
ALGORITHMS = {
    "grpo": grpo,
    "ppo": lambda: ppo(critic_warmup_steps=0),
    "ppo, the critic alone": lambda: ppo(critic_warmup_steps=1),
}


def run(folder, names=None):
    """Take one update of every case in `folder`, or of those named; a case is a mapping, see
    `one_update`."""
    base = LlamaForCausalLM.from_pretrained(folder / "model").requires_grad_(False).eval()
    cases = torch.load(folder / "cases.pt", weights_only=False)
    return {
        name: one_update(copy.deepcopy(base), **case)
        for name, case in cases.items()
        if names is None or name in names
    }


def one_update(base, groups, algorithm="ppo", kl=None, dtype="float32", offload=False, **optim):
    """Return the gradient before clipping, what came of the step, and the state behind it."""
    device = "cpu" if offload else "none"
    for what in ("OPTIMIZER", "PARAM"):
        os.environ[f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE"] = device
    engine = engines.engine_for(
        base.to(getattr(torch, dtype)),
        algorithm=ALGORITHMS[algorithm](),
        kl=kl,
        **{"tokens_per_micro_batch": 32, **optim},
    )
    if engine.critic is not None:  # A head of zeros lets no gradient through to the adapter.
        weight = engine.critic.head.weight
        assign([weight], [torch.full((1, 32), 0.1)])
    before = whole(engine)
    caught = {}
    backend = engine._backend
    clip = backend.clip

    def catching(groups, *, max_norm):
        # What is summed stands there until the step; nothing is clipped yet under DeepSpeed.
        norms = clip(groups, max_norm=max_norm)
        caught.update(gradient_of(engine))
        return norms

    backend.clip = catching
    facts = engines.update(engine, groups, beta=0.5, lr=1e-3)
    after = whole(engine)
    state = copy.deepcopy(engine.state_dict())
    return {
        "gradient": caught,
        "facts": asdict(facts),
        "dtypes": sorted({str(p.dtype) for p in trained(engine).values()}),
        "skipped": engine.num_skipped,
        "moved": {name: not torch.equal(before[name], after[name]) for name in before},
        "moments": state["optimizer"]["state"],
        "shares_everything": shares_everything(engine),
        "offloads": offloads(engine),
    }


def trained(engine):
    """Return the trained parameters by name."""
    found = {n: p for n, p in engine._model.named_parameters() if p.requires_grad}
    if engine.critic is not None:
        found |= {f"head.{n}": p for n, p in engine.critic.head.named_parameters()}
    return found


def whole(engine):
    found = trained(engine)
    return dict(zip(found, whole_values(found.values()), strict=True))


def gradient_of(engine):
    if engine._ranks.zero is None:
        found = trained(engine)
        return {name: p.grad.clone() for name, p in found.items() if p.grad is not None}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).clone() for name, p in trained(engine).items()}


def shares_everything(engine):
    """Say whether no parameter of the model lies whole on this rank."""
    return all(p.numel() == 0 for p in engine._model.parameters())


def offloads(engine):
    if engine._ranks.zero is None:
        return None
    deepspeed = engine._backend._engine
    wishes = [deepspeed.zero_offload_optimizer(), deepspeed.zero_offload_param()]
    return [wish and str(wish.device) for wish in wishes]


def share_all():
    """Have stage 3 share out small parameters too, which it keeps whole by default."""
    from rl_llm.policy import zero

    made = zero.deepspeed_config

    def config(*arguments, **options):
        found = made(*arguments, **options)
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return found

    zero.deepspeed_config = config


if __name__ == "__main__":
    ranks = Ranks()
    assert ranks.num_ranks == 2
    share_all()
    found = run(Path(sys.argv[1]))
    torch.save(found, Path(sys.argv[1]) / f"rank-{ranks.rank}.pt")
    ranks.wait()
    ranks.close()
