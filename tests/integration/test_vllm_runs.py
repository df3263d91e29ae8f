"""Whole runs whose completions vLLM draws: they learn, and a server that dies costs nothing."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from rl_llm.plugins import load_module

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm")]
pytest.importorskip("vllm", reason="vLLM is not installed")

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


@pytest.fixture
def servers(repository, tmp_path):
    stock = load_module(repository / "tests" / "rollout" / "stock_server.py")
    model = str(repository / "data" / "models" / "carry-adder")
    started = [
        stock.StockServer(model, tmp_path / f"server-{n}.log", rank=16, max_model_len=128)
        for n in range(2)
    ]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


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
