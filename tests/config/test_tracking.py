import pytest
import yaml

from rl_llm.config import TrackerUse, dump_yaml, parse_recipe
from rl_llm.errors import ConfigError

RECIPE = {
    "run": {"name": "x", "steps": 1},
    "model": {"path": "somewhere"},
    "data": {"train": [{"use": "arithmetic"}]},
    "rewards": [{"use": "exact_answer"}],
}
NAMES = "input should be 'jsonl', 'tensorboard' or 'wandb'; write names, with options as in "


def test_a_name_is_the_short_form_of_a_tracker_without_options():
    short = parse_recipe({**RECIPE, "tracking": ["jsonl", "wandb"]}, where="here")
    long = parse_recipe({**RECIPE, "tracking": ["jsonl", {"name": "wandb"}]}, where="here")
    assert short.trackers == long.trackers
    assert short.trackers["wandb"] == TrackerUse(name="wandb", project=None, entity=None)


def test_options_survive_the_recipe_as_run():
    tracking = ["jsonl", {"name": "wandb", "project": "p", "entity": None}]
    recipe = parse_recipe({**RECIPE, "tracking": tracking}, where="here")
    tree = yaml.safe_load(dump_yaml(recipe))
    assert tree["tracking"] == tracking
    assert parse_recipe(tree, where="there") == recipe


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        (["wanb"], f"here: tracking.0='wanb': {NAMES}[jsonl, {{name: wandb, project: NAME}}]"),
        (
            [{"name": "mlflow"}],
            f"here: tracking.0.name='mlflow': {NAMES}[jsonl, {{name: wandb, project: NAME}}]",
        ),
        (
            [{"name": "wandb", "projct": "x"}],
            "here: tracking.0.projct: unknown key (did you mean 'project'?); known: entity, name, "
            "project",
        ),
        (
            ["wandb", {"name": "wandb"}],
            "here: tracking: 'wandb' stands there twice; keep one of them",
        ),
        (
            [{"name": "tensorboard", "project": "x"}],
            "here: tracking: project='x' of 'tensorboard': only 'wandb' has it; leave it out",
        ),
    ],
)
def test_a_wrong_tracker_is_refused_as_the_recipe_is_read(tracking, message):
    with pytest.raises(ConfigError) as refused:
        parse_recipe({**RECIPE, "tracking": tracking}, where="here")
    assert str(refused.value) == message
