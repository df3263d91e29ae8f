"""Whole runs whose completions vLLM draws: they learn, and a server that dies costs nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import psutil
import pytest
import yaml

from rl_llm.cli.engines import find_vllm
from rl_llm.config import parse_recipe
from rl_llm.errors import CheckpointError
from rl_llm.plugins import load_module
from rl_llm.trainer.identity import Identity, check_identity

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(find_vllm() is None, reason="vLLM is not installed"),
]

STEPS, GROUP_SIZE, PER_STEP, HELD_OUT = 8, 4, 8, 24
SERVED = f"""\
run: {{name: served, steps: {STEPS}, output_dir: runs}}
model: {{path: data/models/carry-adder}}
data:
  train: [{{use: arithmetic, levels: [3, 4, 5], size: 200, split: train, seed: 1}}]
  eval: [{{use: arithmetic, levels: [3, 4, 5], size: {HELD_OUT}, split: eval, seed: 1}}]
  max_prompt_tokens: 32
rewards: [{{use: exact_answer}}]
curriculum: {{gates: [{{name: informative, of: correct}}], refill: {{max_rounds: 1}}}}
rollout:
  engine: vllm_server
  problems_per_step: {PER_STEP}
  group_size: {GROUP_SIZE}
  max_new_tokens: 96
optim: {{lr: 1.0e-3, tokens_per_micro_batch: 2048}}
eval: {{every: {STEPS}}}
checkpoint: {{every: {STEPS}}}
"""

# A sampler that, as the third step begins, does to its process what the environment says.
STRUCK = """\
import os
import signal

from rl_llm.curriculum import samplers


class Struck(samplers.Posterior):
    def plan(self, step, num_problems, *, round=0, exclude=None):
        if (step, round) == (3, 0):
            strike, _, name = os.environ["STRIKE"].partition(" ")
            getattr(os, strike)(0 if strike == "killpg" else os.getpid(), getattr(signal, name))
        return super().plan(step, num_problems, round=round, exclude=exclude)
"""


def test_two_processes_have_a_vllm_each_that_agrees_with_the_trainer(
    python, repository, tmp_path, read_metrics
):
    """The second step's completions come from merged weights that either process published."""
    overrides = ["rollout.engine=vllm", "rollout.vllm.kv_cache_gib=0.2", "data.eval=[]"]
    overrides += ["rollout.problems_per_step=6", "run.steps=3", "tracking=[jsonl]"]
    done = python(
        *("-m", "accelerate.commands.launch", "--main_process_port=0"),
        f"--config_file={repository / 'recipes' / 'accelerate' / 'cpu.yaml'}",
        *(repository / "scripts" / "train.py", repository / "recipes" / "quickstart.yaml"),
        *overrides,
        folder=tmp_path,
        timeout_s=600,
    )
    assert done.returncode == 0, done.stderr
    assert "weights are published merged" in done.stdout
    rows = read_metrics(tmp_path / "runs" / "quickstart")
    trained = [row for row in rows if row.get("train/trained_tokens")]
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and trained
    assert all(row["rollout/mismatch_mean_nats"] < 0.01 for row in trained)


def test_a_run_learns_with_vllm_in_its_process_tree(program, repository, tmp_path, read_metrics):
    recipe = repository / "recipes" / "quickstart.yaml"
    overrides = ["rollout.engine=vllm", "rollout.vllm.kv_cache_gib=1", "run.steps=10"]
    overrides += ["data.eval.1.size=292", "eval.every=10", "checkpoint.every=10"]
    done = program(
        "train", str(recipe), *overrides, "tracking=[jsonl]", folder=tmp_path, timeout_s=900
    )
    assert done.returncode == 0, done.stderr
    assert "engine: vllm" in done.stdout and "published merged" in done.stdout
    rows = read_metrics(tmp_path / "runs" / "quickstart")
    assert rows[-1]["eval/pass_rate"] - rows[0]["eval/pass_rate"] >= 0.15
    # Every step drew with the weights that it then learnt from, which the trainer agrees about.
    assert max(row["rollout/mismatch_mean_nats"] for row in rows[1:]) < 0.01
    assert {row["rollout/stale_share"] for row in rows[1:]} == {0.0}


def in_session_of(run):
    """Return the processes of a run that began a session of its own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == run.pid:
                found.append(process)
    return found


@pytest.fixture
def struck(tmp_path):
    """Run the served recipe with a vLLM of its own, in a session of its own, until it ends."""
    (tmp_path / "served.yaml").write_text(SERVED, encoding="utf-8")
    (tmp_path / "struck.py").write_text(STRUCK, encoding="utf-8")
    runs = []

    def start(strike, kill_at=None):
        overrides = ["rollout.engine=vllm", "rollout.vllm.kv_cache_gib=0.25"]
        overrides.append("curriculum.sampler={name: struck.py:Struck}")
        with (tmp_path / "said").open("w", encoding="utf-8") as said:
            run = subprocess.Popen(
                [sys.executable, "-m", "rl_llm", "train", "served.yaml", *overrides],
                cwd=tmp_path,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "STRIKE": strike},
                start_new_session=True,
            )
        runs.append(run)
        while kill_at is not None and run.poll() is None:
            if any(kill_at in " ".join(process.cmdline()) for process in in_session_of(run)):
                run.kill()
            time.sleep(0.1)
        return run.wait(timeout=900), (tmp_path / "said").read_text(encoding="utf-8"), run

    yield start
    for run in runs:
        for process in in_session_of(run):
            process.kill()


@pytest.mark.parametrize(("strike", "expected"), [("killpg SIGINT", 130), ("killpg SIGTERM", 143)])
def test_a_signal_to_the_whole_group_lets_vllm_finish_the_step(
    struck, tmp_path, read_metrics, strike, expected
):
    code, printed, run = struck(strike)
    assert code == expected, printed
    assert read_metrics(tmp_path / "runs" / "served")[-1]["step"] == 3
    assert (tmp_path / "runs" / "served" / "checkpoints" / "step-000003").is_dir()
    assert psutil.wait_procs(in_session_of(run), timeout=20)[1] == []


def test_a_killed_trainer_leaves_no_process_of_vllm(struck):
    code, printed, run = struck("kill SIGKILL")
    assert code == -signal.SIGKILL, printed
    assert psutil.wait_procs(in_session_of(run), timeout=20)[1] == []


def test_a_trainer_that_is_killed_while_vllm_starts_leaves_no_process_of_it(struck):
    code, printed, run = struck("", kill_at="multiprocessing.spawn")
    assert code == -signal.SIGKILL, printed
    assert psutil.wait_procs(in_session_of(run), timeout=60)[1] == []


def resumed_with(folder, **vllm):
    """Check a checkpoint against a recipe that says otherwise of vLLM."""
    saved, given = yaml.safe_load(SERVED), yaml.safe_load(SERVED)
    saved["rollout"]["engine"] = given["rollout"]["engine"] = "vllm"
    given["rollout"]["vllm"] = vllm
    saved, given = (parse_recipe(tree, where="test").model_dump() for tree in (saved, given))
    identity = Identity(recipe=given, model_fingerprint="f00d")
    check_identity(folder, {"recipe": saved, "model_fingerprint": "f00d"}, identity)


def test_what_memory_vllm_takes_may_differ_at_a_resume_and_how_it_publishes_may_not(tmp_path):
    resumed_with(tmp_path, memory_fraction=0.2, kv_cache_gib=0.5, sleep=False, compile=False)
    with pytest.raises(CheckpointError, match=r"rollout\.vllm\.publish: None in the checkpoint"):
        resumed_with(tmp_path, publish="adapter", memory_fraction=0.2)


def test_vllm_generates_in_a_second_thread_while_older_completions_are_learnt_from(
    program, repository, tmp_path, read_metrics
):
    recipe = repository / "recipes" / "quickstart.yaml"
    overrides = ["rollout.engine=vllm", "rollout.vllm.kv_cache_gib=1", "run.steps=4"]
    overrides += ["rollout.max_staleness=1", "data.eval.1.size=92", "eval.every=4"]
    done = program("train", str(recipe), *overrides, folder=tmp_path, timeout_s=900)
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "runs" / "quickstart")
    # Steps 1 and 2 are drawn by the first weights, step 3 by those behind step 1.
    assert [row["rollout/stale_share"] for row in rows[1:]] == [0.0, 1.0, 1.0, 1.0]
    assert all(0.5 < row["rollout/effective_sample_share"] <= 1.0 for row in rows[1:])
    assert all(row["time/wait_s"] >= 0.0 for row in rows[1:])


@pytest.fixture
def servers(repository, tmp_path):
    stock = load_module(repository / "tests" / "rollout" / "stock_server.py")
    model = str(repository / "data" / "models" / "carry-adder")
    with stock.serving(model, tmp_path, rank=16, max_model_len=128) as started:
        yield started


def test_a_server_that_dies_in_a_run_is_told_of_and_every_prompt_is_scored_exactly_once(
    servers, tmp_path, read_metrics
):
    (tmp_path / "served.yaml").write_text(SERVED, encoding="utf-8")
    urls = json.dumps([server.url for server in servers])
    command = ["-m", "rl_llm", "train", "served.yaml", f"rollout.servers.urls={urls}"]
    with (tmp_path / "said").open("w", encoding="utf-8") as said:
        run = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        try:
            draws = tmp_path / "runs" / "served" / "draws.jsonl"
            until_draws_of(2, draws, run)
            servers[0].kill()
            code = run.wait(timeout=900)
        finally:
            run.kill()
    printed = (tmp_path / "said").read_text(encoding="utf-8")
    assert code == 0, printed
    assert re.search(
        rf"{re.escape(servers[0].url)}.*lost|lost.*{re.escape(servers[0].url)}", printed
    )
    rows = read_metrics(tmp_path / "runs" / "served")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    scored = [json.loads(line) for line in draws.read_text(encoding="utf-8").splitlines()]
    assert Counter((d["step"], d["key"]) for d in scored).most_common(1)[0][1] == 1
    assert {draw["counted"] for draw in scored} == {GROUP_SIZE}
    first_rounds = Counter(draw["step"] for draw in scored if draw["round"] == 0)
    assert first_rounds == dict.fromkeys(range(1, STEPS + 1), PER_STEP)
    assert rows[-1]["rollout/completions"] == GROUP_SIZE * len(scored)


def until_draws_of(step, draws, run):
    """Return once a step was scored, while the run goes on."""
    end_s = time.monotonic() + 600
    while not (draws.is_file() and f'"step": {step},' in draws.read_text(encoding="utf-8")):
        assert run.poll() is None, "the run ended early"
        assert time.monotonic() < end_s, "the run never came so far"
        time.sleep(0.05)
