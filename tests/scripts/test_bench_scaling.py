"""The scaling benchmark: arms that differ are refused, and the model of a step is its equations."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST = {"tokens": 100, "trained_tokens": 80, "pass_rate": 0.5, "grad_norm": 1.0}
HOST = {
    "send_us": 1000.0,
    "sent_bytes": 1e6,
    "receive_us": 2000.0,
    "rows_us": 0.0,
    "score_us": 3000.0,
    "learn_us": 4000.0,
    "pack_us": 1000.0,
    "write_mb_per_s": 4.0,
}


@pytest.fixture(scope="module")
def scaling():
    """Return the modules of the tables, of the model, and of how a part is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        names = ("parts.scaling.table", "parts.scaling.model", "parts.shared.checkout")
        yield tuple(importlib.import_module(name) for name in names)


def _row(arm, **first):
    return {
        "part": "processes",
        "work": "w",
        "arm": arm,
        "repeat": 0,
        "first": {**FIRST, **first},
        "ranks": [],
    }


def test_arms_that_drew_other_tokens_are_refused(scaling):
    tables, *_ = scaling
    tables.check_same_work([_row("a"), _row("b", grad_norm=1.0005, tokens=101)])
    with pytest.raises(Exception, match=r"the first step of 'b' was .*'tokens': 103"):
        tables.check_same_work([_row("a"), _row("b", tokens=103)])
    with pytest.raises(Exception, match=r"'trained_tokens': 81"):
        tables.check_same_work([_row("a"), _row("b", trained_tokens=81)])


def test_arms_with_another_gradient_are_refused(scaling):
    tables, *_ = scaling
    with pytest.raises(Exception, match="do not do the same work"):
        tables.check_same_work([_row("a"), _row("b", grad_norm=1.01)])


def test_the_share_in_collectives_is_the_mean_over_ranks(scaling):
    tables, *_ = scaling
    step = {"step_s": 2.0, "generate_s": 1.0, "update_s": 0.5, "publish_s": 0.1, "call_s": 2.0}
    ranks = [[{**step, "collective_s": 0.2}], [{**step, "collective_s": 0.6}]]
    figures = tables.arm_figures([{"ranks": ranks}])
    assert figures["collective_share"] == pytest.approx(0.2)
    assert figures["step_s"] == 2.0


def test_a_modelled_step_is_worked_out_by_hand(scaling):
    _, model, _ = scaling
    work = model.Work(
        parameters=10.0,
        trained=1e6,
        group_size=2,
        prompt_tokens=4,
        response_tokens=3,
        longest=5,
    )
    gpu = model.Gpu(decode_s=0.1, slots=2, flops_per_s=60.0, link_bytes_per_s=8e6)
    measured = model.Measured(host=HOST, schedule_s=1.024, load_s_per_byte=1e-7)
    stages = model.step(2, 4, work, gpu, measured)
    # Two problems a GPU: 4 completions of 3 tokens on 2 slots of 5 tokens, 1.2 rounds of .5 s.
    assert stages["generate"] == pytest.approx(0.6)
    # 2 * 4 prompt and 4 * 3 response tokens, 6 FLOP each for 10 weights; 4 MB there and back.
    assert stages["learn"] == pytest.approx(20 * 60 / 60 + 2 * 0.5 * 4e6 / 8e6)
    # 4 sent, 8 received; half of 8 MB on the wire; 4 scored and packed; 8 learnt from; 4 planned.
    assert stages["host"] == pytest.approx(0.004 + 0.016 + 0.5 + 0.016 + 0.032 + 0.004)
    # 4 MB written in a second, a checkpoint's three times that every 25 steps, and loaded.
    assert stages["publish"] == pytest.approx(1 + 3 / 25 + 0.4)


@pytest.mark.slow
def test_a_process_reports_its_steps_and_waits_in_no_collective_alone(scaling, tmp_path):
    *_, checkout = scaling
    task = {
        "recipe": "recipes/quickstart.yaml",
        "warm_up": 0,
        "steps": 1,
        "threads": 1,
        "settings": {
            "rollout.problems_per_step": 2,
            "rollout.group_size": 2,
            "rollout.max_new_tokens": 8,
            "run.output_dir": str(tmp_path),
        },
    }
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    words = [str(tmp_path / "task.json"), str(tmp_path / "out")]
    command = [*checkout.program("parts.scaling.child"), *words]
    subprocess.run(command, check=True, env=checkout.environment(), capture_output=True)
    [step] = json.loads((tmp_path / "out-0.json").read_text(encoding="utf-8"))["steps"]
    assert step["collective_s"] == 0.0
    assert 0 < step["update_s"] < step["step_s"] < step["call_s"]
