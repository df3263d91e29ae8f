"""`rl-llm data beliefs` on a checkpoint that holds what the command reads, and no weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_llm.cli.inputs import load_data
from rl_llm.cli.main import main
from rl_llm.cli.parts import make_scheduler
from rl_llm.config import dump_yaml, load_recipe
from rl_llm.curriculum import store
from rl_llm.curriculum.priors import evidence_for, read_priors
from rl_llm.policy import load_tokenizer
from rl_llm.records import Completion, Group, Score, ScoredGroup
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.trainer import checkpoint
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.manifest import seal
from rl_llm.trainer.pending import HarvestReport, Pending


def scored(request, num_correct):
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0
    )
    count = request.num_completions
    group = Group(problem=request.problem, prompt_ids=(0,), completions=(completion,) * count)
    scores = [Score(total=0.0, parts={}, correct=n < num_correct) for n in range(count)]
    return ScoredGroup(group=group, scores=tuple(scores))


@pytest.fixture
def run_dir(small):
    """A run with a checkpoint after step 2, of which step 1 solved everything and step 2 nothing;
    what it drew, and what it believes, as (scheduler, folder)."""
    recipe = load_recipe(small)
    encoder = PromptEncoder(load_tokenizer(recipe.model.path))
    scheduler = make_scheduler(recipe, load_data(recipe, encoder))
    for step, num_correct in ((1, 4), (2, 0)):
        groups = [scored(request, num_correct) for request in scheduler.plan(step)]
        scheduler.observe(groups, step=step)
    folder = small.parent / "runs" / "small"
    saved = folder / "checkpoints" / "step-000002"
    saved.mkdir(parents=True)
    rest = store.save(saved / "curriculum.parquet", scheduler.row_names, scheduler.state_dict())
    state = {"format": checkpoint.FORMAT, "counters": {"step": 2}, "curriculum": rest}
    (saved / "state.json").write_text(json.dumps(state))
    seal(saved)
    (folder / "resolved.yaml").write_text(dump_yaml(recipe))
    return scheduler, folder


def test_a_name_of_another_format_is_refused(run_dir, capsys):
    assert main(["data", "beliefs", str(run_dir[1]), "--out", "beliefs.json"]) == 2
    assert "is parquet; name it beliefs.parquet" in capsys.readouterr().err


def test_every_visited_problem_of_the_run_is_written_with_its_own_evidence(run_dir, capsys):
    scheduler, folder = run_dir
    assert main(["data", "beliefs", str(folder), "--out", "beliefs.parquet"]) == 0
    known = np.flatnonzero(scheduler.belief.has_evidence_N)
    assert capsys.readouterr().out == (
        f"beliefs after step 2: {len(known)} of 60 problems have evidence of their own\n"
        "written: beliefs.parquet\n"
    )
    table = pq.read_table("beliefs.parquet")
    correct, wrong = scheduler.belief.own_counts(known)
    np.testing.assert_allclose(table["num_correct"], correct, rtol=1e-6)
    np.testing.assert_allclose(table["num_counted"], correct + wrong, rtol=1e-6)
    np.testing.assert_array_equal(table["visits"].to_numpy(), scheduler.visits_N[known])
    assert table["key"].to_pylist() == [scheduler.problems[k].key for k in known]
    assert set(table["level"].to_pylist()) <= {"3", "5", "7"}
    assert set(table["step"].to_pylist()) == {2}


def test_the_step_is_that_of_the_last_completions_also_where_they_wait_to_be_learnt_from(
    run_dir, capsys
):
    saved = run_dir[1] / "checkpoints" / "step-000002"
    nothing = Harvest(
        scored=(), draws=(), admitted=(), dropped=(), num_rounds=1, generate_s=1.0, score_s=0.0
    )
    report = HarvestReport(harvest=nothing, metrics={}, messages=())
    Pending(reports={3: report, 4: report}).save(saved)
    seal(saved)
    assert main(["data", "beliefs", str(run_dir[1]), "--out", "beliefs.parquet"]) == 0
    assert capsys.readouterr().out.startswith("beliefs after step 4, drawn ahead of step 2: ")
    assert set(pq.read_table("beliefs.parquet")["step"].to_pylist()) == {4}


def test_what_was_written_is_a_prior_for_the_problems_of_the_run(run_dir):
    scheduler, folder = run_dir
    assert main(["data", "beliefs", str(folder), "--out", "beliefs.parquet"]) == 0
    evidence = evidence_for(scheduler.problems[::-1], read_priors("beliefs.parquet"), strength=100)
    correct_N, _ = scheduler.belief.own_counts(slice(None))
    own_N = np.where(scheduler.belief.has_evidence_N, correct_N, 0)
    assert 0 < evidence.num_known == np.count_nonzero(scheduler.belief.has_evidence_N) < 60
    np.testing.assert_allclose(evidence.correct_N, own_N[::-1], rtol=1e-6)


def test_the_weights_of_the_model_are_not_read(run_dir, repository):
    _, folder = run_dir
    model = folder.parent / "model"
    shutil.copytree(repository / "data" / "models" / "carry-adder", model)
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    resolved = folder / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("data/models/carry-adder", str(model)))
    assert main(["data", "beliefs", str(folder), "--out", "beliefs.parquet"]) == 0


def test_the_folder_of_the_file_is_made_and_a_folder_in_its_place_is_refused(run_dir, capsys):
    folder = run_dir[1]
    assert main(["data", "beliefs", str(folder), "--out", "new/beliefs.parquet"]) == 0
    assert pq.read_table("new/beliefs.parquet").num_rows > 0
    assert main(["data", "beliefs", str(folder), "--out", "new"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --out new is a folder; name a file, such as new/beliefs.parquet\n"


def test_beliefs_replace_beliefs_and_no_other_file(run_dir, capsys):
    folder = run_dir[1]
    for _ in range(2):
        assert main(["data", "beliefs", str(folder), "--out", "beliefs.parquet"]) == 0
    pq.write_table(pa.table({"key": ["k"], "pass_rate": [0.5]}), "measured.parquet")
    Path("broken.parquet").write_bytes(b"PAR1")
    for file in ("measured.parquet", "broken.parquet"):
        before = Path(file).read_bytes()
        assert main(["data", "beliefs", str(folder), "--out", file]) == 2
        said = f"--out {file} was not written by `rl-llm data beliefs`; name another file"
        assert said in capsys.readouterr().err
        assert Path(file).read_bytes() == before


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(run_dir, capsys, tmp_path):
    _, folder = run_dir
    assert main(["data", "beliefs", str(tmp_path), "--out", "b.parquet"]) == 2
    assert "is not a run's folder" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    assert main(["data", "beliefs", str(folder), "--out", "b.parquet"]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_checkpoint_that_the_run_replaces_while_it_is_read_gives_way_to_the_next(
    run_dir, capsys, monkeypatch
):
    _, folder = run_dir
    read_state = checkpoint.read_state

    def replaced(saved):
        if saved.name == "step-000002":
            shutil.copytree(saved, saved.with_name("step-000003"))
            shutil.rmtree(saved)
        return read_state(saved)

    monkeypatch.setattr(checkpoint, "read_state", replaced)
    assert main(["data", "beliefs", str(folder), "--out", "beliefs.parquet"]) == 0
    assert capsys.readouterr().out.startswith("beliefs after step 2: ")
