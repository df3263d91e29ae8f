"""What waits to be learnt from, in a checkpoint: exactly what it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from rl_llm.config import parse_recipe
from rl_llm.curriculum.draw_record import Draw
from rl_llm.errors import CheckpointError
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key
from rl_llm.trainer import HarvestReport, Identity, Pending
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.identity import check_identity
from rl_llm.trainer.pending import UnfinishedStep

CHAT = ({"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"})
COMPLETION = Completion(
    token_ids=(5, 7),
    logprobs=(-0.1, -1e-45),
    text="§ \n",
    finish_reason="length",
    policy_version=3,
)
SCORE = Score(total=1 / 3, parts={"r": 0.1}, correct=True, token_rewards=(0.1, -0.2))
FAILED = Score(
    total=0.0, parts={}, correct=False, error="boom", held_back=("r",), failures={"r": "timeout"}
)


def group_of(prompt, *scores, **columns):
    key = content_key(prompt, "")
    problem = Problem(key=key, prompt=prompt, answer="", source="s", **columns)
    group = Group(problem=problem, prompt_ids=(1, 2), completions=(COMPLETION,) * len(scores))
    return ScoredGroup(group=group, scores=scores)


# Of a group that was probed before, this step has scored the rest alone.
REST, WHOLE = group_of(CHAT, FAILED, level="hard"), group_of(CHAT, SCORE, FAILED, level="hard")
PLAIN = group_of("2+2", SCORE)
REPORT = HarvestReport(
    harvest=Harvest(
        scored=(REST, PLAIN),
        draws=(
            Draw(REST.group.problem.key, 0.1, 1 / 3, 0.7, "finish", 0),
            Draw(PLAIN.group.problem.key, 1e-300, 2.0, 0.0, "probe", 1),
        ),
        admitted=(WHOLE,),
        dropped=(PLAIN,),
        num_rounds=2,
        generate_s=0.1,
        score_s=1e-9,
    ),
    metrics={"curriculum/x": 1 / 3, "curriculum/nothing": None, "curriculum/list": [1, 2]},
    messages=("ä level", "two\nlines"),
)


def test_what_a_harvest_cannot_write_exactly_is_an_error(tmp_path):
    strange = replace(REPORT, metrics={"curriculum/x": Path("somewhere")})
    with pytest.raises(TypeError, match="PosixPath is not JSON serializable"):
        Pending(reports={4: strange}).save(tmp_path)


def test_samples_of_an_unfinished_step_hold_what_columns_hold(tmp_path):
    unfinished = UnfinishedStep(
        row={"step": 4}, samples=[{"column": Path("somewhere")}], why_ended="nothing to learn from"
    )
    loaded = saved_and_read(Pending(unfinished=unfinished), tmp_path)
    assert loaded.unfinished == replace(unfinished, samples=[{"column": "somewhere"}])


def saved_and_read(pending, folder):
    pending.save(folder)
    loaded = Pending()
    loaded.load(folder)
    return loaded


def test_everything_reads_back_equal(tmp_path):
    row = {"step": 4, "loss/policy": 0.1, "kl/ref_nats_per_token": float("inf")}
    unfinished = UnfinishedStep(row=row, samples=[{"text": "ß", "total": 0.1}])
    pending = Pending(reports={5: REPORT, 6: REPORT}, unfinished=unfinished)
    assert saved_and_read(pending, tmp_path) == pending


def test_columns_of_the_data_are_left_out_because_rewards_alone_ask_for_them(tmp_path):
    strange = group_of("2+2", SCORE, meta={"cannot be text": object()})
    harvest = Harvest(**{**vars(REPORT.harvest), "scored": (REST, strange), "dropped": (strange,)})
    report = HarvestReport(harvest=harvest, metrics={}, messages=())
    loaded = saved_and_read(Pending(reports={5: report}), tmp_path)
    assert loaded.reports[5].harvest.dropped == (PLAIN,)


def test_adapters_are_copied_into_the_checkpoint(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("w3")
    (tmp_path / "checkpoint").mkdir()
    loaded = saved_and_read(Pending(adapters={3: adapter}), tmp_path / "checkpoint")
    assert loaded.adapters == {3: tmp_path / "checkpoint" / "adapters" / "000003"}
    assert (loaded.adapters[3] / "weights").read_text() == "w3"


def test_nothing_is_written_where_nothing_is_pending(tmp_path):
    Pending().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_message(tmp_path):
    (tmp_path / "pending.json").write_text('{"harvests": [')
    with pytest.raises(CheckpointError, match=r"pending\.json cannot be read .*; delete "):
        Pending().load(tmp_path)
    (tmp_path / "pending.json").write_text(
        '{"harvests": [], "versions": [3], "unfinished": null}', encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"000003 is missing"):
        Pending().load(tmp_path)


def check_resume(tmp_path, saved, given):
    """Check whether a checkpoint of a recipe with these rollout settings takes others."""

    def recipe(steps, **rollout):
        tree = {
            "run": {"name": "a", "steps": steps},
            "model": {"path": "m"},
            "data": {"train": [{"use": "arithmetic"}]},
            "rewards": [{"use": "exact_answer"}],
            "rollout": rollout,
        }
        return parse_recipe(tree, where="test").model_dump()

    (saved_steps, saved_rollout), (given_steps, given_rollout) = saved, given
    state = {"recipe": recipe(saved_steps, **saved_rollout), "model_fingerprint": "f"}
    identity = Identity(recipe=recipe(given_steps, **given_rollout), model_fingerprint="f")
    check_identity(tmp_path, state, identity)


def test_a_run_that_generates_ahead_keeps_its_length(tmp_path):
    check_resume(tmp_path, (10, {}), (20, {}))
    with pytest.raises(
        CheckpointError,
        match=r"(?s)run\.steps: 10 in .*may not change here: with rollout\.max_staleness=1",
    ):
        check_resume(tmp_path, (10, {"max_staleness": 1}), (20, {"max_staleness": 1}))


def test_servers_may_have_moved_when_a_run_goes_on(tmp_path):
    def on(*urls, **settings):
        servers = {"urls": [f"http://{url}" for url in urls], **settings}
        return 10, {"engine": "vllm_server", "servers": servers}

    check_resume(tmp_path, on("a:8000", "b:8000"), on("c:8000", max_wait_s=5.0))
    with pytest.raises(CheckpointError, match=r"rollout.engine: 'vllm_server' in the checkpoint"):
        check_resume(tmp_path, on("a:8000"), (10, {"engine": "vllm"}))
