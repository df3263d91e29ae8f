"""What is scored, in which order, and what is refused."""

import re
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from rl_llm.errors import EngineLost, RunError
from rl_llm.policy import Ranks
from rl_llm.records import (
    Completion,
    Group,
    Problem,
    Request,
    Sampling,
    Score,
    ScoredGroup,
    content_key,
)
from rl_llm.trainer import Generation
from rl_llm.trainer.generation import refuse_unscored

REQUESTS = [
    Request(
        problem=Problem(key=content_key(prompt, ""), prompt=prompt, answer=""),
        num_completions=1,
        sampling=Sampling(temperature=1.0, max_new_tokens=4),
        stream_key=0,
    )
    for prompt in ("a", "b", "c")
]


class LastFirst:
    """An engine that finishes its requests in the opposite order."""

    def complete(self, requests):
        for request in reversed(requests):
            completion = Completion(
                token_ids=(1,), logprobs=(-1.0,), text="", finish_reason="stop", policy_version=0
            )
            yield Group(problem=request.problem, prompt_ids=(2,), completions=(completion,))


class Fails:
    """A rubric whose reward fails on some prompts."""

    def __init__(self, prompts):
        self.prompts = prompts

    def score(self, groups):
        for group in groups:
            error = "boom" if group.problem.prompt in self.prompts else None
            yield ScoredGroup(
                group=group, scores=(Score(total=1.0, parts={}, correct=True, error=error),)
            )


def test_groups_are_told_of_as_they_are_scored():
    told = []
    Generation(LastFirst(), Fails(""), Ranks(), tell=told.append)(REQUESTS)
    assert [group.group.problem.prompt for group in told] == ["c", "b", "a"]


def prompts_of(groups):
    return [group.group.problem.prompt for group in groups]


def test_groups_come_back_in_the_order_of_their_requests():
    assert prompts_of(Generation(LastFirst(), Fails(""), Ranks())(REQUESTS)) == ["a", "b", "c"]


def test_a_reward_that_fails_on_everything_stops_the_run_with_its_message():
    groups = Generation(LastFirst(), Fails("abc"), Ranks())(REQUESTS)
    with pytest.raises(RunError, match=re.escape("none of 3 completions could be scored")) as error:
        refuse_unscored(groups)
    assert "boom" in str(error.value)


def test_a_reward_that_fails_on_some_does_not():
    groups = Generation(LastFirst(), Fails("ab"), Ranks())(REQUESTS)
    refuse_unscored(groups)
    assert prompts_of(groups) == ["a", "b", "c"]


def test_a_single_request_whose_reward_fails_comes_back_as_a_group_that_counts_for_nothing():
    [group] = Generation(LastFirst(), Fails("a"), Ranks())(REQUESTS[:1])
    assert [score.error for score in group.scores] == ["boom"]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("a defect"), True),
        (EngineLost("gone"), False),  # Every rank hears of it on its own way.
        (CancelledError(), False),  # The main thread cut it, and says why itself.
    ],
)
def test_a_defect_in_generations_thread_is_told_to_all_ranks_and_what_cut_it_is_not(raised, told):
    heard = []
    ranks = SimpleNamespace(tell_of=heard.append)
    generation = Generation(LastFirst(), Fails(()), ranks)
    with pytest.raises(type(raised)), generation.failing_together():
        raise raised
    assert heard == ([raised] if told else [])
