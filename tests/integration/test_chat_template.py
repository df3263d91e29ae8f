"""The chat template that a model is trained with goes wherever its adapter goes."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rl_llm.cli.main import main
from rl_llm.plugins import load_module

pytestmark = pytest.mark.slow

_hub = load_module(Path(__file__).parents[1] / "hub" / "conftest.py")
hub, leads_to = _hub.hub, _hub.leads_to

CHAT = [{"role": "user", "content": "4+9"}]
OF_THE_BASE = {"default": "{{ messages[0].content }}*", "tool_use": "{{ messages[0].content }}-"}
SHRUNK = [
    *("run.steps=2", "checkpoint.every=1", "rollout.max_new_tokens=8"),
    *("model.path=base", "hub.repo_id=me/adder", "hub.push=[checkpoint, end]"),
    "data.train=[{use: jsonl, path: chats.jsonl, chat: true}]",
    *("data.eval=[]", "eval.train_problems=0"),
]


@pytest.fixture
def train(small, repository, monkeypatch):
    """Train on a few chats from a base with two chat templates; return the run's folder."""
    shutil.copytree(repository / "data" / "models" / "carry-adder", "base")
    tokenizer = AutoTokenizer.from_pretrained("base")
    tokenizer.chat_template = OF_THE_BASE
    tokenizer.save_pretrained("base")
    rows = [{"prompt": f"{n}+{n}", "answer": str(2 * n)} for n in range(10, 30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("chats.jsonl").write_text(text, encoding="utf-8")

    def run(*changes):
        assert main(["train", str(small), *SHRUNK, *changes]) == 0
        return Path("runs") / "small"

    return run


def download(files, folder):
    """Write what a branch of the hub holds into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def places(hub, tmp_path):
    """Push a run by hand in every way, and return all folders that hold its tokenizer."""

    def push(run_dir):
        checkpoint = run_dir / "checkpoints" / "step-000001"
        assert main(["push", str(run_dir), "me/adder", "--revision=hand"]) == 0
        assert main(["push", str(checkpoint), "me/adder", "--revision=part"]) == 0
        assert main(["push", str(run_dir), "me/merged", "--merge"]) == 0
        branches = {
            name: hub.files["me/adder"][name] for name in ("main", "step-000001", "hand", "part")
        }
        branches["merged"] = hub.files["me/merged"]["main"]
        pulled = [download(files, tmp_path / "hub" / name) for name, files in branches.items()]
        return [run_dir / "adapter", *pulled]

    return push


def test_the_template_of_the_recipe_is_delivered_in_place_of_the_bases_own(train, places):
    template = "{{ messages[0].content }}="
    Path("chat.jinja").write_text(template, encoding="utf-8")
    for folder in places(train("model.chat_template=chat.jinja")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == template, folder
        assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "4+9=", folder


def test_named_templates_of_the_base_are_delivered_with_the_default_and_the_others(train, places):
    for folder in places(train()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == OF_THE_BASE, folder
