"""A run's folder as a run of 16 steps over 8 levels would leave it, and ways to leave things
out."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rl_llm.seeds import derive_rng

LEVELS = range(1, 9)
STEPS, EVERY = 16, 4
GROUPS, SIZE = 32, 8

RESOLVED = """\
# engine: transformers
# processes: 1
run:
  name: quickstart
  seed: 0
  steps: 16
  output_dir: runs
model:
  path: data/models/tiny-arithmetic
  dtype: float32
lora:
  rank: 16
rewards:
- use: exact_answer
  weight: 1.0
- use: answer_tags
  weight: 0.1
curriculum:
  sampler:
    name: posterior
rollout:
  engine: transformers
  problems_per_step: 32
  group_size: 8
algorithm:
  name: grpo
kl:
  controller:
    name: grpo_d
optim:
  lr: 0.001
"""


def pass_rate(step: int, level: int) -> float:
    """A frontier that moves from level 3 to level 6.5 over the run."""
    frontier = 2.6 + 4.2 * (1 - np.exp(-step / 6))
    return float(1 / (1 + np.exp(1.5 * (level - frontier))))


def eval_row(step: int) -> dict:
    noise = derive_rng("report", "eval", step)
    rates = {level: pass_rate(step, level) + 0.01 * noise.normal() for level in LEVELS}
    rates = {level: round(min(1.0, max(0.0, rate)), 4) for level, rate in rates.items()}
    return {
        "eval/pass_rate": round(sum(rates.values()) / len(rates), 4),
        "eval/pass_rate_se": 0.0172,
        **{f"eval/pass_rate/level={level}": rate for level, rate in rates.items()},
        "eval/completion_tokens_mean": 41.5 + step,
        "eval/truncated_share": max(0.0, 0.05 - 0.003 * step),
        "time/eval_s": 3.1 + 0.2 * noise.random(),
    }


def train_row(step: int) -> dict:
    noise = derive_rng("report", "train", step)
    beliefs = [pass_rate(step, level) for level in np.linspace(0.5, 8.5, 1000)]
    histogram, _ = np.histogram(beliefs, bins=10, range=(0, 1))
    informative = 0.34 + 0.3 * (1 - np.exp(-step / 4)) + 0.04 * noise.normal()
    tokens = int(256 * (40 + step))
    generate, score, update = 4 + noise.random(), 0.3 * noise.random(), 2.6 + 0.5 * noise.random()
    return {
        "step_s": generate + score + update + 0.4,
        "train/pass_rate": 0.43 + 0.01 * step + 0.03 * noise.normal(),
        "train/reward_mean": 0.5 + 0.012 * step + 0.02 * noise.normal(),
        "train/informative_share": informative,
        "train/groups_admitted": round(32 * informative),
        "train/completions_masked": int(noise.integers(0, 2)),
        "train/truncated_share": 0.06 - 0.003 * step,
        "train/completion_tokens_mean": 40 + step + noise.normal(),
        "train/trained_tokens": tokens // 2,
        "reward/exact_answer_mean": 0.43 + 0.01 * step + 0.03 * noise.normal(),
        "reward/answer_tags_mean": 1 - 0.5 * np.exp(-step / 3),
        "rollout/mismatch_mean_nats": 3.1e-6 * (1 + noise.random()),
        "rollout/mismatch_max_nats": 4.0e-5 * (1 + noise.random()),
        "rollout/completions": 256 * step,
        "rollout/tokens": 10_752 * step,
        "rollout/tokens_per_s": tokens / generate,
        "rollout/refill_rounds": int(noise.integers(0, 3)),
        "kl/ref_nats_per_token": 0.004 * step + 0.002 * noise.random(),
        "kl/old_nats_per_token": 2e-4 * noise.random(),
        "kl/beta": 0.02 * (0.5 - 0.02 * step),
        "kl/updates_left_out": int(step > 12),
        "kl/reference_refreshes": step // 6,
        "loss/policy": -0.01 * noise.random(),
        "loss/clip_rate": 0.012 * noise.random(),
        "loss/value": 0.03 + 0.2 * np.exp(-step / 4),
        "critic/explained_variance": 0.7 - 1.1 * np.exp(-step / 3) + 0.05 * noise.normal(),
        "critic/value_mean": 0.5 + 0.012 * step,
        "critic/grad_norm": 0.8 + 0.2 * noise.random(),
        "entropy_nats_per_token": 0.31 - 0.011 * step + 0.01 * noise.normal(),
        "optim/lr": 0.0 if step < 3 else 1e-3 * min(1, step / 5),
        "optim/grad_norm": 0.4 + 0.2 * noise.random(),
        "optim/skipped_updates": 0,
        "curriculum/visited_share": 1 - np.exp(-step / 20),
        "curriculum/belief_mean": float(np.mean(beliefs)),
        "curriculum/belief_histogram": [int(count) for count in histogram],
        **curriculum_row(step),
        "time/generate_s": generate,
        "time/score_s": score,
        "time/update_s": update,
        "time/publish_s": 0.08,
        **({"time/checkpoint_s": 0.3} if step > 1 and step % EVERY == 1 else {}),
    }


def curriculum_row(step: int) -> dict:
    """What a scheduler says that follows the frontier, on a pool of 1,000 prompts."""
    rates = {level: pass_rate(step, level) for level in LEVELS}
    weight = {level: rate * (1 - rate) for level, rate in rates.items()}
    groups = {k: round(GROUPS * w / sum(weight.values())) for k, w in weight.items()}
    centres = [(2 * place + 1) / 20 for place in range(10)]
    bins = [[40.0 + 300 * p * (1 - p), p, 0.9 * p + 0.03 + 0.3 * p / (step + 2)] for p in centres]
    bins[9] = [0.0, 0.0, 0.0]
    return {
        **{
            f"curriculum/groups/arithmetic/level={k}": count for k, count in groups.items() if count
        },
        "curriculum/admitted_share": 0.4 + 0.02 * step,
        "rollout/dropped_completions": round(256 * step * (0.6 - 0.01 * step)),
        "rollout/dropped_tokens": round(10_752 * step * (0.6 - 0.01 * step)),
        "curriculum/brier": 0.2 - 0.004 * step,
        "curriculum/brier_skill": 0.2 + 0.016 * step,
        "curriculum/calibration_error": 0.03 + 0.12 / (step + 1),
        "curriculum/informative_brier": 0.17 - 0.003 * step,
        "curriculum/calibration_bins": bins,
        "curriculum/visits_gini": 0.7 - 0.02 * step,
        "curriculum/staleness_mean_steps": 0.4 * step,
        "curriculum/retired_count": 9 * max(0, step - 3),
        "curriculum/deferred_count": 40 + 11 * step - step * step // 2,
        "curriculum/review_groups": int(step > 4),
        "curriculum/locked_buckets": max(0, 4 - step // 3),
        "curriculum/regressions": int(step > 9),
    }


def metric_rows() -> list[dict]:
    rows = [{"step": 0, **eval_row(0)}]
    for step in range(1, STEPS + 1):
        evaluated = eval_row(step) if step % EVERY == 0 else {}
        rows.append({"step": step, **train_row(step), **evaluated})
    return rows


def sample_row(step: int, level: int, draw: int, *, split: str = "eval") -> dict:
    """One completion of a sum of `level` + 1 numbers, written out as the model does."""
    noise = derive_rng("report", split, step, level, draw)
    numbers = [int(n) for n in derive_rng("report", level, split).integers(11, 99, size=level + 1)]
    right = bool(noise.random() < pass_rate(step, level))
    answer = sum(numbers)
    said = answer if right else answer + int(noise.choice([-10, -1, 1, 10]))
    sums = [f"{sum(numbers[:i])}+{numbers[i]}={sum(numbers[: i + 1])}" for i in range(1, level + 1)]
    return {
        "split": split,
        "step": step,
        "key": f"{level:02d}{split}7f3a9c0d1e5b8462",
        "source": "arithmetic",
        "level": level,
        "prompt": f"{' + '.join(map(str, numbers))} = ?",
        "answer": str(answer),
        "text": f"<think>{' ; '.join(sums)}</think>\n<answer>{said}</answer>",
        "token_count": 12 * (level + 1),
        "finish_reason": "stop" if level < 8 or right else "length",
        "total": 1.1 if right else 0.1,
        "parts": {"exact_answer": float(right), "answer_tags": 1.0},
        "correct": right,
        "error": None,
        "advantage": None,
        "belief": None if split == "eval" else round(pass_rate(step - 1, level), 3),
    }


def sample_rows(step: int) -> list[dict]:
    rows = [sample_row(step, level, 0) for level in LEVELS]
    for level in (5, 6, 7) if step else ():
        group = [sample_row(step, level, draw, split="train") for draw in range(SIZE)]
        totals = np.array([row["total"] for row in group])
        spread = totals.std() or 1.0
        for row, total in zip(group, totals, strict=True):
            row["advantage"] = round(float((total - totals.mean()) / spread), 4)
        rows += group
    return rows


def write_lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, *, rows: list[dict] | None = None, samples: bool = True) -> Path:
    """Write a run's folder with the given metric rows, or with those of a whole run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved.yaml").write_text(RESOLVED, encoding="utf-8")
    write_lines(folder / "metrics.jsonl", metric_rows() if rows is None else rows)
    for step in range(0, STEPS + 1, EVERY) if samples else ():
        write_lines(folder / "completions" / f"step-{step:06d}.jsonl", sample_rows(step))
    return folder


@pytest.fixture
def whole_run(tmp_path):
    """The folder of a finished run: every key, every sample."""
    return write_run(tmp_path / "whole")


@pytest.fixture
def make_run(tmp_path):
    """Write a run's folder from chosen metric rows; without samples unless asked for."""

    def make(rows: list[dict], *, samples: bool = False, name: str = "partial") -> Path:
        return write_run(tmp_path / name, rows=rows, samples=samples)

    return make


@pytest.fixture
def rows():
    """The metric rows of the finished run, to choose from."""
    return metric_rows()


@pytest.fixture
def make_sample():
    """Make one sample row: `make_sample(step, level, draw, split=...)`."""
    return sample_row


class Browser:
    """A headless chromium, started anew for each page."""

    def __init__(self, program, folder):
        self._program, self._folder = program, folder

    def load(self, page, *, flags=()):
        """Load a file; return the document as it ends, and the lines on the console."""
        quiet = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        )
        run = subprocess.run(
            [
                *(self._program, *quiet, f"--user-data-dir={self._folder / 'profile'}"),
                *("--virtual-time-budget=5000", "--enable-logging=stderr"),
                *("--window-size=1200,900", *flags, "--dump-dom", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return run.stdout, [line for line in run.stderr.splitlines() if ":CONSOLE" in line]

    def ask(self, page, script, *, width=1200):
        """Run a script at the end of a copy of the page, in a frame so wide, and return what it
        says by `say(text)`."""
        say = "const say = text => parent.postMessage(String(text), '*');"
        policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
        copy = policy.sub("", page.read_text(encoding="utf-8"))
        probed = copy.replace("</body>", f"<script>{{ {say}\n{script} }}</script></body>")
        (self._folder / "probed.html").write_text(probed, encoding="utf-8")
        frame = self._folder / "frame.html"
        frame.write_text(
            "<script>addEventListener('message', event => document.title = event.data)</script>"
            f"<iframe src=probed.html style='border:0;width:{width}px;height:900px'></iframe>"
        )
        dom, _ = self.load(frame)
        said = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
        assert said, "the script said nothing"
        return html.unescape(said.group(1))


@pytest.fixture
def browser(tmp_path):
    """A real browser, where this machine has one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on the PATH")
    folder = tmp_path / "browser"
    folder.mkdir()
    return Browser(program, folder)
