"""Runs that push to a hub: what arrives there, and that nothing a hub does can harm a run."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_llm.plugins import load_module

pytestmark = pytest.mark.slow

_hub = load_module(Path(__file__).parents[1] / "hub" / "conftest.py")
TOKEN = _hub.fake_hub.TOKEN

SHRUNK = [
    *("run.steps=4", "rollout.problems_per_step=4", "rollout.group_size=4"),
    *("data.train.0.size=10", "data.train.1.size=70"),
    *("data.eval.0.size=4", "data.eval.1.size=14", "eval.every=2", "checkpoint.every=2"),
]
PUSHES = ["hub.repo_id=me/adder", "hub.push=[checkpoint, end]"]
DEAD = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def hub():
    started = _hub.fake_hub.FakeHub()
    yield started
    started.close()


@pytest.fixture(scope="module")
def pushed(hub, program, repository, tmp_path_factory):
    """The folder of a shrunk quickstart that has pushed to the hub, and what it printed."""
    folder = tmp_path_factory.mktemp("pushed")
    recipe = repository / "recipes" / "quickstart.yaml"
    done = program("train", recipe, *SHRUNK, *PUSHES, folder=folder, **hub.environment)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart", done.stdout + done.stderr


def not_hidden(files):
    return {name: data for name, data in files.items() if name[0] != "."}


def test_the_final_adapter_is_on_main_and_each_checkpoint_on_its_branch(hub, pushed):
    run_dir, printed = pushed
    branches = hub.files["me/adder"]
    weights = "adapter_model.safetensors"
    assert branches["main"][weights] == (run_dir / "adapter" / weights).read_bytes()
    assert hub.commits["me/adder"] == {
        "main": ["initial commit", "Add the final adapter of quickstart"],
        "step-000002": ["initial commit", "Add the adapter after step 2 of quickstart"],
        "step-000004": ["initial commit", "Add the adapter after step 4 of quickstart"],
    }
    for step in (2, 4):
        name = f"step-00000{step}"
        files = branches[name]
        assert files[weights] == (run_dir / "checkpoints" / name / "adapter" / weights).read_bytes()
        assert files.keys() == branches["main"].keys()
        assert f"| steps | {step} |" in files["README.md"].decode()
        assert f"pushed {name}: {hub.url}/me/adder/tree/{name} (private)" in printed
    assert f"pushed the final adapter: {hub.url}/me/adder (private)" in printed
    assert not (run_dir / "unpushed").exists()


def test_the_token_is_nowhere_but_in_requests(hub, pushed):
    run_dir, printed = pushed
    assert TOKEN not in printed
    for file in run_dir.rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes(), file
    for files in hub.files["me/adder"].values():
        assert not any(TOKEN.encode() in data for data in files.values())


def test_the_snippet_of_the_card_loads_what_was_pushed_in_plain_peft_and_generates(
    hub, pushed, python, repository, tmp_path
):
    card = hub.files["me/adder"]["main"]["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    program = tmp_path / "snippet.py"
    # The base model's own generation settings draw tokens; two draws need not be equal.
    greedy = "model.generation_config.do_sample = False"
    program.write_text(f"{code}\n{greedy}\nprint(complete('123+456='))\n", encoding="utf-8")
    home = {"HF_HOME": str(tmp_path / "home")}
    # The base model of the card is a folder, seen from the repository.
    done = python(program, folder=repository, **hub.environment, **home)
    assert done.returncode == 0, done.stderr
    base = AutoModelForCausalLM.from_pretrained(repository / "data" / "models" / "carry-adder")
    adapter = str(pushed[0] / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(base, adapter)
    inputs = tokenizer("123+456=", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=128, do_sample=False)
    start = inputs["input_ids"].shape[1]
    expected = tokenizer.decode(output[0, start:], skip_special_tokens=True)
    assert done.stdout.strip() == expected.strip() and "579" in expected


@pytest.fixture(scope="module")
def unpushed(program, write_small, tmp_path_factory):
    """The small run with a hub that is not there, and what it printed."""
    folder = tmp_path_factory.mktemp("unpushed")
    write_small(folder)
    done = program("train", "small.yaml", *PUSHES, folder=folder, **DEAD)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def commands_of(printed):
    return [
        shlex.split(line.partition("push it: ")[2])
        for line in printed.splitlines()
        if "push it: " in line
    ]


def test_a_dead_hub_changes_no_number_and_no_exit_code(unpushed, finished, assert_same_but_hub):
    folder, printed = unpushed
    assert_same_but_hub(folder / "runs" / "small", finished / "runs" / "small")
    assert printed.count("no connection to http://127.0.0.1:9") >= 4


def test_the_summary_names_what_is_not_pushed_and_its_commands_push_it(
    unpushed, hub, program, tmp_path
):
    folder, printed = unpushed
    commands = commands_of(printed)
    names = ["step-000002", "step-000004", "step-000005"]
    assert commands == [
        *(
            ["rl-llm", "push", f"runs/small/unpushed/{name}", "me/adder", "--revision", name]
            for name in names
        ),
        ["rl-llm", "push", "runs/small", "me/adder"],
    ]
    copy = shutil.copytree(folder, tmp_path / "copy")
    for words in (commands[0], commands[-1]):
        words[words.index("me/adder")] = "me/later"
        done = program(*words[1:], folder=copy, **hub.environment)
        assert done.returncode == 0, done.stderr
    found = hub.files["me/later"]
    # The checkpoint itself is long gone: two are kept.
    assert not (copy / "runs" / "small" / "checkpoints" / "step-000002").exists()
    assert b"| steps | 2 |" in found["step-000002"]["README.md"]
    assert b"| steps | 5 |" in found["main"]["README.md"]


def test_the_same_command_pushes_what_is_left_and_trains_nothing(
    unpushed, hub, program, read_metrics, tmp_path
):
    folder = shutil.copytree(unpushed[0], tmp_path / "copy")
    before = (folder / "runs" / "small" / "metrics.jsonl").read_bytes()
    elsewhere = ["hub.repo_id=me/again", "hub.push=[checkpoint, end]"]
    done = program("train", "small.yaml", *elsewhere, folder=folder, **hub.environment)
    assert done.returncode == 0, done.stderr
    assert "nothing is left to do" in done.stdout and "not pushed" not in done.stdout
    branches = set(hub.commits["me/again"])
    assert branches == {"main", "step-000002", "step-000004", "step-000005"}
    assert (folder / "runs" / "small" / "metrics.jsonl").read_bytes() == before
    assert not (folder / "runs" / "small" / "unpushed").exists()


def test_a_run_resumes_with_another_hub_and_its_numbers_are_those_of_one_without(
    hub, program, finished, prepare, tmp_path, read_metrics, lasting
):
    folder = prepare(tmp_path)
    words = ["train", "small.yaml", "curriculum.sampler.name=stopping.py:Posterior"]
    first = program(*words, folder=folder, STOP="4 SIGTERM")
    assert first.returncode == 143, first.stderr
    done = program(*words, "hub.repo_id=me/resumed", folder=folder, **hub.environment)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout and hub.commits["me/resumed"].keys() == {"main"}
    ours, whole = (read_metrics(each / "runs" / "small") for each in (folder, finished))
    assert lasting(ours) == lasting(whole)


def test_a_wrong_repository_name_is_exit_2_before_the_run(program, write_small, tmp_path):
    write_small(tmp_path)
    done = program("train", "small.yaml", "hub.repo_id=me/has space", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: hub.repo_id='me/has space': Repo id must use")
    assert not (tmp_path / "runs").exists()


def test_of_two_processes_the_first_alone_pushes(python, repository, write_small, tmp_path):
    own = _hub.fake_hub.FakeHub()
    write_small(tmp_path)
    config = repository / "recipes" / "accelerate" / "cpu.yaml"
    options = ["-m", "accelerate.commands.launch", f"--config_file={config}"]
    words = [*options, "--main_process_port=0", repository / "scripts" / "train.py", "small.yaml"]
    short = ["run.steps=2", "hub.repo_id=me/adder", "hub.push=[checkpoint, end]"]
    done = python(*words, *short, folder=tmp_path, **own.environment)
    own.close()
    assert done.returncode == 0, done.stderr
    assert own.commits["me/adder"] == {
        "main": ["initial commit", "Add the final adapter of small"],
        "step-000002": ["initial commit", "Add the adapter after step 2 of small"],
    }
    assert done.stdout.count("pushed the final adapter: ") == 1


def test_ctrl_c_while_a_hub_hangs_leaves_the_results_and_the_command(write_small, tmp_path):
    own = _hub.fake_hub.FakeHub()
    own.script = lambda method, path, count: "hang"
    write_small(tmp_path)
    short = ["run.steps=1", "eval.every=9", "hub.repo_id=me/adder"]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    run = subprocess.Popen(
        [sys.executable, "-m", "rl_llm", "train", "small.yaml", *short],
        cwd=tmp_path,
        env=os.environ | own.environment | quiet | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed = []
        while not own.asked:
            assert run.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        printed = run.communicate(timeout=30)[0]
        assert time.monotonic() - began < 15
    finally:
        run.kill()
        own.close()
    assert run.returncode == 130
    assert (tmp_path / "runs" / "small" / "adapter" / "README.md").is_file()
    assert commands_of(printed) == [["rl-llm", "push", "runs/small", "me/adder"]]
