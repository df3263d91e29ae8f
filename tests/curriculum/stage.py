"""Runs without a model: problems whose true pass rates are known, and the rounds of a step."""

from dataclasses import dataclass, field

import numpy as np

from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key
from rl_llm.seeds import derive_rng


def make_problem(name, *, level=1, source="s", **meta):
    return Problem(
        key=content_key(name, "a"), prompt=name, answer="a", level=level, source=source, meta=meta
    )


def score_group(problem, correct, *, totals=None, failed=(), finish_reason="stop"):
    """Return a scored group with one completion for each entry of `correct`; those at the positions
    `failed` have an error."""
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text="", finish_reason=finish_reason, policy_version=0
    )
    group = Group(problem=problem, prompt_ids=(0,), completions=(completion,) * len(correct))
    scores = tuple(
        Score(
            total=float(good) if totals is None else totals[position],
            parts={},
            correct=bool(good),
            error="reward timed out" if position in failed else None,
        )
        for position, good in enumerate(correct)
    )
    return ScoredGroup(group=group, scores=scores)


@dataclass
class ScriptedStream:
    """An endless source with `size` problems of each level in a batch."""

    source: str
    levels: tuple = (1,)
    size: int = 8
    seed: int = 1
    place: str = "data.train.1"

    @property
    def keys(self):
        return {problem.key for problem in self.batch(0)}

    def batch(self, number, /):
        return [
            make_problem(f"{self.source} {level} {number} {row}", level=level, source=self.source)
            for row in range(self.size)
            for level in self.levels
        ]


@dataclass(kw_only=True)
class Played:
    """What one step asked for and what became of it, round by round."""

    rounds: list = field(default_factory=list)
    draws: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    admitted: list = field(default_factory=list)
    dropped: list = field(default_factory=list)

    @property
    def keys(self):
        """The keys of all requests, in order."""
        return [request.problem.key for requests in self.rounds for request in requests]

    @property
    def sources(self):
        return [request.problem.source for requests in self.rounds for request in requests]


class World:
    """Answers a request by flipping coins with the pass rate of its problem, `rate(problem, step)`,
    the same request the same; `is_exact` makes just that share of every group correct."""

    def __init__(self, rate, *, is_exact=False):
        self.rate = rate
        self.is_exact = is_exact

    def answer(self, request, step):
        count = request.num_completions
        flips = derive_rng(request.stream_key).random(count)
        if self.is_exact:
            flips = (np.arange(count) + 0.5) / count
        return score_group(request.problem, flips < self.rate(request.problem, step))


def answer_all(scheduler, requests, correct, *, step):
    """Give every request of a round the same marks; return what is concluded."""
    scored = [score_group(request.problem, correct) for request in requests]
    scheduler.observe(scored, step=step)
    return scheduler.conclude(scored)


def play_step(scheduler, world, step, *, num_wanted, followers=()):
    """Play one step to its end; `followers` plan and hear the same, and must plan alike."""
    played = Played()
    requests = scheduler.plan(step)
    theirs = [follower.plan(step) for follower in followers]
    while requests:
        assert all(other == requests for other in theirs)
        groups = [world.answer(request, step) for request in requests]
        played.rounds.append(requests)
        played.scored += groups
        played.draws += scheduler.observe(groups, step=step)
        ended = scheduler.conclude(groups)
        played.admitted += ended.finished
        played.dropped += ended.dropped
        asked = {"round": len(played.rounds), "num_missing": num_wanted - len(played.admitted)}
        for follower in followers:
            follower.observe(groups, step=step)
            follower.conclude(groups)
        requests = scheduler.refill(step, **asked)
        theirs = [follower.refill(step, **asked) for follower in followers]
    assert not any(theirs)
    return played
