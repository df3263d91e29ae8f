"""The program as a user runs it: a process of its own, real files, the shipped model.

Runs that several tests read are made once, also where pytest-xdist spreads the tests over workers.
A test that changes a run's folder copies it first.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]

# A step is half a second, and has refills, several updates and a KL that moves.
SMALL = """\
# Small, so that tests are quick.
run: {name: small, steps: 5, output_dir: runs}
model: {path: data/models/carry-adder}
lora: {rank: 8, alpha: 16.0}
data:
  train: [{use: arithmetic, levels: [3, 5, 7], size: 60, split: train, seed: 1}]
  eval: [{use: arithmetic, levels: [3, 5, 7], size: 12, split: eval, seed: 1}]
  max_prompt_tokens: 32
rewards:
  - {use: exact_answer, weight: 1.0, channel: correctness}
  - {use: answer_tags, weight: 0.1, channel: format}
curriculum:
  sampler: {name: posterior}
  gates: [{name: informative, of: correct}]
  refill: {max_rounds: 2}
rollout: {problems_per_step: 4, group_size: 4, max_new_tokens: 96}
algorithm: {name: grpo}
kl: {controller: {name: grpo_d, min: 0.0, max: 0.02, valley: 0.3}}
optim: {lr: 1.0e-3, tokens_per_micro_batch: 1024, updates_per_batch: 2, epochs: 2}
eval: {every: 2, train_problems: 4}
checkpoint: {every: 2, keep: 2}
tracking: [jsonl, tensorboard]
"""


# A sampler of one's own that sends its process the signal NAME at the start of step STEP, where the
# environment says STOP="STEP NAME"; without it, the built-in sampler.
STOPPING = """\
import os
import signal

from rl_llm.curriculum import samplers


def stop(step, round):
    at, _, name = os.environ.get("STOP", "0 SIGTERM").partition(" ")
    if (step, round) == (int(at), 0):
        os.kill(os.getpid(), signal.Signals[name])


class Posterior(samplers.Posterior):
    def plan(self, step, num_problems, *, round=0, exclude=None):
        stop(step, round)
        return super().plan(step, num_problems, round=round, exclude=exclude)


class Uniform(samplers.Uniform):
    def plan(self, step, num_problems, *, round=0, exclude=None):
        stop(step, round)
        return super().plan(step, num_problems, round=round, exclude=exclude)
"""


@pytest.fixture(scope="session")
def repository():
    return ROOT


@pytest.fixture(scope="session")
def write_small():
    """Write the small recipe into a folder and return its path."""

    def write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "small.yaml"
        file.write_text(SMALL, encoding="utf-8")
        return file

    return write


@pytest.fixture
def small(tmp_path, monkeypatch, write_small):
    """Stand in an empty folder with the small recipe in it."""
    monkeypatch.chdir(tmp_path)
    return write_small(tmp_path)


@pytest.fixture(scope="session")
def python():
    """Run the interpreter of the tests in a folder, on one thread; environment by keyword."""

    def run(*arguments, folder, timeout_s=240, **environment):
        # Idle threads of a machine that is shared must not spin.
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | threads | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            printed, said = process.communicate(timeout=timeout_s)
        except BaseException:
            # Processes of a launcher are in sessions of their own, and would go on without it.
            family = psutil.Process(process.pid).children(recursive=True)
            for each in (process, *family):
                each.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, printed, said)

    return run


@pytest.fixture(scope="session")
def program(python):
    """Run `rl-llm` in a folder, as a process of its own."""

    def run(*arguments, folder, **environment):
        return python("-m", "rl_llm", *arguments, folder=folder, **environment)

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make a folder once for all workers: `make(folder)` fills it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name, make):
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (folder / ".made").is_file():
                folder.mkdir(exist_ok=True)
                make(folder)
                (folder / ".made").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def finished(once, program, write_small):
    """A folder with the small recipe, its finished run, and what the program printed; read only."""

    def make(folder):
        write_small(folder)
        done = program("train", "small.yaml", folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / "printed.txt").write_text(done.stdout, encoding="utf-8")

    return once("finished-run", make)


@pytest.fixture(scope="session")
def read_metrics():
    """Return the rows of a run."""

    def read(run_dir):
        lines = (Path(run_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture(scope="session")
def lasting():
    """Return of each row what a resumed run repeats exactly."""

    def is_clock(key):
        return key == "step_s" or key.startswith("time/") or key.endswith("_per_s")

    def strip(rows):
        return [{k: v for k, v in row.items() if not is_clock(k)} for row in rows]

    return strip


@pytest.fixture
def prepare(write_small):
    """Write into a folder the small recipe, and the samplers that stop a run."""

    def into(folder):
        write_small(folder)
        (folder / "stopping.py").write_text(STOPPING, encoding="utf-8")
        return folder

    return into


@pytest.fixture
def assert_same_but_hub(assert_same_run):
    """Compare two runs like `assert_same_run`, but for the section `hub` of their recipes."""

    def strip(state):
        state["recipe"].pop("hub")
        return state

    return lambda ours, whole: assert_same_run(ours, whole, strip=strip)


@pytest.fixture
def assert_same_run(read_metrics, lasting):
    """Compare everything that two run folders hold and no clock has touched."""

    def compare(ours, whole, *, strip=lambda state: state):
        assert lasting(read_metrics(ours)) == lasting(read_metrics(whole))
        assert_same_tensors(
            load_file(ours / "adapter" / "adapter_model.safetensors"),
            load_file(whole / "adapter" / "adapter_model.safetensors"),
        )
        last, last_whole = (sorted((run / "checkpoints").iterdir())[-1] for run in (ours, whole))
        assert last.name == last_whole.name
        ours_state, whole_state = (
            strip(read_json(checkpoint / "state.json")) for checkpoint in (last, last_whole)
        )
        assert ours_state == whole_state
        beliefs, beliefs_whole = (
            pq.read_table(checkpoint / "curriculum.parquet") for checkpoint in (last, last_whole)
        )
        assert beliefs.equals(beliefs_whole)
        assert_same_tensors(
            torch.load(last / "trainer" / "policy.pt"),
            torch.load(last_whole / "trainer" / "policy.pt"),
        )
        samples, samples_whole = (
            {file.name: file.read_bytes() for file in (run / "completions").iterdir()}
            for run in (ours, whole)
        )
        assert samples == samples_whole
        ours_evaluated, whole_evaluated = (
            (run / "evaluations.jsonl").read_bytes() for run in (ours, whole)
        )
        assert ours_evaluated == whole_evaluated

    return compare


def assert_same_tensors(ours, whole):
    """Compare trees of mappings, lists, tensors and plain values, tensors bit by bit."""
    assert type(ours) is type(whole)
    if isinstance(whole, dict):
        assert ours.keys() == whole.keys()
        for key in whole:
            assert_same_tensors(ours[key], whole[key])
    elif isinstance(whole, list | tuple):
        assert len(ours) == len(whole)
        for our_item, item in zip(ours, whole, strict=True):
            assert_same_tensors(our_item, item)
    elif isinstance(whole, torch.Tensor):
        assert ours.dtype == whole.dtype and torch.equal(ours, whole)
    else:
        assert ours == whole


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
