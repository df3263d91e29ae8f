"""A PPO update on two processes is the update on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl_llm.plugins import load_module
from rl_llm.policy.pack import balance

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("one_update.py")
MOVES = {"epochs": 2, "lr": 1e-3}


def launch(folder):
    """Run the program on two processes on CPUs, on one thread each."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'recipes' / 'accelerate' / 'cpu.yaml'}",
            "--main_process_port=0",
            *(str(PROGRAM), str(folder)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=False)


@pytest.fixture
def cases(tiny_llama, uneven_groups, tmp_path):
    """Write what the program reads into `tmp_path`, and return its cases."""
    cases = {
        "reward": (uneven_groups, {"placement": "reward"}, {}),
        "loss": (uneven_groups, {"placement": "loss"}, {}),
        "one rank has nothing": (uneven_groups[:1], {"placement": "reward"}, {}),
        "several updates": (uneven_groups, {}, {**MOVES, "updates_per_batch": 2}),
        # The rank without rows has no divergence of its own to stop by.
        "one rank alone has gone too far": (uneven_groups[:1], {"stop_at_old": 1e-9}, MOVES),
        # Short responses are kept, and long ones left out.
        "corrected": (uneven_groups, {}, {}, {"correction": {"name": "mis", "low": 0.02}}),
    }
    tiny_llama.save_pretrained(tmp_path / "model")
    torch.save(cases, tmp_path / "cases.pt")
    return cases


def of(gradient, part):
    """Return one part of a gradient as a vector: what is named after the critic, or the rest."""
    is_critic = {"critic": True, "policy": False}[part]
    picked = [
        value.flatten()
        for name, value in gradient.items()
        if (".critic." in name or name.startswith("head.")) is is_critic
    ]
    return torch.cat(picked)


def facts_of(found):
    """Return every number that the update reported, the critic's among them."""
    facts = {name: value for name, value in found["facts"].items() if value is not None}
    return facts | {f"critic.{name}": value for name, value in facts.pop("critic").items()}


@pytest.mark.slow
def test_policy_and_critic_get_from_two_ranks_what_one_gives_them_and_all_stop_alike(
    cases, tmp_path
):
    two, one = launch(tmp_path), load_module(PROGRAM).run(tmp_path)
    shares = {name: balance(case[0], 2) for name, case in cases.items()}
    assert [sum(g.num_tokens for g in share) for share in shares["reward"]] == [34, 32]
    assert list(map(len, shares["one rank has nothing"])) == [1, 0]
    for name, (_, _, optim, *_) in cases.items():
        # Behind a first update stand AdamW's moves, which enlarge the rounding of small gradients.
        tolerance = 1e-2 if optim else 1e-5
        ours, alone = two[name]["gradient"], one[name]["gradient"]
        assert ours.keys() == alone.keys() and len(alone) == 2 * 28 + 2
        for part in ("policy", "critic"):
            expected = of(alone, part)
            assert expected.norm() > 1e-3, (name, part)
            difference = (of(ours, part) - expected).norm()
            assert difference <= tolerance * expected.norm(), (name, part)
        close = pytest.approx(facts_of(one[name]), rel=max(tolerance, 1e-4), abs=1e-7, nan_ok=True)
        assert facts_of(two[name]) == close, name
    several = two["several updates"]["facts"]
    stopped = two["one rank alone has gone too far"]["facts"]
    # Two epochs of 46 tokens, and one of 13.
    assert (several["trained_tokens"], several["num_left_out"]) == (2 * 46, 0)
    assert (stopped["trained_tokens"], stopped["num_left_out"]) == (13, 1)
    corrected = two["corrected"]["facts"]
    assert 0 < corrected["corrected_share"] < 1 and 0 < corrected["effective_sample_share"] < 1


def test_the_compared_gradients_show_the_penalty_and_where_it_is_placed(cases, tmp_path):
    found = load_module(PROGRAM).run(tmp_path, ["reward", "loss"])
    one = {name: case["gradient"] for name, case in found.items()}
    for part in ("policy", "critic"):
        reward, loss = of(one["reward"], part), of(one["loss"], part)
        assert (reward - loss).norm() > 0.05 * loss.norm(), part
