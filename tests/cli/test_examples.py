"""Every command's `--help` ends in an example, and the example works as it stands there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from rl_llm.cli.main import COMMANDS, main
from rl_llm.plugins import load_module

ROOT = Path(__file__).parents[2]
HAVE_SUBCOMMANDS = {
    "rewards": ["list", "check", "score"],
    "data": ["preview", "measure", "beliefs", "explain"],
}
# The quickstart in a few seconds; the first problem of its pool stays the same.
SHRUNK = [
    *("run.steps=1", "rollout.problems_per_step=2", "rollout.group_size=2"),
    *("data.train.0.size=4", "data.train.1.size=7", "data.eval.0.size=2", "data.eval.1.size=7"),
]
LEAVES = [[name] for name in COMMANDS if name not in HAVE_SUBCOMMANDS]
LEAVES += [[name, sub] for name, subs in HAVE_SUBCOMMANDS.items() for sub in subs]
EVERY = [[], *([name] for name in HAVE_SUBCOMMANDS), *LEAVES]

fake_hub = load_module(ROOT / "tests" / "hub" / "fake_hub.py")


def example_of(words, capsys):
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    assert left.value.code == 0
    (found,) = re.findall(r"^example: rl-llm (.*)\n\Z", capsys.readouterr().out, re.M | re.S)
    assert "\n" not in found, "it is cut where a terminal has 80 columns"
    return shlex.split(found)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_the_help_of_a_command_ends_in_an_example_of_it(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    example = example_of(words, capsys)
    assert example[: len(words)] == words and example[0] in COMMANDS


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Stand in a folder that looks like a checkout, and push to a hub of our own."""
    for name in ("recipes", "data", "rewards"):
        (tmp_path / name).symlink_to(ROOT / name)
    scored = {"completion": "The train needs 3 hours.", "answer": "3"}
    (tmp_path / "completions.jsonl").write_text(json.dumps(scored) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    hub = fake_hub.FakeHub(user="my-name", may_write=("my-name",))
    yield hub
    hub.close()


@pytest.mark.slow
def test_every_example_works_behind_the_one_that_trains(checkout, capsys, program):
    examples = [example_of(words, capsys) for words in LEAVES]
    assert examples[0][:2] == ["train", "recipes/quickstart.yaml"]
    for example in examples:
        shrunk = SHRUNK if "recipes/quickstart.yaml" in example else []
        done = program(*example, *shrunk, folder=Path.cwd(), **checkout.environment)
        assert done.returncode == 0, (example, done.stderr)
        if example[0] == "train":
            shutil.copytree("runs/quickstart", "runs/slower")  # What it is compared with.
    assert {"measured.parquet", "beliefs.parquet", "recipe-schema.json"} <= {
        file.name for file in Path.cwd().iterdir()
    }
    assert "adapter_model.safetensors" in checkout.files["my-name/adder"]["main"]
