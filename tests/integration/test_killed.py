"""A run that gets signals again and again, at random moments, ends as one that never got any."""

import json
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rl_llm.plugins import load_module
from rl_llm.seeds import derive_rng

pytestmark = pytest.mark.slow

WarmRuns = load_module(Path(__file__).with_name("warm.py")).WarmRuns

# A step is less than a second and has refills, two updates, and a KL that moves.
TINY = [
    "data.train.0={use: arithmetic, levels: [5, 6, 7], size: 60, split: train, seed: 1}",
    "data.eval.0={use: arithmetic, levels: [5, 6, 7], size: 6, split: eval, seed: 1}",
    "rollout.problems_per_step=3",
    "rollout.max_new_tokens=88",
    "optim={lr: 3.0e-4, tokens_per_micro_batch: 1024, updates_per_batch: 2}",
    "eval={every: 10, train_problems: 2}",
    "checkpoint={every: 2, keep: 2}",
    "tracking=[jsonl]",
]
# Where 24 signals fall, in an order that is drawn; the 25th falls behind the last step.
AIMS = ["start"] * 3 + ["step"] * 9 + ["update"] * 4 + ["writing"] * 5 + ["written"] * 3


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A moment: behind `num_rows` steps of a life the next event of a kind, and `delay` later.

    `delay` is a share of what usually follows: of the start, a step, an update, or the writing of a
    checkpoint.
    """

    kind: str
    num_rows: int
    delay: float


def draw_aims(num_signals, max_rows, *seed):
    """Draw as many moments as a run gets signals."""
    rng = derive_rng("signals", *seed)
    some = AIMS[:: len(AIMS) // (num_signals - 1)]  # Of each kind its share.
    kinds = [some[place] for place in rng.permutation(len(some))]
    aims = [
        Aim(kind=kind, num_rows=int(rng.integers(max_rows + 1)), delay=float(rng.uniform()))
        for kind in kinds
    ]
    return [*aims, Aim(kind="end", num_rows=0, delay=float(rng.uniform()))]


class Life:
    """A run between its start and the signal, seen from outside."""

    def __init__(self, run, run_dir, steps):
        self.run, self.run_dir, self._steps = run, run_dir, steps
        self._folders = self._named_folders()

    def wait_for(self, aim, usual_s):
        """Return at the moment of an aim."""
        if aim.kind == "end":
            self.run.wait_until(lambda: self._num_rows() > self._steps)
        elif aim.kind != "start":
            # Both logs are cut by then: this one is opened last.
            self.run.wait_until(lambda: self.run.appends_to(self.run_dir / "draws.jsonl"))
            goal = self._num_rows() + aim.num_rows
            self.run.wait_until(lambda: self._num_rows() >= goal)
            size = self._size_of_draws()
            {
                "step": lambda: None,
                "update": lambda: self.run.wait_until(lambda: self._size_of_draws() != size),
                "writing": lambda: self.run.wait_until(lambda: self._new_folders(".step-*")),
                "written": lambda: self.run.wait_until(lambda: self._new_folders("step-*")),
            }[aim.kind]()
        time.sleep(aim.delay * usual_s[aim.kind])

    def is_writing(self):
        """Whether a checkpoint of this life lies there half written."""
        return bool(self._new_folders(".step-*"))

    def _new_folders(self, pattern):
        found = self._named_folders() - self._folders
        return [name for name, _ in found if Path(name).match(pattern)]

    def _named_folders(self):
        try:
            return {
                (each.name, each.stat().st_ino) for each in (self.run_dir / "checkpoints").iterdir()
            }
        except FileNotFoundError:  # Also a folder that is renamed while we look.
            return set()

    def _num_rows(self):
        return (self.run_dir / "metrics.jsonl").read_bytes().count(b"\n")

    def _size_of_draws(self):
        file = self.run_dir / "draws.jsonl"
        return file.stat().st_size if file.exists() else 0


@pytest.fixture(scope="module")
def warm():
    runs = WarmRuns()
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def whole(warm, write_small, tmp_path_factory):
    """Return the folder of the run with these words that nobody stopped, made once."""
    made = {}

    def get(words):
        if words not in made:
            folder = made[words] = tmp_path_factory.mktemp("whole")
            write_small(folder)
            run = warm.start("train", "small.yaml", *words, folder=folder)
            assert run.wait() == 0, run.printed
        return made[words] / "runs" / "small"

    return get


def usual_seconds(rows, start_s):
    """Return how long a life takes to train, and a step, an update and a checkpoint take."""
    medians = {
        key: float(np.median([row[key] for row in rows if row.get(key)]))
        for key in ("step_s", "time/update_s", "time/checkpoint_s")
    }
    return {
        "start": 1.5 * start_s,
        "step": 1.2 * medians["step_s"],
        "update": medians["time/update_s"],
        "writing": min(0.04, 0.8 * medians["time/checkpoint_s"]),
        "written": 0.2 * medians["time/checkpoint_s"],
        "end": 0.5,
    }


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def assert_no_prompt_is_lost_or_counted_twice(ours, whole):
    """Each scored group stands in the log once, and as often in the checkpoint's count."""
    assert (ours / "draws.jsonl").read_bytes() == (whole / "draws.jsonl").read_bytes()
    draws = Counter(
        (row["step"], row["round"], row["key"]) for row in read_lines(ours / "draws.jsonl")
    )
    assert max(draws.values()) == 1
    rows = read_lines(ours / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[-1]["rollout/completions"] == 4 * len(draws)


@pytest.fixture
def ends_as_the_whole_run(warm, whole, tmp_path, write_small, assert_same_run, record_property):
    """Send a run a signal at each of these moments and resume it each time; compare what it comes
    to with the run that got none, and return the stage that each signal fell into (in stages.json,
    too, beside the run)."""

    def run(number, words, aims):
        ours, never_stopped = tmp_path / "runs" / "small", whole(words)
        write_small(tmp_path)
        rows = read_lines(never_stopped / "metrics.jsonl")
        usual_s = usual_seconds(rows, start_s=1.0)
        stages = []
        for aim in aims:
            process = warm.start("train", "small.yaml", *words, folder=tmp_path)
            stages.append(send(number, Life(process, ours, len(rows) - 1), aim, usual_s))
        last = warm.start("train", "small.yaml", *words, folder=tmp_path)
        assert last.wait() == 0, last.printed
        assert_same_run(ours, never_stopped)
        assert_no_prompt_is_lost_or_counted_twice(ours, never_stopped)
        (tmp_path / "stages.json").write_text(json.dumps(Counter(stages)), encoding="utf-8")
        return stages

    return run


def send(number, life, aim, usual_s):
    """Send a life its signal and see it end; return the stage that it was in."""
    life.wait_for(aim, usual_s)
    stage = None if aim.kind == "writing" else life.run.stage()
    life.run.send(number)
    code, printed = life.run.wait(), life.run.printed
    if number == signal.SIGKILL:
        assert code == -number, printed
        is_half_written = life.is_writing()
    else:
        assert code == 128 + number, printed
        assert not (life.run_dir / "run.lock").exists()
        is_half_written = aim.kind == "writing"
    return "checkpoint" if is_half_written else stage or "behind the checkpoint"


@pytest.mark.parametrize(("num_signals", "max_staleness", "num_steps"), [(25, 0, 30), (13, 1, 18)])
def test_a_run_killed_at_random_moments_ends_bit_identical_to_the_one_never_killed(
    ends_as_the_whole_run, num_signals, max_staleness, num_steps
):
    """25 times: 2 to 5 minutes on four cores, by what else runs there; ahead of training, 3."""
    aims = draw_aims(num_signals, 2, "kill", max_staleness)
    stages = ends_as_the_whole_run(signal.SIGKILL, words_of(num_steps, max_staleness), aims)
    assert set(stages) >= stages_hit(max_staleness)


@pytest.mark.parametrize(("num_signals", "max_staleness", "num_steps"), [(25, 0, 40), (13, 1, 24)])
def test_a_run_stopped_at_random_moments_ends_bit_identical_to_the_one_never_stopped(
    ends_as_the_whole_run, num_signals, max_staleness, num_steps
):
    """25 times: 4 to 7 minutes on four cores, by what else runs there; ahead of training, 4."""
    aims = draw_aims(num_signals, 1, "stop", max_staleness)
    stages = ends_as_the_whole_run(signal.SIGTERM, words_of(num_steps, max_staleness), aims)
    assert set(stages) >= stages_hit(max_staleness)


def stages_hit(max_staleness):
    """Return what signals must have fallen into; ahead of training, generation goes on during all
    of it and is not told apart."""
    return {"update", "checkpoint"} | ({"generation"} if max_staleness == 0 else set())


def words_of(num_steps, max_staleness):
    """Return what the small recipe is changed to."""
    return (*TINY, f"run.steps={num_steps}", f"rollout.max_staleness={max_staleness}")
