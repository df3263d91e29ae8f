"""What is generated with which weights, in which thread, and what is left when it fails."""

import signal
import threading
import time
import traceback
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rl_llm.config.curriculum import CurriculumSection
from rl_llm.curriculum import Rollouts, build_scheduler
from rl_llm.errors import EngineLost, RunError
from rl_llm.policy import Ranks
from rl_llm.records import Completion, Group, Problem, Sampling, Score, ScoredGroup, content_key
from rl_llm.trainer import Evaluator, Generation, Overlap, Pending, Pipeline

SAMPLING = Sampling(temperature=1.0, max_new_tokens=1)


def problem(prompt):
    return Problem(key=content_key(prompt, ""), prompt=prompt, answer="", source="s")


@dataclass
class ScriptedEngine:
    """Notes what it is asked; a completion is correct for every second request."""

    events: list = field(default_factory=list)
    threads: set = field(default_factory=set)
    seconds: float = 0.0
    fails: dict = field(default_factory=dict)  # By event: what to raise behind one group.
    may_be_lost: bool = True
    version: int = -1
    messages: list = field(default_factory=list)
    interrupts: bool = False
    num_groups: int = 0
    num_calls: int = 0
    is_cut: threading.Event = field(default_factory=threading.Event)
    meets: threading.Barrier | None = None  # Behind the first call.

    def complete(self, requests):
        event = f"generate with {self.version}"
        self._note(event)
        time.sleep(self.seconds)
        self.num_calls += 1
        if self.meets is not None and self.num_calls > 1:
            self.meets.wait()
        for number, request in enumerate(requests):
            self.num_groups += 1
            yield self._group(request)
            if number == 0 and event in self.fails:
                self.messages.append("a server went away")
                raise self.fails.pop(event)
            if number == 0 and self.interrupts:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                assert self.is_cut.wait(20)

    def load_weights(self, adapter_dir, *, version):
        assert (adapter_dir / "adapter.txt").read_text() == str(version)
        self.version = version
        self._note(f"load {version}")
        if f"load {version}" in self.fails:
            raise self.fails.pop(f"load {version}")

    def cut(self):
        self.is_cut.set()

    def rest(self):
        pass

    def take_messages(self):
        messages, self.messages = self.messages, []
        return messages

    def _note(self, event):
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def _group(self, request):
        completions = tuple(
            Completion(
                token_ids=(1, number),
                logprobs=(-1.0, -0.1),
                text="+" if (request.stream_key + number) % 2 else "-",
                finish_reason="stop",
                policy_version=self.version,
            )
            for number in range(request.num_completions)
        )
        return Group(problem=request.problem, prompt_ids=(2,), completions=completions)


class MarksRubric:
    """Takes `+` for correct."""

    def score(self, groups):
        for group in groups:
            right = [completion.text == "+" for completion in group.completions]
            scores = tuple(Score(total=float(r), parts={"r": 1.0 * r}, correct=r) for r in right)
            yield ScoredGroup(group=group, scores=scores)

    def close(self):
        """Hold nothing that could be closed."""


@dataclass
class Stage:
    """A pool of 40, of which a step draws 4, and a loop that learns nothing."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    pending: Pending = field(default_factory=Pending)
    section: dict = field(default_factory=dict)

    def __post_init__(self):
        problems = [problem(f"{number}") for number in range(40)]
        self.scheduler = build_scheduler(
            CurriculumSection.model_validate({"sampler": {"name": "uniform"}, **self.section}),
            problems=problems,
            rollouts=Rollouts(num_problems=4, group_size=4, sampling=SAMPLING, last_step=6),
            seed=0,
        )
        self.generation = Generation(self.engine, MarksRubric(), Ranks())
        self.evaluator = Evaluator(
            [problem("held out")],
            self.generation,
            sampling=SAMPLING,
            samples_per_problem=1,
            seed=0,
            train_problems=problems[:3],
        )

    def pipeline(self, max_staleness, last_step=6):
        return Pipeline(
            generation=self.generation,
            scheduler=self.scheduler,
            evaluator=self.evaluator,
            pending=self.pending,
            overlap=Overlap(
                max_staleness=max_staleness, last_step=last_step, in_thread=max_staleness > 0
            ),
            num_wanted=4,
            device=torch.device("cpu"),
        )

    def go(self, rollouts, steps, learn=lambda step: None, evaluate_behind=()):
        """Take steps as the trainer does; return the reports."""
        reports = []
        for step in steps:
            reports.append(rollouts.take(step))
            learn(step)
            publish(rollouts, step)
            if step in evaluate_behind:
                rollouts.evaluate(step, teach=True)
        return reports


def publish(rollouts, version):
    def save(folder):
        folder.mkdir()
        (folder / "adapter.txt").write_text(str(version))

    rollouts.publish(save, version=version)


def versions_of(report):
    return {c.policy_version for group in report.harvest.scored for c in group.group.completions}


def assert_same_state(ours, theirs):
    assert ours["rest"] == theirs["rest"]
    assert ours["columns"].keys() == theirs["columns"].keys()
    for name, column in theirs["columns"].items():
        np.testing.assert_array_equal(ours["columns"][name], column)


@pytest.mark.parametrize(
    ("max_staleness", "expected"),
    [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 0, 1, 2, 3, 4]), (2, [0, 0, 0, 1, 2, 3])],
)
def test_a_step_learns_from_weights_that_lie_as_many_updates_behind_as_allowed(
    max_staleness, expected
):
    stage = Stage()
    with stage.pipeline(max_staleness) as rollouts:
        publish(rollouts, 0)
        reports = stage.go(rollouts, range(1, 7))
    assert [versions_of(report) for report in reports] == [{version} for version in expected]


def test_evaluations_stand_between_harvests_and_nothing_is_generated_past_the_last_step():
    stage = Stage()
    with stage.pipeline(1, last_step=3) as rollouts:
        publish(rollouts, 0)
        rollouts.evaluate(0, teach=True)
        stage.go(rollouts, [1, 2, 3], evaluate_behind=[2, 3])
        rollouts.finish()
    assert stage.engine.events == [
        *("load 0", "generate with 0"),  # The evaluation before the first step.
        *("generate with 0", "generate with 0"),  # For steps 1 and 2.
        *("load 1", "generate with 1"),  # For step 3.
        *("load 2", "generate with 2"),  # The evaluation behind step 2.
        *("load 3", "generate with 3"),  # That behind step 3.
    ]


def test_without_staleness_all_happens_in_turns_and_in_the_caller_s_thread():
    stage = Stage()
    with stage.pipeline(0, last_step=2) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1, 2], learn=lambda step: stage.engine.events.append(f"learn {step}"))
    assert stage.engine.threads == {threading.get_ident()}
    assert stage.engine.events == [
        *("load 0", "generate with 0", "learn 1"),
        *("load 1", "generate with 1", "learn 2", "load 2"),
    ]


def test_with_staleness_all_happens_in_one_other_thread_which_ends_with_the_pipeline():
    stage, before = Stage(), threading.active_count()
    with stage.pipeline(2) as rollouts:
        publish(rollouts, 0)
        rollouts.evaluate(0, teach=False)
        stage.go(rollouts, [1, 2, 3])
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert len(stage.engine.threads) == 1 and threading.get_ident() not in stage.engine.threads


def test_what_is_drawn_does_not_depend_on_who_is_faster():
    reports = []
    for pauses in ({"engine": 0.02, "learn": 0.0}, {"engine": 0.0, "learn": 0.02}):
        stage = Stage(engine=ScriptedEngine(seconds=pauses["engine"]))
        with stage.pipeline(1) as rollouts:
            publish(rollouts, 0)
            reports.append(
                stage.go(rollouts, range(1, 7), learn=lambda _, s=pauses["learn"]: time.sleep(s))
            )
    slow, quick = ([(r.harvest.scored, r.harvest.draws) for r in run] for run in reports)
    assert slow == quick


def test_each_step_is_generated_while_the_one_before_is_learnt_from():
    both = threading.Barrier(2, timeout=20)
    stage = Stage(engine=ScriptedEngine(meets=both))
    with stage.pipeline(1, last_step=4) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1, 2, 3], learn=lambda step: both.wait())
        rollouts.take(4)


def test_what_a_step_waits_is_measured_where_generation_has_a_thread_of_its_own():
    for max_staleness, stages in ((0, []), (1, ["wait"])):
        with Stage().pipeline(max_staleness) as rollouts:
            publish(rollouts, 0)
            rollouts.take(1)
            assert list(rollouts.take_times()) == stages
            assert rollouts.take_times() == {}


def test_a_harvest_that_an_early_end_leaves_out_may_have_failed():
    stage = Stage(engine=ScriptedEngine(fails={"generate with 1": RunError("the reward is gone")}))
    with stage.pipeline(1) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1])
        rollouts.take(2)  # Step 3 is asked for, with the weights behind step 1.
        rollouts.finish()
    assert stage.engine.events[-1] == "generate with 1"


def test_an_error_of_the_other_thread_is_raised_by_the_step_that_needs_what_it_failed_to_bring():
    stage = Stage(engine=ScriptedEngine(fails={"generate with 1": RunError("the reward is gone")}))
    with stage.pipeline(1) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1, 2])
        with pytest.raises(RunError, match=r"^the reward is gone$") as error:
            rollouts.take(3)
    assert "in complete" in "".join(traceback.format_tb(error.value.__traceback__))
    # Behind the harvest that failed, nothing was loaded or generated any more.
    assert stage.engine.events[-2:] == ["load 1", "generate with 1"]


@pytest.fixture
def interruptible():
    """Let SIGINT raise, also where the tests were started by a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_behind_an_interrupt_generation_ends_at_its_next_group():
    stage, before = Stage(engine=ScriptedEngine(interrupts=True)), threading.active_count()
    with pytest.raises(KeyboardInterrupt), stage.pipeline(1) as rollouts:
        publish(rollouts, 0)
        rollouts.take(1)
    assert threading.active_count() == before
    # Of step 1 two groups of four were generated, and of step 2 none.
    assert stage.engine.events == ["load 0", "generate with 0"]
    assert stage.engine.num_groups == 2


@pytest.mark.parametrize("section", [{}, {"probe": {"completions": 2, "problems": 6}}])
@pytest.mark.parametrize("max_staleness", [1, 2])
def test_what_is_pending_goes_through_a_file_and_the_run_goes_on_alike(
    tmp_path, max_staleness, section
):
    whole = Stage(section=section)
    with whole.pipeline(max_staleness) as rollouts:
        publish(rollouts, 0)
        expected = whole.go(rollouts, range(1, 7), evaluate_behind=[2, 5])

    stopped = Stage(section=section)
    with stopped.pipeline(max_staleness) as rollouts:
        publish(rollouts, 0)
        stopped.go(rollouts, [1, 2, 3], evaluate_behind=[2])
        rollouts.drain(3)
    assert list(stopped.pending.reports) == list(range(4, 4 + max_staleness))
    stopped.pending.save(tmp_path)

    resumed = Stage(section=section)
    resumed.scheduler.load_state_dict(stopped.scheduler.state_dict())
    resumed.pending.load(tmp_path)
    assert resumed.pending == stopped.pending
    with resumed.pipeline(max_staleness) as rollouts:
        rollouts.catch_up(3)
        publish(rollouts, 3)
        reports = resumed.go(rollouts, [4, 5, 6], evaluate_behind=[5])
    assert [report.harvest.scored for report in reports] == [r.harvest.scored for r in expected[3:]]
    assert [report.harvest.admitted for report in reports] == [
        report.harvest.admitted for report in expected[3:]
    ]
    assert [report.metrics for report in reports] == [report.metrics for report in expected[3:]]
    assert_same_state(resumed.scheduler.state_dict(), whole.scheduler.state_dict())


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("lost_with", [1, 2])
def test_a_harvest_that_was_lost_with_its_engine_is_generated_again_with_the_same_weights(
    tmp_path, max_staleness, lost_with
):
    whole = Stage()
    with whole.pipeline(max_staleness) as rollouts:
        publish(rollouts, 0)
        expected = whole.go(rollouts, range(1, 7))

    lost = Stage(engine=ScriptedEngine(fails={f"generate with {lost_with}": EngineLost("gone")}))
    done = []
    with lost.pipeline(max_staleness) as rollouts:
        publish(rollouts, 0)
        with pytest.raises(EngineLost, match=r"^gone$"):
            for step in range(1, 7):
                done += lost.go(rollouts, [step])
        assert rollouts.take_messages() == ["a server went away"]
        assert len(done) == lost_with + max_staleness  # All before the harvest that was lost.
        rollouts.drain(len(done))
        curriculum = lost.pending.curriculum
        lost.pending.save(tmp_path)
    saved = sorted(tmp_path.rglob("*"))

    resumed = Stage()
    resumed.scheduler.load_state_dict(curriculum)
    resumed.pending.load(tmp_path)
    step = len(done)
    with resumed.pipeline(max_staleness) as rollouts:
        rollouts.catch_up(step)
        publish(rollouts, step)
        done += resumed.go(rollouts, range(step + 1, 7))
    assert [report.harvest.scored for report in done] == [r.harvest.scored for r in expected]
    assert_same_state(resumed.scheduler.state_dict(), whole.scheduler.state_dict())
    assert sorted(tmp_path.rglob("*")) == saved  # What was published later replaces none of it.


def test_an_engine_that_is_lost_while_weights_are_loaded_is_missed_by_the_next_harvest_alone():
    stage = Stage(engine=ScriptedEngine(fails={"load 2": EngineLost("gone")}))
    with stage.pipeline(0) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1, 2])  # Step 2 itself is complete.
        with pytest.raises(EngineLost, match=r"^gone$"):
            rollouts.take(3)
    assert stage.engine.events[-1] == "load 2"


def test_an_engine_that_is_lost_behind_the_last_step_is_not_missed_but_other_errors_are():
    for error, is_raised in ((EngineLost("gone"), False), (RunError("strange adapter"), True)):
        stage = Stage(engine=ScriptedEngine(fails={"load 2": error}))
        with stage.pipeline(1, last_step=2) as rollouts:
            publish(rollouts, 0)
            stage.go(rollouts, [1, 2])
            if is_raised:
                with pytest.raises(RunError, match="strange adapter"):
                    rollouts.finish()
            else:
                rollouts.finish()


def test_an_engine_that_cannot_be_lost_costs_no_copy_of_the_curriculum_s_state():
    stage = Stage(engine=ScriptedEngine(may_be_lost=False))
    stage.scheduler.state_dict = lambda: pytest.fail("copied")
    with stage.pipeline(0) as rollouts:
        publish(rollouts, 0)
        stage.go(rollouts, [1])
