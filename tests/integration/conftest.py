"""The program as a user runs it: a process of its own, real files, the shipped model.

Runs that several tests read are made once, also where pytest-xdist spreads the tests over workers.
A test that changes a run's folder copies it first.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

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
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=os.environ | threads | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

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
