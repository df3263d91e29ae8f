"""Runs that generate ahead, and runs that lose their engine: each goes on exactly."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rl_llm.cli import parts
from rl_llm.cli.main import main
from rl_llm.errors import EngineLost
from rl_llm.trainer import Trainer
from rl_llm.trainer.pending import Pending

pytestmark = pytest.mark.slow

GENTLE = "optim={lr: 2.0e-4, tokens_per_micro_batch: 1024, updates_per_batch: 2, epochs: 2}"
REFILLS = [
    *("run.steps=6", GENTLE),
    "curriculum={sampler: {name: stopping.py:Posterior}, learn_from_eval: true}",
    "curriculum.refill={max_rounds: 2}",
    "eval.every=3",
]
PROBES = [
    *("run.steps=6", GENTLE),
    "model.path=data/models/carry-adder-frontier",
    "data.train.0.levels=[4,5,6]",
    "data.train.0.size=120",
    "curriculum={sampler: {name: stopping.py:Uniform}, probe: {completions: 2, problems: 10}}",
    "rollout.problems_per_step=3",
]
ENDLESS = [
    *("run.steps=6", GENTLE),
    "data.train.0.endless=true",
    "curriculum={sampler: {name: stopping.py:Posterior}}",
]


@pytest.fixture
def train(monkeypatch, prepare):
    """Run the small recipe in a folder: `train(folder, *overrides, stop=None) -> exit code`."""

    def run(folder, *overrides, stop=None):
        if not folder.is_dir():
            prepare(folder)
        monkeypatch.chdir(folder)
        with monkeypatch.context() as environment:
            if stop is not None:
                environment.setenv("STOP", stop)
            return main(["train", "small.yaml", *overrides])

    return run


def checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("overrides", "max_staleness"),
    [(REFILLS, 1), (REFILLS, 2), (PROBES, 1), (PROBES, 2), (ENDLESS, 1)],
    ids=["refills-1", "refills-2", "probes-1", "probes-2", "endless-1"],
)
def test_a_run_that_generates_ahead_is_resumed_exactly(
    train, tmp_path, assert_same_run, read_metrics, overrides, max_staleness
):
    settings = [*overrides, f"rollout.max_staleness={max_staleness}", "checkpoint.every=4"]
    whole, ours = (tmp_path / name / "runs" / "small" for name in ("whole", "stopped"))
    assert train(tmp_path / "whole", *settings) == 0
    assert train(tmp_path / "stopped", *settings, stop="4 SIGTERM") == 143
    (stopped,) = checkpoints(ours)
    step = int(stopped.name.removeprefix("step-"))
    assert step in range(4 - max_staleness, 4)
    pending = Pending()
    pending.load(stopped)
    assert list(pending.reports) == list(range(step + 1, step + 1 + max_staleness))
    assert train(tmp_path / "stopped", *settings) == 0
    assert_same_run(ours, whole)
    assert (ours / "draws.jsonl").read_bytes() == (whole / "draws.jsonl").read_bytes()

    rows = read_metrics(whole)[1:]
    learnt = [row for row in rows if row["train/trained_tokens"]]
    assert len(learnt) >= 4
    assert all(row["rollout/stale_share"] == (row["step"] > 1) for row in learnt)
    assert all(row["time/wait_s"] >= 0 for row in rows)
    if overrides is REFILLS:
        assert any(row["rollout/refill_rounds"] > 0 for row in rows)


def test_what_was_generated_ahead_of_an_early_end_is_kept_and_not_counted(
    train, tmp_path, read_metrics
):
    early = ["run.steps=6", "rollout.max_staleness=1", "eval.stop_when=0.001"]
    assert train(tmp_path / "run", *early, "curriculum.sampler={name: uniform}") == 0
    run_dir = tmp_path / "run" / "runs" / "small"
    rows = read_metrics(run_dir)
    assert rows[-1]["step"] == 2
    draws = [json.loads(line) for line in (run_dir / "draws.jsonl").read_text().splitlines()]
    assert {draw["step"] for draw in draws} == {1, 2}
    # Groups of 4 completions.
    assert rows[-1]["rollout/completions"] == 4 * len(draws)
    pending = Pending()
    pending.load(checkpoints(run_dir)[-1])
    assert list(pending.reports) == [3] and pending.reports[3].harvest.scored


class EndOfPower(BaseException):
    """Nothing is saved behind it."""


def end_of_power(*_):
    raise EndOfPower


@dataclass
class Losable:
    """An engine that is gone in the middle of its call number `nth` of a kind."""

    engine: object
    kind: str
    nth: int
    words: str = "no server answers"
    may_be_lost: bool = True
    num_calls: int = 0
    is_closed: bool = False
    events: list = field(default_factory=list)

    def complete(self, requests):
        self.events.append("complete")
        # An evaluation asks for 12 held-out problems and 4 of the pool, a harvest for fewer.
        kind = "evaluation" if len(requests) == 16 else "harvest"
        self.num_calls += kind == self.kind
        groups = self.engine.complete(requests)
        yield next(groups)
        if kind == self.kind and self.num_calls == self.nth:
            raise EngineLost(self.words)
        yield from groups

    def load_weights(self, adapter_dir, *, version):
        self.events.append("load")
        self.engine.load_weights(adapter_dir, version=version)

    def rest(self):
        self.events.append("rest")
        self.num_calls += self.kind == "rest"
        if self.kind == "rest" and self.num_calls == self.nth:
            raise EngineLost(self.words)
        self.engine.rest()

    def cut(self):
        self.engine.cut()

    def take_messages(self):
        return [f"heard behind {self.events[-1]}"] if self.events[-1:] == ["complete"] else []

    def close(self):
        self.is_closed = True
        self.engine.close()


@pytest.fixture
def lose(monkeypatch):
    """Let the next runs lose their engine: `lose(kind, nth)`; the engines, as they are built."""
    build_engine, built = parts.build_engine, []

    def start(kind, nth, **words):
        def build(*given, **named):
            built.append(Losable(build_engine(*given, **named), kind, nth, **words))
            return built[-1]

        monkeypatch.setattr(parts, "build_engine", build)
        return built

    return start


@pytest.mark.parametrize(
    ("max_staleness", "kind", "nth"),
    [
        *((0, "harvest", 6), (0, "evaluation", 2), (0, "rest", 3)),
        *((1, "harvest", 7), (1, "evaluation", 2)),
        *((2, "harvest", 8), (2, "evaluation", 2)),
    ],
)
def test_a_run_that_lost_its_engine_goes_on_as_if_it_had_not(
    train, tmp_path, lose, capsys, assert_same_run, max_staleness, kind, nth
):
    settings = [*REFILLS, f"rollout.max_staleness={max_staleness}", "checkpoint.every=9"]
    whole, ours = (tmp_path / name / "runs" / "small" for name in ("whole", "lost"))
    assert train(tmp_path / "whole", *settings) == 0
    built = lose(kind, nth)
    assert train(tmp_path / "lost", *settings) == 1
    (saved,) = checkpoints(ours)
    step = int(saved.name.removeprefix("step-"))
    assert 1 <= step < 6
    assert capsys.readouterr().err == (
        f"error: no server answers; a checkpoint was written after step {step}; run the same "
        "command again to go on\n"
    )
    assert [engine.is_closed for engine in built] == [True]
    lose(kind, -1)
    assert train(tmp_path / "lost", *settings) == 0
    assert_same_run(ours, whole)
    assert (ours / "draws.jsonl").read_bytes() == (whole / "draws.jsonl").read_bytes()


def test_a_row_that_a_lost_evaluation_held_back_is_written_once(
    train, tmp_path, lose, read_metrics
):
    constant = ["kl.controller={name: constant}", "curriculum.refill={max_rounds: 0}"]
    settings = [*constant, "eval.every=4", "checkpoint.every=9"]
    # Evaluations stand before the first step, and behind steps 4 and 6, the last.
    lose("evaluation", 3)
    assert train(tmp_path / "run", *settings, "run.steps=6") == 1
    # Step 6 is not to be evaluated in a longer run. Step 8 is cut short.
    lose("harvest", 2)
    assert train(tmp_path / "run", *settings, "run.steps=10") == 1
    lose("harvest", -1)
    assert train(tmp_path / "run", *settings, "run.steps=10") == 0
    rows = read_metrics(tmp_path / "run" / "runs" / "small")
    assert [row["step"] for row in rows] == list(range(11))


def test_a_step_that_was_finished_behind_a_resume_and_lost_again_is_written_once(
    train, tmp_path, lose, read_metrics, monkeypatch
):
    settings = ["run.steps=6", "eval.every=4", "checkpoint.every=9"]
    # Evaluations stand before the first step, and behind steps 4 and 6, the last.
    lose("evaluation", 2)
    assert train(tmp_path / "run", *settings) == 1
    lose("harvest", -1)
    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "_train_one_step", end_of_power)
        with pytest.raises(EndOfPower):
            train(tmp_path / "run", *settings)
    run_dir = tmp_path / "run" / "runs" / "small"
    assert [row["step"] for row in read_metrics(run_dir)] == list(range(5))
    assert train(tmp_path / "run", *settings) == 0
    assert [row["step"] for row in read_metrics(run_dir)] == list(range(7))
    lines = (run_dir / "evaluations.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["step"] for line in lines) == {0: 12, 4: 12, 6: 12}


def test_a_dry_step_still_ends_the_run_where_its_evaluation_was_lost(
    train, tmp_path, lose, capsys, read_metrics
):
    settings = ["run.steps=6", "eval.every=1", "data.train.0.levels=[8]", "checkpoint.every=9"]
    settings += ["curriculum.refill={max_rounds: 0, when_dry: stop}"]
    lose("evaluation", 2)
    assert train(tmp_path / "run", *settings) == 1
    assert "a checkpoint was written after step 1" in capsys.readouterr().err
    lose("harvest", -1)
    assert train(tmp_path / "run", *settings) == 1
    assert capsys.readouterr().err.startswith("error: nothing to learn from in")
    rows = read_metrics(tmp_path / "run" / "runs" / "small")
    assert [row["step"] for row in rows] == [0, 1]


def test_after_going_back_a_lost_engine_says_to_leave_resume_out(train, tmp_path, lose, capsys):
    settings = ["run.steps=6", "eval.every=9", "checkpoint={every: 2, keep: 9}"]
    settings += ["curriculum.refill={max_rounds: 0}"]
    back = "runs/small/checkpoints/step-000002"
    assert train(tmp_path / "run", *settings) == 0
    capsys.readouterr()
    lose("harvest", 2)
    assert train(tmp_path / "run", *settings, "--resume", back) == 1
    way_out = "run the same command again (without --resume) to go on\n"
    assert capsys.readouterr().err.endswith(f"written after step 3; {way_out}")
    lose("harvest", -1)
    assert train(tmp_path / "run", *settings) == 0
    assert "resuming runs/small/checkpoints/step-000003" in capsys.readouterr().out


def test_an_engine_that_is_lost_before_the_first_step_leaves_a_run_that_starts_over(
    train, tmp_path, lose, capsys
):
    settings = ["run.steps=2", "eval.every=2"]
    way_out = "no step was done: run the same command again to start over\n"
    lose("harvest", 1)
    assert train(tmp_path / "run", *settings) == 1
    assert capsys.readouterr().err == f"error: no server answers; {way_out}"
    lose("harvest", 1, words="start one:\n  vllm serve m")
    assert train(tmp_path / "run", *settings) == 1
    assert capsys.readouterr().err == f"error: start one:\n  vllm serve m\n{way_out}"
    lose("harvest", -1)
    assert train(tmp_path / "run", *settings) == 0


def test_the_engine_rests_before_each_update_but_never_where_it_generates_meanwhile(
    train, tmp_path, lose, capsys
):
    alone = ["run.steps=2", "data.eval=[]", "eval.train_problems=0"]
    alone += ["curriculum={sampler: {name: uniform}}"]
    built = lose("", 0)
    assert train(tmp_path / "turns", *alone) == 0
    assert train(tmp_path / "ahead", *alone, "rollout.max_staleness=1") == 0
    turns, ahead = built
    assert turns.events == ["load", "complete", "rest", "load", "complete", "rest", "load"]
    assert ahead.events == ["load", "complete", "complete", "load", "load"]
    assert capsys.readouterr().out.count("heard behind complete") == 2 + 2


def test_a_dry_run_takes_its_step_in_the_thread_of_generation_and_ends(tmp_path, prepare):
    file = prepare(tmp_path / "run") / "small.yaml"
    assert main(["validate", str(file), "--dry-run", "rollout.max_staleness=1"]) == 0


@pytest.fixture
def on_two_ranks(tmp_path, write_small):
    """Train on two processes in a folder; return what each noted down."""

    def run(folder=tmp_path, **environment):
        root = Path(__file__).parents[2]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                f"--config_file={root / 'recipes' / 'accelerate' / 'cpu.yaml'}",
                "--main_process_port=0",
                str(Path(__file__).with_name("overlapping_ranks.py")),
                str(write_small(folder)),
                *("run.steps=4", "eval.every=2", "rollout.max_staleness=1"),
            ],
            env=os.environ | threads | environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads((folder / f"rank-{n}.json").read_text()) for n in (0, 1)]

    return run


def test_two_ranks_that_generate_ahead_end_and_hold_the_same_plan(on_two_ranks):
    first, second = on_two_ranks()
    assert len(first["harvests"]) == 4 and first == second
    versions = [{group[-1] for group in harvest} for harvest in first["harvests"]]
    assert versions == [{0}, {0}, {1}, {2}]


def test_an_engine_that_one_of_two_ranks_has_lost_ends_both_and_both_go_on_as_if_it_had_not(
    on_two_ranks, tmp_path
):
    whole, _ = on_two_ranks(tmp_path / "whole")
    first, second = on_two_ranks(LOST_ON="1")
    assert first == second
    (saved,) = checkpoints(tmp_path / "run")
    step = int(saved.name.removeprefix("step-"))
    assert f"a checkpoint was written after step {step};" in first["lost"]

    first, second = on_two_ranks()
    assert first == second
    again = first.pop("harvests")
    assert 1 <= len(again) < 4
    assert again == whole.pop("harvests")[-len(again) :]
    assert first == whole
