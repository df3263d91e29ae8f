import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from rl_llm.cli.main import main
from rl_llm.cli.schema import recipe_table
from rl_llm.config import Recipe
from rl_llm.config.load import RecipeLoader

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    file for file in (ROOT / "recipes").rglob("*.yaml") if file.parent.name != "accelerate"
)
SMALLEST = {
    "run": {"name": "tiny", "steps": 1},
    "model": {"path": "somewhere"},
    "data": {"train": [{"use": "arithmetic", "levels": [1]}]},
    "rewards": [{"use": "exact_answer"}],
}


@pytest.fixture
def schema(capsys):
    assert main(["schema"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_json_schema_accepts_every_shipped_recipe(schema, file):
    tree = yaml.load(file.read_text(encoding="utf-8"), Loader=RecipeLoader)
    jsonschema.validate(tree, schema)


@pytest.mark.parametrize(
    "wrong", [{"run": {"name": "tiny"}}, {"rollout": {"group": 8}}, {"kl": {"estimator": "k4"}}]
)
def test_the_json_schema_refuses_what_an_editor_should_underline(schema, wrong):
    jsonschema.validate(SMALLEST, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SMALLEST | wrong, schema)


@pytest.mark.parametrize(
    "right",
    [
        {"algorithm": "ppo"},
        {"algorithm": {"name": "grpo", "clip_high": 0.2}},
        {"curriculum": {"sampler": "uniform", "gates": ["informative", {"name": "range"}]}},
        {"kl": {"controller": "target"}, "rollout": {"correction": "tis"}},
    ],
)
def test_the_json_schema_accepts_a_part_by_its_name_alone(schema, right):
    jsonschema.validate(SMALLEST | right, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SMALLEST | {"algorithm": 3}, schema)


def test_every_key_of_the_schema_explains_itself():
    schema = Recipe.model_json_schema()
    for name, section in {"Recipe": schema, **schema["$defs"]}.items():
        (inner,) = [each for each in section.get("anyOf", [section]) if "properties" in each]
        for key, field in inner["properties"].items():
            assert "description" in field or "$ref" in field, f"{name}.{key}"


def test_out_writes_the_file_and_prints_nothing(tmp_path, capsys):
    file = tmp_path / "recipe.schema.json"
    assert main(["schema", "--out", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads(file.read_text())["title"] == "Recipe"


def test_out_into_a_missing_folder_is_wrong_input(tmp_path, capsys):
    assert main(["schema", "--out", str(tmp_path / "no" / "file.json")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_the_table_says_what_a_key_may_hold():
    rows = {row.split("`")[1]: row for row in recipe_table().splitlines()[2:]}
    assert "| integer > 0 | required |" in rows["run.steps"]
    assert '| `loss` or `reward` | `"loss"` |' in rows["kl.placement"]
    assert "| list of `{use: X, ...}` | `[]` |" in rows["data.eval"]
    assert "| number | `1.0` |" in rows["rewards[].weight"]
    assert "| number > 0, < 1 | `0.99` |" in rows["kl.reference.decay"]


def test_the_table_goes_into_sections_that_may_be_null():
    rows = {row.split("`")[1]: row for row in recipe_table().splitlines()[2:]}
    assert "| number >= 0.5, < 1 | `0.9` |" in rows["curriculum.retire.certainty"]
    assert "| integer > 0, <= 255 | `2` |" in rows["curriculum.defer.after"]
    assert "| integer > 0 | `64` |" in rows["curriculum.probe.problems"]


def test_docs_recipes_holds_the_table_as_the_schema_has_it():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert recipe_table() in page, "paste the output of `rl-llm schema --markdown` there"
