"""`rl-llm push`: what it puts on a hub, what it prints, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_llm.cli.main import main
from rl_llm.plugins import load_module

_hub = load_module(Path(__file__).parents[1] / "hub" / "conftest.py")
hub, leads_to = _hub.hub, _hub.leads_to
TOKEN = _hub.fake_hub.TOKEN

PROMPTS = ["123+456=", "80706+50403=", "9999999+1="]


@pytest.fixture
def run_dir(finished):
    return finished / "runs" / "small"


@pytest.fixture
def push(capsys):
    """Run the command; return its exit code and what it said."""

    def run(*words):
        code = main(["push", *map(str, words)])
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return code, said.out, said.err

    return run


def written(files, folder):
    """Write what a branch holds into a folder."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@torch.no_grad()
def greedy(model, tokenizer):
    texts = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(**inputs, max_new_tokens=96, do_sample=False)
        texts.append(tokenizer.decode(output[0]))
    return texts


@pytest.mark.slow
def test_a_run_is_pushed_with_tokenizer_card_and_recipe_as_one_commit(hub, push, run_dir):
    code, printed, said = push(run_dir, "me/adder")
    assert (code, said) == (0, "")
    first, second = printed.splitlines()
    assert first.startswith(f"the final adapter of {run_dir}: 6 files, ")
    assert first.endswith(f" MB, to me/adder at {hub.url}")
    assert second == f"pushed the final adapter: {hub.url}/me/adder (private)"
    files = hub.files["me/adder"]["main"]
    assert files.keys() - {".gitattributes"} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "resolved.yaml",
    }
    assert files["resolved.yaml"] == (run_dir / "resolved.yaml").read_bytes()
    here = json.loads((run_dir / "adapter" / "adapter_config.json").read_bytes())
    assert Path(here["base_model_name_or_path"]).is_absolute()
    as_in_the_recipe = here | {"base_model_name_or_path": "data/models/carry-adder"}
    assert json.loads(files["adapter_config.json"]) == as_in_the_recipe
    assert 'adapter, revision = "me/adder", "main"' in files["README.md"].decode()
    assert hub.commits["me/adder"]["main"] == [
        "initial commit",
        "Add the final adapter of small",
    ]


@pytest.mark.slow
def test_a_checkpoint_is_pushed_to_a_revision_with_a_card_of_its_step(hub, push, run_dir):
    checkpoint = run_dir / "checkpoints" / "step-000004"
    code, printed, _ = push(checkpoint, "me/adder", "--revision", "step-000004", "--public")
    url = f"{hub.url}/me/adder/tree/step-000004"
    assert code == 0 and printed.splitlines()[1] == f"pushed the adapter of step 4: {url} (public)"
    files = hub.files["me/adder"]["step-000004"]
    assert "tokenizer.json" in files
    assert (
        files["adapter_model.safetensors"]
        == (checkpoint / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    card = files["README.md"].decode()
    assert "| steps | 4 |" in card and 'revision = "me/adder", "step-000004"' in card
    assert "\nrl-llm train small.yaml\n" in card


@pytest.mark.slow
def test_merged_weights_are_a_model_that_plain_transformers_loads_and_that_says_the_same(
    hub, push, run_dir, tmp_path, repository
):
    code, printed, _ = push(run_dir, "me/merged", "--merge")
    assert code == 0 and "pushed merged weights: " in printed
    files = hub.files["me/merged"]["main"]
    assert "model.safetensors" in files and "adapter_config.json" not in files
    assert ModelCard(files["README.md"].decode()).data.library_name == "transformers"
    folder = written(files, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = repository / "data" / "models" / "carry-adder"
    ours = greedy(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert ours != greedy(plain, tokenizer)
    adapted = PeftModel.from_pretrained(plain, str(run_dir / "adapter"))
    assert ours == greedy(adapted, tokenizer)
    theirs = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    kept = json.loads(files["generation_config.json"])
    assert kept["eos_token_id"] == theirs["eos_token_id"]


@pytest.mark.slow
def test_a_run_without_a_final_adapter_is_pushed_from_its_newest_checkpoint(
    hub, push, run_dir, tmp_path
):
    copy = shutil.copytree(run_dir, tmp_path / "small")
    shutil.rmtree(copy / "adapter")
    code, printed, _ = push(copy, "me/adder")
    assert code == 0 and printed.startswith("the adapter of step 5 of ")
    shutil.rmtree(copy / "checkpoints")
    code, _, said = push(copy, "me/adder")
    assert code == 2 and "neither a final adapter nor a whole checkpoint" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo_id", "rule"),
    [
        ("me/has space", "Repo id must use alphanumeric chars"),
        ("a/b/c", "Repo id must be in the form"),
        ("me/a--b", "Cannot have -- or .. in repo_id"),
    ],
)
def test_a_wrong_name_is_refused_with_its_rule_before_anything_is_asked(
    hub, push, run_dir, repo_id, rule
):
    code, _, said = push(run_dir, repo_id)
    assert code == 2 and said.startswith(f"error: REPO_ID={repo_id!r}: {rule}")
    assert "use owner/name" in said and hub.asked == []


@pytest.mark.slow
def test_a_token_in_the_place_of_a_name_is_not_repeated(hub, push, run_dir):
    code, _, said = push(run_dir, TOKEN)
    assert code == 2 and "looks like an access token" in said and hub.asked == []


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_refused(hub, push, tmp_path):
    code, _, said = push(tmp_path, "me/adder")
    assert code == 2 and "is not the folder of a run" in said and "runs/NAME" in said


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--merge"]])
def test_a_damaged_adapter_is_not_pushed(hub, push, run_dir, tmp_path, words):
    damaged = shutil.copytree(run_dir, tmp_path / "damaged")
    with (damaged / "adapter" / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)
    code, _, said = push(damaged, "me/adder", *words)
    assert code == 2 and "adapter_model.safetensors cannot be read" in said
    assert not hub.files


@pytest.mark.slow
def test_without_a_token_nothing_is_asked_and_the_way_out_is_said(hub, push, run_dir, leads_to):
    leads_to(hub.url, token="")
    code, _, said = push(run_dir, "me/adder")
    assert code == 2 and "log in with `hf auth login`, or set" in said and hub.asked == []


@pytest.mark.slow
def test_what_the_hub_refuses_is_exit_2(hub, push, run_dir, leads_to):
    code, _, said = push(run_dir, "they/adder")
    assert code == 2 and said.startswith(f"error: HTTP 403 from {hub.url}: the token of ")
    leads_to(hub.url, token="hf_" + "w" * 30)
    code, _, said = push(run_dir, "me/adder")
    assert code == 2 and said.startswith(f"error: HTTP 401 from {hub.url}: it does not take ")


@pytest.mark.slow
def test_a_hub_that_keeps_failing_is_exit_1(push, run_dir, leads_to):
    leads_to("http://127.0.0.1:9")
    code, _, said = push(run_dir, "me/adder")
    assert code == 1 and said.count("trying again in") == 3
    assert "error: me/adder: not pushed: no connection to http://127.0.0.1:9" in said
