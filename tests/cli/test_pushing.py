"""The pushes of a run, with the disk and the hub against it: nothing raises, and all is said."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from rl_llm.cli.pushing import Pushing
from rl_llm.config import parse_recipe
from rl_llm.plugins import load_module
from rl_llm.trainer import RunFolder

_hub = load_module(Path(__file__).parents[1] / "hub" / "conftest.py")
hub, leads_to = _hub.hub, _hub.leads_to

RECIPE = {
    "run": {"name": "adder", "steps": 10},
    "model": {"path": "m"},
    "data": {"train": [{"use": "arithmetic"}]},
    "rewards": [{"use": "exact_answer"}],
    "hub": {"repo_id": "me/adder", "push": ["checkpoint", "end"], "max_wait_s": 20.0},
}


class Tokenizer:
    def save_pretrained(self, folder):
        Path(folder).mkdir()
        (Path(folder) / "tokenizer.json").write_text("{}", encoding="utf-8")


class Run:
    """A run's folder, checkpoints in it, and what is printed."""

    def __init__(self, path, **hub):
        self.folder = RunFolder(path)
        path.mkdir()
        recipe = parse_recipe({**RECIPE, "hub": {**RECIPE["hub"], **hub}}, where="test")
        self.out = io.StringIO()
        console = Console(file=self.out, width=300)
        self.pushing = Pushing(recipe, self.folder, console, is_main=True, patience=_hub.QUICK)
        tree = recipe.model_dump_json()  # JSON is YAML.
        self.folder.resolved.write_text(tree, encoding="utf-8")

    def checkpoint(self, step):
        folder = self.folder.checkpoints / f"step-{step:06d}"
        (folder / "adapter").mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            text = json.dumps({"base_model_name_or_path": "/here/m", "of": f"{name} {step}"})
            (folder / "adapter" / name).write_text(text, encoding="utf-8")
        return folder

    @property
    def lines(self):
        return self.out.getvalue().splitlines()

    @property
    def staged(self):
        return sorted(path.name for path in (self.folder.path / "unpushed").iterdir())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "adder")


@pytest.mark.slow
def test_at_most_eight_wait_for_a_hub_that_hangs_and_the_oldest_gives_way(hub, run):
    hub.script = lambda method, path, count: "hang"
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(run.checkpoint(1))
        while not hub.asked:
            time.sleep(0.02)
        for step in range(2, 11):
            run.pushing.saved(run.checkpoint(step))
        # The first is under way, and stays.
        kept = [f"step-{step:06d}" for step in (1, 4, 5, 6, 7, 8, 9, 10)]
        assert run.staged == kept
    for line, step in zip(run.lines, (2, 3), strict=False):
        assert line.startswith(
            f"not pushed, and no longer kept: step-00000{step}: it was not tried"
        )
    commands = [line for line in run.lines if "push it: " in line]
    assert len(commands) == 8 and run.staged == kept
    path = run.folder.path / "unpushed" / "step-000010"
    assert commands[-1] == f"  push it: rl-llm push {path} me/adder --revision step-000010"


@pytest.mark.slow
def test_what_waited_is_pushed_by_the_next_part_of_the_run_and_what_is_left_behind_is_not(
    hub, run, tmp_path
):
    hub.script = lambda method, path, count: "hang"
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        for step in (2, 4):
            run.pushing.saved(run.checkpoint(step))
    hub.script = lambda method, path, count: None
    later = Run(tmp_path / "later")
    run.folder.path.joinpath("unpushed").rename(later.folder.path / "unpushed")
    with later.pushing:
        later.pushing.begin(Tokenizer(), step=2)  # Back to step 2: that behind step 4 goes.
        later.pushing.finish()
    assert hub.commits["me/adder"] == {
        "main": ["initial commit"],
        "step-000002": ["initial commit", "Add the adapter after step 2 of later"],
    }
    assert not (later.folder.path / "unpushed").exists()


def test_a_disk_that_refuses_is_said_at_the_end_and_raises_nothing(run):
    (run.folder.path / "unpushed").write_text("in the way", encoding="utf-8")
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(run.checkpoint(2))
        assert run.lines == []
    (line,) = run.lines
    assert line.startswith(f"not pushed: step-000002: {run.folder.path / 'unpushed'} cannot be ")


def test_a_recipe_that_somebody_broke_meanwhile_raises_nothing(run):
    run.folder.resolved.write_text("run: {", encoding="utf-8")
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(run.checkpoint(2))
        run.pushing.finish()
    first, second = (line for line in run.lines if line.startswith("not pushed: "))
    assert "step-000002" in first and "the final adapter" in second


@pytest.mark.slow
def test_only_what_is_asked_for_is_pushed(hub, tmp_path):
    run = Run(tmp_path / "adder", push=["end"])
    adapter = run.checkpoint(2) / "adapter"
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(adapter.parent)
        assert not (run.folder.path / "unpushed").exists()
        adapter.rename(run.folder.adapter)
        (run.folder.adapter / ".secret").write_text("mine", encoding="utf-8")
        run.pushing.finish()
    assert hub.commits["me/adder"] == {"main": ["initial commit", "Add the final adapter of adder"]}
    files = hub.files["me/adder"]["main"]
    assert ".secret" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "m"


def test_of_several_processes_the_others_push_nothing_not_even_what_waits(run):
    staged = run.checkpoint(2).rename(run.folder.path / "waits")
    (run.folder.path / "unpushed").mkdir()
    staged.rename(run.folder.path / "unpushed" / "step-000002")
    recipe = parse_recipe(RECIPE, where="test")
    other = Pushing(recipe, run.folder, Console(file=run.out), is_main=False)
    with other:
        other.begin(Tokenizer(), step=0)
        other.finish()
    assert run.lines == [] and run.staged == ["step-000002"]


def test_without_a_repository_nothing_happens(tmp_path):
    run = Run(tmp_path / "adder", repo_id=None)
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(run.checkpoint(2))
        run.pushing.finish()
    assert run.lines == [] and not (run.folder.path / "unpushed").exists()


@pytest.mark.slow
def test_no_token_of_a_recipe_reaches_the_hub(hub, run):
    secret = "hf_" + "s" * 30
    said = run.folder.resolved.read_text(encoding="utf-8")
    source = f'"use":"arithmetic","token":"{secret}"'
    text = said.replace('"use":"arithmetic"', source, 1)
    assert secret in text
    run.folder.resolved.write_text(text, encoding="utf-8")
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.pushing.saved(run.checkpoint(2))
        run.checkpoint(4).joinpath("adapter").rename(run.folder.adapter)
        run.pushing.finish()
    branches = hub.files["me/adder"]
    assert {"main", "step-000002"} <= branches.keys()
    for branch in ("main", "step-000002"):
        recipe = branches[branch]["resolved.yaml"].decode()
        assert "[token]" in recipe and secret not in recipe
        assert secret not in branches[branch]["README.md"].decode()


def test_a_complete_run_that_is_stopped_before_its_last_push_says_how_to_make_it(run):
    with run.pushing:
        run.pushing.begin(Tokenizer(), step=0)
        run.checkpoint(4).joinpath("adapter").rename(run.folder.adapter)
    assert run.lines == [
        "not pushed: the final adapter: the run was stopped",
        f"  push it: rl-llm push {run.folder.path} me/adder",
    ]
