"""The loop with a real model: what an evaluation teaches, and what the watcher hears."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.config import load_recipe
from rl_llm.errors import PluginError, RunError
from rl_llm.policy import Ranks
from rl_llm.trainer import RunFolder, Trainer, checkpoint
from rl_llm.trainer.alarms import Alarms

# The model solves some sums of three digits and none of eight.
RECIPE = """\
run: {name: small, steps: 2, output_dir: runs}
model: {path: data/models/carry-adder}
lora: {rank: 2, alpha: 4.0}
data:
  train: [{use: arithmetic, levels: [3, 8], size: 24, split: train, seed: 1}]
  eval: [{use: arithmetic, levels: [3, 8], size: 6, split: eval, seed: 1}]
  max_prompt_tokens: 32
rewards: [{use: exact_answer, weight: 1.0, channel: correctness}]
rollout: {problems_per_step: 2, group_size: 2, max_new_tokens: 64}
kl: {controller: {name: constant}}
eval: {every: 1, train_problems: 4, samples_per_problem: 3}
checkpoint: {every: 1, keep: 9}
tracking: []
"""

HARD = ["data.train.0.levels=[8]", "data.eval=[]", "eval.train_problems=0", "run.steps=3"]


@dataclass
class Listener:
    """Keeps what it hears, and the state of the scheduler before and after every evaluation."""

    scheduler: object = None
    said_at: list = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    saved_names: list = field(default_factory=list)
    step: int = 0

    def stepped(self, row):
        self.step = row["step"]
        self.before.append(self.scheduler.state_dict())

    def evaluated(self, step, evaluation):
        self.evaluations.append(evaluation)
        self.after.append(self.scheduler.state_dict())

    def sampled(self, samples):
        pass

    def saved(self, checkpoint):
        self.saved_names.append(checkpoint.name)

    def said(self, message):
        self.said_at.append((self.step + 1, message))


@pytest.fixture
def prepare(tmp_path):
    """Return `(*overrides) -> parts` of a run in a folder of its own, with a listener."""
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")

    def make(*overrides, name="small"):
        recipe = load_recipe(file, overrides)
        ranks = Ranks()
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        folder, listener = RunFolder(tmp_path / name), Listener()
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=listener)
        listener.scheduler = parts.scheduler
        listener.before.append(parts.scheduler.state_dict())
        return parts

    return make


def counts_by_key(parts, state):
    """Return the completions that each problem's own evidence is worth, by key."""
    columns = state["columns"]
    own_N = columns["belief.belief_correct"] + columns["belief.belief_wrong"]
    return dict(zip(parts.scheduler.row_names, own_N.tolist(), strict=True))


def bucket_counts(state):
    return {name: facts[1] for name, facts in state["rest"]["belief"]["buckets"].items()}


def keys_of(scored):
    return {group.group.problem.key for group in scored}


def differing(first, second):
    return {key for key in first if first[key] != second[key]}


def test_an_evaluation_teaches_of_just_the_training_problems_that_it_measured(prepare):
    parts = prepare("curriculum={learn_from_eval: true, sampler: {name: uniform}}")
    heard = parts.watcher
    assert Trainer(parts).run()
    assert [len(states) for states in (heard.before, heard.evaluations, heard.after)] == [3, 3, 3]
    for before, evaluation, after in zip(heard.before, heard.evaluations, heard.after, strict=True):
        measured, held_out = keys_of(evaluation.scored_train), keys_of(evaluation.scored)
        assert len(measured) == 4 and len(held_out) == 6
        assert held_out.isdisjoint(parts.scheduler.row_names)
        theirs, now = counts_by_key(parts, before), counts_by_key(parts, after)
        assert differing(theirs, now) == measured
        # Nothing but the belief has learnt: no visit, no wait, no turn of the sampler.
        changed = {
            name
            for name in after["columns"]
            if not np.array_equal(after["columns"][name], before["columns"][name])
        }
        assert changed and all(name.startswith("belief.") for name in changed)
    # Before the first step 3 completions of 4 problems, 2 of each level, are all that is known; 3
    # completions of 6 held-out ones are not among it.
    assert bucket_counts(heard.after[0]) == {"arithmetic/level=3": 6.0, "arithmetic/level=8": 6.0}
    first = counts_by_key(parts, heard.after[0])
    assert {round(first[key], 3) for key in keys_of(heard.evaluations[0].scored_train)} == {3.0}


def test_an_evaluation_teaches_nothing_unless_asked(prepare):
    parts = prepare("curriculum={sampler: {name: uniform}}")
    heard = parts.watcher
    assert Trainer(parts).run()
    for before, evaluation, after in zip(heard.before, heard.evaluations, heard.after, strict=True):
        assert len(evaluation.scored_train) == 4
        assert differing(counts_by_key(parts, before), counts_by_key(parts, after)) == set()
        assert before["rest"] == after["rest"]
    assert set(bucket_counts(heard.after[0]).values()) == {0.0}


def almost_alarm(scheduler):
    """Let a detector stand just below its threshold: one more bad round of level 8 is enough."""
    state = scheduler.state_dict()
    state["rest"]["detector"]["piles"] = {"arithmetic/level=8": [4.9, 12.0, 3.0, 16.0]}
    scheduler.load_state_dict(state)


def test_what_the_scheduler_and_a_dry_step_have_to_say_is_heard_once_also_over_a_resume(prepare):
    whole = prepare(*HARD, name="whole")
    almost_alarm(whole.scheduler)
    assert Trainer(whole).run()
    (alarm_step, alarm), *dry = whole.watcher.said_at
    # Expected: 12 of the pile and half of 4; correct: 3 and 0. The step itself is dry, like all.
    assert alarm_step == 1
    assert alarm.startswith(
        "arithmetic/level=8: 15 % of 20 completions correct where 70 % were expected"
    )
    assert [step for step, _ in dry] == [1, 2, 3]
    assert dry[0][1].startswith("nothing to learn from in 2 groups (2 all wrong")
    again = "again nothing to learn from in 2 groups (2 all wrong, 0 all correct, 0 without a"
    assert all(message.startswith(again) and "Likely" not in message for _, message in dry[1:])

    stopped = prepare(*HARD)
    almost_alarm(stopped.scheduler)
    assert not Trainer(stopped, stop_requested=lambda: True).run()
    resumed = prepare(*HARD)
    [saved] = checkpoint.list_checkpoints(resumed.folder.checkpoints)
    checkpoint.load(saved, checkpoint.read_state(saved), resumed.stateful)
    resumed.watcher.step = resumed.counters.step
    assert Trainer(resumed).run()
    assert stopped.watcher.said_at == whole.watcher.said_at[:2]
    # A resumed run says in full again what goes on.
    (step, full), *rest = resumed.watcher.said_at
    assert (step, full.partition(":")[0]) == (2, dry[0][1].partition(":")[0])
    assert rest == whole.watcher.said_at[3:]


def test_a_checkpoint_that_was_written_on_a_gpu_is_read_without_that_gpu(prepare, monkeypatch):
    """On a GPU torch notes beside each tensor where it was, and puts it there again."""
    some = ["run.steps=1", "data.train.0.levels=[3]", "rollout.group_size=8", "data.eval=[]"]
    settings = [*some, "eval.train_problems=0"]
    written = prepare(*settings)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    assert Trainer(written).run()
    monkeypatch.undo()
    read = prepare(*settings)
    [saved] = checkpoint.list_checkpoints(read.folder.checkpoints)
    checkpoint.load(saved, checkpoint.read_state(saved), read.stateful)
    moments = [each.policy.state_dict()["optimizer"]["state"] for each in (written, read)]
    assert moments[0] and moments[0].keys() == moments[1].keys()
    for number, moment in moments[0].items():
        assert torch.equal(moment["exp_avg"], moments[1][number]["exp_avg"])


@dataclass
class Kept:
    """A sink that keeps its rows."""

    rows: list = field(default_factory=list)

    def write(self, row):
        self.rows.append(row)

    def close(self):
        pass


def end_dry(parts):
    """Run until a step without anything to learn from ends the run; return what its sinks hold."""
    metrics, draws = Kept(), Kept()
    with pytest.raises(RunError, match=r"^nothing to learn from in 2 groups.*the run ends here$"):
        Trainer(replace(parts, sinks=[metrics], draw_log=draws)).run()
    return metrics.rows, draws.rows


def test_a_dry_step_that_ends_the_run_is_logged_counted_and_saved_first(prepare):
    stops = [*HARD, "curriculum={refill: {when_dry: stop}}", "checkpoint.every=9"]
    parts = prepare(*stops)
    almost_alarm(parts.scheduler)
    metrics, draws = end_dry(parts)
    [(step, alarm)] = parts.watcher.said_at
    assert step == 1 and alarm.startswith("arithmetic/level=8: 15 % of 20 completions correct")
    assert [row["step"] for row in metrics] == [0, 1]
    assert (metrics[1]["train/groups_admitted"], metrics[1]["rollout/completions"]) == (0, 4)
    assert [(row["step"], row["correct"], row["admitted"]) for row in draws] == [(1, 0, False)] * 2
    assert parts.counters.step == 1
    assert parts.watcher.saved_names == ["step-000001"]

    resumed = prepare(*stops)
    [saved] = checkpoint.list_checkpoints(resumed.folder.checkpoints)
    checkpoint.load(saved, checkpoint.read_state(saved), resumed.stateful)
    _, later = end_dry(resumed)
    assert [row["step"] for row in later] == [2, 2]
    # Both remember the first step: what it drew is believed to be hard, and others come next.
    assert {row["key"] for row in later}.isdisjoint(row["key"] for row in draws)


class Raised:
    """Stands at some steps, and keeps what it is shown."""

    def __init__(self, *steps):
        self.steps, self.shown = steps, []

    def __call__(self, row):
        self.shown.append(row)
        return {"scripted": "why" if row["step"] in self.steps else None}


RARELY = ["run.steps=3", "eval.every=9", "checkpoint.every=9"]


def test_an_alarm_is_said_once_written_in_the_rows_and_has_samples_to_look_at(prepare):
    parts, metrics = prepare(*RARELY), Kept()
    Trainer(replace(parts, sinks=[metrics], alarms=Alarms([Raised(1, 2)]))).run()
    file = parts.folder.samples(1)
    assert [text for _, text in parts.watcher.said_at if text.startswith("alarm")] == [
        f"alarm scripted: why; look at {file}"
    ]
    assert [row["alarms/scripted"] for row in metrics.rows] == [0, 1, 1, 0]
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    # Both groups of the step, of 2 completions each; held-out ones are of evaluations.
    assert [(row["split"], row["step"]) for row in samples] == [("train", 1)] * 4
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == ["step-000000.jsonl", "step-000001.jsonl", "step-000003.jsonl"]


def test_an_alarm_that_may_ends_the_run_behind_a_checkpoint_but_not_behind_its_last_step(prepare):
    stops = [*RARELY, "alarms.stop=true"]
    parts, metrics = prepare(*stops), Kept()
    with pytest.raises(
        RunError, match=r"^alarm scripted: why; look at .*; run the same command again"
    ):
        Trainer(replace(parts, sinks=[metrics], alarms=Alarms([Raised(2)]))).run()
    assert [row["alarms/scripted"] for row in metrics.rows] == [0, 0, 1]
    assert parts.watcher.saved_names == ["step-000002"]
    last = prepare(*stops, name="last")
    assert Trainer(replace(last, alarms=Alarms([Raised(3)]))).run()
    assert [text for _, text in last.watcher.said_at if text.startswith("alarm scripted")]
    # Behind an evaluated step the samples are the evaluation's, held-out problems among them.
    samples = last.folder.samples(3).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["split"] for line in samples} == {"eval", "train"}


def test_a_dry_step_that_ends_the_run_says_so_and_an_alarm_of_the_same_step_beside_it(prepare):
    parts = prepare(*HARD, "curriculum={refill: {when_dry: stop}}", "alarms.stop=true")
    with pytest.raises(RunError, match=r"^nothing to learn from in 2 groups"):
        Trainer(replace(parts, alarms=Alarms([Raised(1)]))).run()
    assert [text for _, text in parts.watcher.said_at if text.startswith("alarm scripted: why")]


def test_a_resumed_run_shows_alarms_the_rows_up_to_its_checkpoint(prepare):
    stopped = prepare("eval.every=9")
    assert not Trainer(stopped, stop_requested=lambda: True).run()
    resumed, alarm = prepare("eval.every=9"), Raised(1)
    rows = "".join(json.dumps({"step": step}) + "\n" for step in range(3))
    resumed.folder.metrics.write_text(rows, encoding="utf-8")
    [saved] = checkpoint.list_checkpoints(resumed.folder.checkpoints)
    checkpoint.load(saved, checkpoint.read_state(saved), resumed.stateful)
    Trainer(replace(resumed, alarms=Alarms([alarm]))).run()
    assert [row["step"] for row in alarm.shown] == [0, 1, 2]
    assert "train/pass_rate" in alarm.shown[-1]
    assert not any(text.startswith("alarm") for _, text in resumed.watcher.said_at)


def test_a_step_taken_alone_ends_with_the_error_too_and_saves_nothing(prepare):
    parts = prepare(*HARD, "curriculum={refill: {when_dry: stop}}")
    with pytest.raises(RunError, match="the run ends here"):
        Trainer(parts).take_one_step()
    assert checkpoint.list_checkpoints(parts.folder.checkpoints) == []


def test_a_step_whose_admitted_groups_teach_nothing_says_so(prepare):
    # Without gates, groups of eight-digit sums are admitted, and all their completions are wrong.
    parts = prepare(*HARD, "curriculum.gates=[]", "run.steps=1")
    Trainer(parts).run()
    (said,) = [text for _, text in parts.watcher.said_at if text.startswith("nothing learnt")]
    assert said.startswith("nothing learnt: in each of the 2 groups that the gates admitted all")
    solvable = prepare("run.steps=1", "rollout.group_size=16", "data.train.0.levels=[3]", name="b")
    Trainer(solvable).run()
    assert not any(text.startswith("nothing learnt") for _, text in solvable.watcher.said_at)


OWN = """\
from dataclasses import replace

from rl_llm.algorithms import grpo


def poisoned():
    algorithm = grpo()
    nan = float("nan")
    return replace(algorithm, advantages=lambda scored: algorithm.advantages(scored) * nan)


def narrow():
    return replace(grpo(), advantages=lambda scored: scored.rewards_PG[:, :1])


def summed():
    return replace(grpo(), advantages=lambda scored: float(scored.rewards_PG.sum()))
"""
TEACHES = ("run.steps=1", "curriculum.gates=[]", "data.eval=[]", "eval.train_problems=0")


def test_an_update_that_is_not_finite_is_told_of_as_left_out_with_its_algorithm(prepare, tmp_path):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    parts = prepare(*TEACHES, f"algorithm={{name: '{tmp_path}/own.py:poisoned'}}")
    Trainer(parts).run()
    (said,) = [
        text for _, text in parts.watcher.said_at if "nothing learnt" in text or "left" in text
    ]
    assert said.startswith("an update was left out: its loss or gradient is not finite (algorithm")
    assert f"'{tmp_path}/own.py:poisoned'" in said


@pytest.mark.parametrize(
    ("name", "found"),
    [("narrow", r"a tensor of shape \(2, 1\)"), ("summed", r"0\.0")],
)
def test_advantages_that_are_not_a_number_for_each_completion_are_refused(
    prepare, tmp_path, name, found
):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    parts = prepare(
        *(*TEACHES, "data.train.0.levels=[8]"), f"algorithm={{name: '{tmp_path}/own.py:{name}'}}"
    )
    with pytest.raises(
        PluginError, match=rf":{name}': its advantages are {found}; .* shape, \(2, 2\) here"
    ):
        Trainer(parts).run()


def test_a_step_draws_again_until_the_share_of_its_groups_that_is_enough(prepare):
    """Of 4 groups 2 are enough: a round comes only where fewer were admitted before it."""
    parts = prepare(
        "rollout={problems_per_step: 4, group_size: 8, max_new_tokens: 64}",
        "data.train.0.levels=[3]",
        "curriculum.refill={max_rounds: 9, enough: 0.5}",
        "curriculum.sampler={name: uniform}",
        "run.steps=6",
    )
    draws = Kept()
    Trainer(replace(parts, draw_log=draws)).run()
    admitted = {}  # By step, in each round so far.
    for row in draws.rows:
        admitted.setdefault(row["step"], Counter())[row["round"]] += row["admitted"]
    assert any(len(rounds) > 1 for rounds in admitted.values())
    for rounds in admitted.values():
        assert rounds.total() >= 2
        assert rounds.total() - rounds[max(rounds)] < 2 or len(rounds) == 1


def test_each_evaluation_logs_its_held_out_problems_and_no_other(prepare):
    parts = prepare("run.steps=1")
    log = Kept()
    Trainer(replace(parts, evaluation_log=log)).run()
    evaluations = parts.watcher.evaluations
    assert len(log.rows) == 12
    for step, evaluation in enumerate(evaluations):
        own = [row for row in log.rows if row["step"] == step]
        assert {row["key"] for row in own} == keys_of(evaluation.scored)
        assert {row["samples"] for row in own} == {3}
        assert sum(row["correct"] for row in own) / 18 == pytest.approx(evaluation.overall.mean)
