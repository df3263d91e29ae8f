"""The default scheduler on a learner that masters some buckets and cannot solve others."""

from pathlib import Path

import numpy as np
import pytest

from rl_llm.plugins import load_module

SimulatedLearner = load_module(Path(__file__).with_name("simulator.py")).SimulatedLearner

PER_BUCKET, NUM_DRAWN, PART = 15, 32, 100  # Problems, problems a step, and steps a part.


class Classroom:
    """A scheduler with the learner whose problems it draws, one source with a level a bucket."""

    def __init__(self, stage, make_problems, make_scheduler, logits, **section):
        self.learner = SimulatedLearner(
            bucket_logits=logits, problems_per_bucket=PER_BUCKET, learning_rate=0.005
        )
        self.problems = [
            problem
            for level in range(len(logits))
            for problem in make_problems(PER_BUCKET, level=level, first=PER_BUCKET * level)
        ]
        self._positions = {problem.key: place for place, problem in enumerate(self.problems)}
        self._stage = stage
        self.scheduler = make_scheduler(
            self.problems, num_problems=NUM_DRAWN, group_size=8, **section
        )

    def play(self, step):
        """Take a step; return the positions of the problems that it drew."""
        requests = self.scheduler.plan(step)
        drawn = np.array([self._positions[request.problem.key] for request in requests])
        found = self.learner.answer(drawn, step=step)
        groups = [
            self._stage.score_group(request.problem, [1] * correct + [0] * (8 - correct))
            for request, correct in zip(requests, found.num_correct.tolist(), strict=True)
        ]
        self.scheduler.observe(groups, step=step)
        self.scheduler.conclude(groups)
        self.learner.learn(found)
        return drawn

    def play_part(self, part):
        """Take the steps of a part; return how often it drew every problem."""
        steps = range(part * PART + 1, (part + 1) * PART + 1)
        counts = [np.bincount(self.play(step), minlength=len(self.problems)) for step in steps]
        return np.sum(counts, axis=0)

    @property
    def retired_N(self):
        return self.scheduler.state_dict()["columns"]["standing.standing_retired"]

    @property
    def deferred_N(self):
        columns = self.scheduler.state_dict()["columns"]
        return columns["standing.standing_deferred_until"] > 0


@pytest.fixture
def classroom(stage, make_problems, make_scheduler):
    """Return `(logits, **section) -> classroom`."""
    return lambda logits, **section: Classroom(
        stage, make_problems, make_scheduler, logits, **section
    )


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param([9.0, 6.0, 3.0, 0.0, -2.0, -5.0, -8.0, -12.0], id="all of everything"),
        pytest.param([9.0, 7.0, 0.0, -12.0, -13.0, -14.0], id="little in between"),
    ],
)
def test_no_bucket_starves_where_problems_retire_and_wait(classroom, logits):
    room = classroom(logits)
    first_N = room.play_part(0)
    retired_N, deferred_N = room.retired_N, room.deferred_N
    assert retired_N[:PER_BUCKET].all() and deferred_N[-PER_BUCKET:].all()
    second_N = room.play_part(1)
    for drawn_N in (first_N, second_N):
        assert room.learner.mean_K(drawn_N).min() > 0
    # 2 % of 32 a step are 64 reviews in a part: whatever retired in the first has its turn.
    assert retired_N.sum() <= 64 and second_N[retired_N].all()
