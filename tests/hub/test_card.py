"""What the model card says, and that its snippet is code that runs."""

import re

import yaml
from huggingface_hub import ModelCard

from rl_llm.config import parse_recipe
from rl_llm.hub import Place, render_card
from rl_llm.hub.card import placed

RECIPE = {
    "run": {"name": "adder", "steps": 10},
    "model": {"path": "data/models/carry-adder"},
    "data": {
        "train": [{"use": "arithmetic", "levels": [1, 2], "split": "train"}],
        "eval": [{"use": "arithmetic", "levels": [1, 2], "split": "eval"}],
    },
    "rewards": [{"use": "exact_answer", "weight": 0.5}],
}
ROWS = [
    {
        "step": 0,
        "eval/pass_rate": 0.5,
        "eval/pass_rate_se": 0.02,
        "eval/pass_rate/level=1": 0.75,
        "eval/pass_rate/level=2": 0.25,
    },
    {"step": 1, "rollout/completions": 64, "rollout/tokens": 1234},
    {
        "step": 2,
        "rollout/completions": 128,
        "rollout/tokens": 2468,
        "eval/pass_rate": 0.625,
        "eval/pass_rate_se": 0.0123,
        "eval/pass_rate/level=1": 1.0,
        "eval/pass_rate/level=2": 0.25,
    },
]


def card(rows=ROWS, command="rl-llm train adder.yaml", place=None, **changes):
    recipe = parse_recipe({**RECIPE, **changes}, where="test")
    return render_card(recipe, rows, command=command, place=place or Place())


def snippet(text):
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_metadata_is_what_the_hub_reads():
    data = ModelCard(card(place=Place(repo_id="me/adder"))).data
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert "grpo" in data.tags and "lora" in data.tags
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.625)
    assert (data.model_name, result.dataset_type) == ("adder", "arithmetic")


def test_a_folder_is_no_base_model_of_the_hub_and_a_hub_name_is():
    assert ModelCard(card()).data.base_model is None
    named = card(model={"path": "Qwen/Qwen2.5-0.5B-Instruct"})
    assert ModelCard(named).data.base_model == "Qwen/Qwen2.5-0.5B-Instruct"
    assert "put where it lies" in card() and "put where it lies" not in named


def test_it_says_what_was_trained_on_what():
    text = card()
    assert "| base model | `data/models/carry-adder`, float32 |" in text
    assert "| problems | `arithmetic` (levels=[1, 2], split=train) |" in text
    assert "| rewards | 0.5 x `exact_answer` |" in text
    assert "| steps | 2 |\n| completions | 128 |\n| sampled tokens | 2,468 |" in text


def test_it_gives_every_evaluation_with_its_standard_error_and_the_levels():
    text = card()
    assert "| 0 | 0.500 | 0.020 |\n| 2 | 0.625 | 0.012 |" in text
    assert "| level | step 0 | step 2 |\n| --- | ---: | ---: |\n| 1 | 0.750 | 1.000 |" in text
    assert "1 sample a problem at temperature 1, with its standard error" in text


def test_many_evaluations_are_thinned_to_twelve_with_the_first_and_the_last():
    rows = [
        {"step": step, "eval/pass_rate": 0.5, "eval/pass_rate_se": 0.1} for step in range(0, 101)
    ]
    steps = re.findall(r"^\| (\d+) \| 0\.500", card(rows), re.MULTILINE)
    assert len(steps) == 12 and (steps[0], steps[-1]) == ("0", "100")


def test_without_held_out_problems_there_are_no_results():
    text = card([{"step": 1}], data={"train": RECIPE["data"]["train"]})
    assert "Results" not in text and "model-index" not in text
    assert "| held-out problems | none |" in text


def test_it_gives_the_command_the_versions_and_a_recipe_that_is_one():
    text = card(command="rl-llm train adder.yaml run.steps=2")
    assert "\n```\nrl-llm train adder.yaml run.steps=2\n```\n" in text
    assert re.search(r"^\| torch \| \d+\.\d+", text, re.MULTILINE)
    assert re.search(r"^\| peft \| \d+\.\d+", text, re.MULTILINE)
    tree = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert parse_recipe(tree, where="card") == parse_recipe(RECIPE, where="test")


def test_a_fence_in_the_recipe_does_not_end_the_recipe():
    chatty = {**RECIPE["data"]["train"][0], "instruction": "Answer in a ```python block"}
    text = card(data={"train": [chatty]})
    tree = yaml.safe_load(re.search(r"````yaml\n(.*?)````", text, re.DOTALL)[1])
    assert tree["data"]["train"][0]["instruction"] == "Answer in a ```python block"


def test_no_token_stands_in_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine")
    other = "hf_" + "AbCdEfGhIjKlMnOpQrSt"
    text = card(command=f"HF_TOKEN=secret-of-mine rl-llm train adder.yaml run.name={other}")
    assert "secret-of-mine" not in text and other not in text and "[token]" in text


def test_the_snippet_names_the_place_that_it_is_pushed_to():
    assert 'adapter, revision = "path/to/this/folder", "main"' in snippet(card())
    place = Place(repo_id="me/adder", revision="step-000050")
    assert 'adapter, revision = "me/adder", "step-000050"' in snippet(card(place=place))
    merged = card(place=Place(repo_id="me/adder", is_merged=True))
    assert 'path, revision = "me/adder", "main"' in snippet(merged)
    assert "peft import" not in snippet(merged)
    assert ModelCard(merged).data.library_name == "transformers"


def test_a_card_that_a_person_wrote_into_keeps_that_at_another_place():
    mine = card().replace("# adder", "# The best adder")
    text = placed(mine, Place(repo_id="me/other", revision="v2"))
    assert "# The best adder" in text
    assert 'adapter, revision = "me/other", "v2"' in text
    assert placed("# A card of another kind", Place(repo_id="me/other")) is None
