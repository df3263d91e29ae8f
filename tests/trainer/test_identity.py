"""Which recipe and model a checkpoint may be resumed with."""

import copy
import json

import pytest

from rl_llm.config import parse_recipe
from rl_llm.errors import CheckpointError
from rl_llm.trainer.identity import Identity, check_identity

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


def check(tmp_path, saved, given, **state):
    state |= {"recipe": saved.recipe, "model_fingerprint": saved.model_fingerprint}
    check_identity(tmp_path, json.loads(json.dumps(state)), given)


def test_the_same_recipe_is_accepted(tmp_path):
    check(tmp_path, identity(), identity())


def test_name_folder_and_tracking_may_differ(tmp_path):
    tree = identity(run={"name": "b", "output_dir": "elsewhere"})
    tree.recipe["tracking"] = ["jsonl", "tensorboard"]
    check(tmp_path, identity(), tree)


def test_where_a_run_is_pushed_may_differ(tmp_path):
    hub = {"repo_id": "me/adder", "private": False, "push": ["checkpoint", "end"]}
    check(tmp_path, identity(), identity(hub=hub))
    check(tmp_path, identity(hub=hub), identity())


def test_alarms_may_differ_for_they_only_look_on(tmp_path):
    for alarms in ({"stop": True}, {"watch": []}, {"watch": ["reward"], "stop": True}):
        check(tmp_path, identity(), identity(alarms=alarms))
        check(tmp_path, identity(alarms=alarms), identity())


def test_steps_may_differ_where_nothing_is_scheduled_over_them(tmp_path):
    check(tmp_path, identity(), identity(run={"steps": 20}))


@pytest.mark.parametrize(
    ("scheduled", "reason"),
    [
        ({"optim": {"schedule": "cosine"}}, "optim.schedule=cosine falls"),
        ({"kl": {"controller": {"name": "grpo_d"}}}, "kl.controller grpo_d moves"),
        ({"curriculum": {"probe": {"completions": 4}}}, "curriculum.probe the last step"),
        ({"rollout": {"max_staleness": 1}}, "rollout.max_staleness=1 the last steps"),
    ],
)
def test_steps_may_not_differ_where_something_is(tmp_path, scheduled, reason):
    with pytest.raises(CheckpointError, match=r"run.steps: 10 in the checkpoint, 20 in") as error:
        check(tmp_path, identity(**scheduled), identity(run={"steps": 20}, **scheduled))
    (line,) = [line for line in str(error.value).splitlines() if "may not change here" in line]
    assert reason in line
    assert ";" not in line


LEARN_FROM_EVAL = {
    "data": {**RECIPE["data"], "eval": [{"use": "arithmetic", "levels": [3]}]},
    "curriculum": {"learn_from_eval": True},
}
STAGNATION = {
    "data": LEARN_FROM_EVAL["data"],
    "kl": {
        "controller": {"name": "constant", "beta": 0.1},
        "reference": {"mode": "snapshot", "refresh_on_stagnation": 1},
    },
}


STOP_WHEN = {"data": LEARN_FROM_EVAL["data"]}


@pytest.mark.parametrize(
    ("learner", "named"),
    [
        (LEARN_FROM_EVAL, "curriculum.learn_from_eval"),
        (STAGNATION, "kl.reference.refresh_on_stagnation=1"),
        (STOP_WHEN, "eval.stop_when=0.5"),
    ],
)
def test_a_run_does_not_grow_past_an_evaluation_that_was_learnt_from_and_eval_every_leaves_out(
    tmp_path, learner, named
):
    evaluation = {"every": 4, "train_problems": 1, "stop_when": 0.5}
    short, long = (identity(run={"steps": steps}, eval=evaluation, **learner) for steps in (10, 20))
    has_stopped = learner is STOP_WHEN
    with pytest.raises(CheckpointError, match=r"run\.steps: 10 in the") as error:
        check(tmp_path, short, long, counters={"step": 10, "finished": has_stopped})
    (line,) = [line for line in str(error.value).splitlines() if "may not change here" in line]
    assert line.startswith(f"  (run.steps may not change here: {named} took note of the evaluation")
    assert "behind step 10," in line
    assert "eval.every=4" in line
    assert "by --resume" in line
    # The checkpoint before is from before that evaluation, and 10 is a multiple of 5.
    check(tmp_path, short, long, counters={"step": 8})
    for each in (short, long):
        each.recipe["eval"]["every"] = 5
    check(tmp_path, short, long, counters={"step": 10})


def test_a_run_grows_past_an_evaluation_that_nothing_learnt_from(tmp_path):
    evaluation = {"every": 4, "stop_when": 0.5}
    short, long = (
        identity(run={"steps": steps}, eval=evaluation, **STOP_WHEN) for steps in (10, 20)
    )
    check(tmp_path, short, long, counters={"step": 10, "finished": False})


def test_every_other_difference_is_shown(tmp_path):
    with pytest.raises(CheckpointError) as error:
        check(
            tmp_path,
            identity(),
            identity(optim={"lr": 0.5}, data={"train": [{"use": "arithmetic", "levels": [1, 3]}]}),
        )
    assert "optim.lr: 0.0001 in the checkpoint, 0.5 in the recipe" in str(error.value)
    assert "data.train.0.levels.1: 2 in the checkpoint, 3 in the recipe" in str(error.value)


@pytest.mark.parametrize(
    ("saved", "given", "shown"),
    [
        (None, [], "curriculum.gates: None in the checkpoint, [] in the recipe"),
        ([], [{"name": "range"}], "curriculum.gates.0.name: nothing in the checkpoint, 'range' in"),
    ],
)
def test_nothing_at_all_differs_from_none_and_from_something(tmp_path, saved, given, shown):
    with pytest.raises(CheckpointError) as error:
        check(
            tmp_path,
            identity(curriculum={"gates": saved}),
            identity(curriculum={"gates": given}),
        )
    (line,) = [line for line in str(error.value).splitlines() if "curriculum.gates" in line]
    assert shown in line


def test_an_option_that_is_null_is_one_that_is_left_out(tmp_path):
    ramp = {"name": "linear", "start": 0.1, "end": 0.0}
    saved, given = (
        identity(kl={"controller": controller}) for controller in (ramp | {"over": None}, ramp)
    )
    check(tmp_path, saved, given)


def test_another_model_under_the_same_path_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="another model"):
        check(tmp_path, identity("f00d"), identity("beef"))


def test_the_same_model_may_lie_elsewhere(tmp_path):
    moved = identity(model={"path": "elsewhere/m"})
    check(tmp_path, identity(), moved)
    other = identity("beef", model={"path": "elsewhere/m"})
    with pytest.raises(CheckpointError, match=r"model\.path: 'm' in the checkpoint, 'elsewhere/m'"):
        check(tmp_path, identity(), other)


def without(key, section, given):
    """Return an identity as a version wrote it that did not know a key yet."""
    recipe = copy.deepcopy(given.recipe)
    del recipe[section][key]
    return Identity(recipe=recipe, model_fingerprint=given.model_fingerprint)


def test_a_checkpoint_from_before_a_key_goes_on_with_the_default_of_the_key(tmp_path):
    check(tmp_path, without("grad_clip", "optim", identity()), identity())


def test_a_key_that_the_checkpoint_was_written_before_must_have_its_default(tmp_path):
    given = identity(optim={"grad_clip": 0.3})
    with pytest.raises(CheckpointError) as error:
        check(tmp_path, without("grad_clip", "optim", given), given)
    changes = str(error.value).splitlines()[1:-1]
    assert changes == ["  optim.grad_clip: 1.0 in the checkpoint, 0.3 in the recipe"]


def test_a_recipe_that_the_schema_refuses_is_compared_as_it_stands(tmp_path):
    old = without("grad_clip", "optim", identity())
    old.recipe["optim"]["momentum"] = 0.9
    with pytest.raises(CheckpointError) as error:
        check(tmp_path, old, identity())
    message = str(error.value)
    assert "optim.momentum: 0.9 in the checkpoint, nothing in the recipe" in message
    assert "optim.grad_clip: nothing in the checkpoint, 1.0 in the recipe" in message
    assert "(defaults are not filled in: this version refuses its recipe: optim.momentum" in message


def test_an_equal_recipe_is_accepted_though_the_schema_refuses_it(tmp_path):
    same = identity()
    same.recipe["optim"]["momentum"] = 0.9
    check(tmp_path, same, same)
