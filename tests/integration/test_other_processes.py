"""A checkpoint goes on with another number of processes: curriculum and KL exactly as they were."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

STEPS = ["run.steps=3", "eval.every=3", "checkpoint.every=2"]


@pytest.fixture
def train(python, repository, write_small):
    """Run the small recipe in a folder on so many processes."""

    def run(folder, num_processes):
        write_small(folder)
        done = python(
            *("-m", "accelerate.commands.launch"),
            f"--config_file={repository / 'recipes' / 'accelerate' / 'cpu.yaml'}",
            *(f"--num_processes={num_processes}", "--main_process_port=0"),
            *(repository / "scripts" / "train.py", "small.yaml", *STEPS),
            folder=folder,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def drawn(run, step):
    """Return the draws of a step, with all that was believed and decided before them."""
    lines = (run / "draws.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] == step]
    return [(row["key"], row["belief"], row["informative"], row["why"]) for row in rows]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_the_next_step_draws_the_same_problems_under_the_same_beliefs_and_beta(
    train, tmp_path, read_metrics, before, after
):
    whole = tmp_path / "whole" / "runs" / "small"
    train(tmp_path / "whole", before)
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    moved = tmp_path / "moved" / "runs" / "small"
    shutil.rmtree(moved / "checkpoints" / "step-000003")
    printed = train(tmp_path / "moved", after).stdout
    assert "resuming runs/small/checkpoints/step-000002, after step 2 of 3" in printed
    assert f"processes: {after}" in (moved / "resolved.yaml").read_text(encoding="utf-8")
    assert len(drawn(whole, 3)) >= 4
    # Refills depend on what was completed, which is the same: completions have their own streams.
    assert drawn(moved, 3) == drawn(whole, 3)
    row, row_whole = read_metrics(moved)[3], read_metrics(whole)[3]
    exact = ["kl/beta", "rollout/completions", "rollout/tokens", "train/pass_rate"]
    exact += ["curriculum/belief_histogram"]
    assert [row[key] for key in exact] == [row_whole[key] for key in exact]
    last, last_whole = (run / "checkpoints" / "step-000003" for run in (moved, whole))
    tables = [pq.read_table(path / "curriculum.parquet") for path in (last, last_whole)]
    assert tables[0].equals(tables[1])
    state, state_whole = (
        json.loads((path / "state.json").read_text()) for path in (last, last_whole)
    )
    assert state["curriculum"] == state_whole["curriculum"]
    assert state["counters"] == state_whole["counters"]
