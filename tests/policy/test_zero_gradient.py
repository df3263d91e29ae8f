"""An update on two ranks, plain or under ZeRO, is the update on one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rl_llm.plugins import load_module
from rl_llm.policy.pack import TrainGroup, balance

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("zero_update.py")
UNCLIPPED = {"grad_clip": 1e9}
GRADIENTS = [
    *(f"{name}, {how}" for name in ("grpo", "ppo") for how in ("uneven", "one rank empty")),
    "ppo, one rank has rows of one token",
    "ppo, layers run again",
    "ppo, offloaded",
]

pytestmark = pytest.mark.slow


def launch(folder, file):
    """Run the program on two processes on CPUs, on one thread each; return what each found."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            f"--config_file={ROOT / 'recipes' / 'accelerate' / f'{file}.yaml'}",
            *("--num_processes=2", "--num_machines=1", "--main_process_port=0"),
            *(str(PROGRAM), str(folder)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def poisoned(groups):
    """Return groups of which one has a row whose advantage is not a number."""
    first, *others = groups
    row = replace(first.rows[0], advantage=float("nan"))
    return [TrainGroup(prompt_ids=first.prompt_ids, rows=(row, *first.rows[1:])), *others]


@pytest.fixture(scope="module", params=["cpu", "zero2", "zero3"])
def file(request):
    """The file in recipes/accelerate that processes are launched with."""
    return request.param


@pytest.fixture(scope="module")
def results(file, groups, model, tmp_path_factory):
    """Every case on two ranks, on rank 0 and on rank 1, and on one rank without DeepSpeed."""
    folder = tmp_path_factory.mktemp(file)
    moves = {"epochs": 2, "kl": {"reference": {"mode": "ema"}}}
    cases = {
        "one rank has rows of one token": {"groups": groups["one token"]},
        "layers run again": {"groups": groups["uneven"], "gradient_checkpointing": True},
        "offloaded": {"groups": groups["uneven"], "offload": True},
        "uneven": {"groups": groups["uneven"]},
        "one rank empty": {"groups": groups["uneven"][:1]},
    }
    cases = {f"ppo, {name}": {**case, **UNCLIPPED} for name, case in cases.items()} | {
        f"grpo, {name}": {**cases[name], "algorithm": "grpo", **UNCLIPPED}
        for name in ("uneven", "one rank empty")
    }
    cases["clipped"] = {"groups": groups["uneven"], "grad_clip": 0.01}
    cases["poisoned"] = {"groups": poisoned(groups["uneven"])}
    cases["critic alone"] = {"groups": groups["uneven"], "algorithm": "ppo, the critic alone"}
    cases["two epochs"] = {"groups": groups["uneven"], **moves}
    cases["too far"] = {"groups": groups["uneven"][:1], "epochs": 2, "kl": {"stop_at_old": 1e-9}}
    cases["bf16"] = {"groups": groups["uneven"], "dtype": "bfloat16", **UNCLIPPED}
    model.save_pretrained(folder / "model")
    torch.save(cases, folder / "cases.pt")
    return [*launch(folder, file), load_module(PROGRAM).run(folder)]


def vector(tensors, *, of_critic):
    """Return one part of a gradient: what is named after the critic, or the rest."""
    return torch.cat(
        [
            value.flatten().double()
            for name, value in tensors.items()
            if (".critic." in name or name.startswith("head.")) is of_critic
        ]
    )


def apart(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def moments(found, key):
    return torch.cat([found["moments"][i][key].flatten() for i in sorted(found["moments"])])


def test_the_shares_are_uneven_and_everything_is_shared_out(results, groups, file):
    tokens = [sum(g.num_tokens for g in share) for share in balance(groups["uneven"], 2)]
    assert tokens == [34, 32]
    widths = [
        {len(row.token_ids) for group in share for row in group.rows}
        for share in balance(groups["one token"], 2)
    ]
    assert widths == [{1}, {3, 9}]
    assert results[0]["ppo, uneven"]["shares_everything"] is (file == "zero3")


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_before_clipping_is_that_of_one_rank(results, name):
    first, second, alone = (found[name]["gradient"] for found in results)
    assert first.keys() == alone.keys()
    for of_critic in (False, True) if name.startswith("ppo") else (False,):
        expected = vector(alone, of_critic=of_critic)
        assert expected.norm() > 1e-3
        assert apart(vector(first, of_critic=of_critic), expected) <= 1e-5
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["ppo, uneven", "two epochs", "too far", "critic alone"])
def test_every_rank_reports_the_numbers_of_one_rank(results, name):
    first, second, alone = (found[name]["facts"] for found in results)
    assert repr(first) == repr(second)
    assert first.pop("critic") == pytest.approx(alone.pop("critic"), rel=1e-2, nan_ok=True)
    given = {key: value for key, value in alone.items() if value is not None}
    assert {key: first[key] for key in given} == pytest.approx(
        given, rel=1e-2, abs=1e-7, nan_ok=True
    )


def test_policy_and_critic_are_clipped_apart(results):
    """AdamW's first moment is a tenth of the clipped gradient: .001 long for each of the two."""
    ours, _, alone = (found["clipped"] for found in results)
    assert ours["facts"]["grad_norm"] > 0.01 < ours["facts"]["critic"]["grad_norm"]
    found = moments(ours, "exp_avg")
    assert float(found.norm()) == pytest.approx(0.001 * 2**0.5, rel=1e-3)
    assert apart(found, moments(alone, "exp_avg")) <= 1e-4
    assert apart(moments(ours, "exp_avg_sq"), moments(alone, "exp_avg_sq")) <= 1e-4


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_both(results):
    for found in results:
        assert found["poisoned"]["skipped"] == 1
        assert not any(found["poisoned"]["moved"].values())
        assert not found["poisoned"]["moments"]


def test_a_policy_that_waits_for_its_critic_stays_to_the_bit(results):
    for found in results:
        moved = {name for name, moved in found["critic alone"]["moved"].items() if moved}
        # The first step of an adapter moves its B alone: A's gradient is 0 while B is.
        assert len(moved) == 14 + 2
        assert all("lora_B.critic." in name or name.startswith("head.") for name in moved)
        # 2 x 28 matrices, a weight and a bias: the moments are those of the critic.
        assert sorted(found["critic alone"]["moments"]) == list(range(28, 58))


def test_an_update_that_went_too_far_is_dropped_on_both(results):
    for found in results:
        facts = found["too far"]["facts"]
        assert (facts["trained_tokens"], facts["num_left_out"]) == (13, 1)
        assert float(found["too far"]["moments"][0]["step"]) == 1


def test_offloading_reaches_deepspeed(results, file):
    expected = {"cpu": None, "zero2": ["cpu", None], "zero3": ["cpu", "cpu"]}
    assert results[0]["ppo, offloaded"]["offloads"] == expected[file]


def test_bf16_trains_in_bf16_with_steps_in_float32(results, file):
    ours, _, alone = (found["bf16"] for found in results)
    assert ours["dtypes"] == ["torch.bfloat16" if file == "zero3" else "torch.float32"]
    assert {moment["exp_avg"].dtype for moment in ours["moments"].values()} == {torch.float32}
    exact = vector(results[2]["ppo, uneven"]["gradient"], of_critic=False)
    given = vector(ours["gradient"], of_critic=False)
    assert 1e-3 < apart(given, exact) < 0.1
    assert apart(given, vector(alone["gradient"], of_critic=False)) < (
        0.1 if file == "zero3" else 1e-2
    )
