"""PPO on one batch, on as many ranks as there are: the program that test_two_ranks.py launches."""

import copy
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from rl_llm.algorithms import ppo
from rl_llm.plugins import load_module
from rl_llm.policy import Ranks

engines = load_module(Path(__file__).with_name("engines.py"))


def run(folder, names=None):
    """Learn from every case in `folder`, or from those named; return of each the facts and the
    gradient of its last update.

    A case is `(groups, settings of the kl section, settings of the optim section)`, behind them
    those of the rollout section if there are any; `lr` is among those of optim where the weights
    are to move.
    """
    base = LlamaForCausalLM.from_pretrained(folder / "model").requires_grad_(False).eval()
    cases = torch.load(folder / "cases.pt", weights_only=False)
    return {
        name: one_update(copy.deepcopy(base), *case)
        for name, case in cases.items()
        if names is None or name in names
    }


def one_update(base, groups, kl, optim, rollout=None):
    engine = engines.engine_for(
        base,
        algorithm=ppo(critic_warmup_steps=0),
        kl=kl,
        rollout=rollout,
        tokens_per_micro_batch=32,
        **optim,
    )
    # A head of zeros lets no gradient through to the critic's adapter.
    torch.nn.init.constant_(engine.critic.head.weight, 0.1)
    parameters = {n: p for n, p in engine._model.named_parameters() if p.requires_grad}
    parameters |= {f"head.{n}": p for n, p in engine.critic.head.named_parameters()}
    caught = {}

    def catch(*_):
        caught.update({n: p.grad.clone() for n, p in parameters.items()})
        return torch.tensor(1.0)

    clip, torch.nn.utils.clip_grad_norm_ = torch.nn.utils.clip_grad_norm_, catch
    try:
        facts = engines.update(engine, groups, beta=0.5, lr=optim.get("lr", 0.0))
    finally:
        torch.nn.utils.clip_grad_norm_ = clip
    return {"gradient": caught, "facts": asdict(facts)}


if __name__ == "__main__":
    ranks = Ranks()
    assert ranks.num_ranks == 2
    found = run(Path(sys.argv[1]))
    if ranks.is_main:
        torch.save(found, Path(sys.argv[1]) / "found.pt")
    ranks.close()
