"""Which recipe and model a checkpoint may be resumed with."""

import copy
import json

import pytest

from rl_llm.config import parse_recipe
from rl_llm.errors import CheckpointError
from rl_llm.trainer import RunFolder
from rl_llm.trainer.checkpoint import (
    FORMAT,
    Identity,
    check_identity,
    list_checkpoints,
    read_state,
)

RECIPE = {
    "run": {"name": "a", "steps": 10},
    "model": {"path": "m"},
    "data": {"train": [{"use": "arithmetic", "levels": [1, 2]}]},
    "rewards": [{"use": "exact_answer"}],
}


def identity(fingerprint="f00d", **changes):
    tree = copy.deepcopy(RECIPE)
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    recipe = parse_recipe(tree, where="test").model_dump()
    return Identity(recipe=recipe, model_fingerprint=fingerprint)


def check(tmp_path, saved, given):
    state = {"recipe": saved.recipe, "model_fingerprint": saved.model_fingerprint}
    check_identity(tmp_path, json.loads(json.dumps(state)), given)


def test_the_same_recipe_is_accepted(tmp_path):
    check(tmp_path, identity(), identity())


def test_name_folder_and_tracking_may_differ(tmp_path):
    tree = identity(run={"name": "b", "output_dir": "elsewhere"})
    tree.recipe["tracking"] = ["jsonl", "tensorboard"]
    check(tmp_path, identity(), tree)


def test_steps_may_differ_where_nothing_is_scheduled_over_them(tmp_path):
    check(tmp_path, identity(), identity(run={"steps": 20}))


@pytest.mark.parametrize(
    "scheduled",
    [
        {"optim": {"schedule": "cosine"}},
        {"kl": {"controller": {"name": "grpo_d"}}},
        {"curriculum": {"probe": {"completions": 4}}},
    ],
)
def test_steps_may_not_differ_where_something_is(tmp_path, scheduled):
    with pytest.raises(CheckpointError, match=r"run.steps: 10 in the checkpoint, 20 in the recipe"):
        check(tmp_path, identity(**scheduled), identity(run={"steps": 20}, **scheduled))


def test_every_other_difference_is_shown(tmp_path):
    with pytest.raises(CheckpointError) as error:
        check(
            tmp_path,
            identity(),
            identity(optim={"lr": 0.5}, data={"train": [{"use": "arithmetic", "levels": [1, 3]}]}),
        )
    assert "optim.lr: 0.0001 in the checkpoint, 0.5 in the recipe" in str(error.value)
    assert "data.train.0.levels.1: 2 in the checkpoint, 3 in the recipe" in str(error.value)


def test_another_model_under_the_same_path_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="another model"):
        check(tmp_path, identity("f00d"), identity("beef"))


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    (tmp_path / "step-000001").mkdir()
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_state(tmp_path / "step-000001")


def test_another_format_is_refused(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"format": FORMAT + 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="format"):
        read_state(tmp_path)


def test_auto_finds_the_newest_and_never_refuses_a_folder_with_a_run(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.find_checkpoint("auto") is None
    assert folder.find_checkpoint("never") is None
    for step in (10, 9):
        checkpoint = folder.checkpoints / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text("{}", encoding="utf-8")
    assert folder.find_checkpoint("auto") == folder.checkpoints / "step-000010"
    folder.metrics.write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="holds a run already"):
        folder.find_checkpoint("never")


def test_a_checkpoint_of_another_run_is_gone_on_from_in_a_folder_of_its_own_alone(tmp_path):
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    for folder in (first, second):
        checkpoint = folder.checkpoints / "step-000002"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text("{}", encoding="utf-8")
    theirs, own = str(first.path), str(second.path)
    assert second.find_checkpoint(theirs) == first.checkpoints / "step-000002"
    second.metrics.write_text('{"step": 0}\n', encoding="utf-8")
    for path in (theirs, f"{theirs}/checkpoints/step-000002"):
        with pytest.raises(CheckpointError, match="is of another run"):
            second.find_checkpoint(path)
    assert second.find_checkpoint(own) == second.checkpoints / "step-000002"
