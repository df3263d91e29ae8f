"""Scored groups as JSON, exactly: what was saved and read again is equal.

A group does not hold its problem, only the key. Token ids, logprobs and rewards per token are one
string each, because a list takes a line a number in an indented file.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup


def to_json(scored: ScoredGroup) -> dict[str, Any]:
    """Return what `from_json` makes the group of again, given its problem."""
    return {
        "key": scored.group.problem.key,
        "prompt_ids": _words(scored.group.prompt_ids),
        "completions": [_completion_to_json(c) for c in scored.group.completions],
        "scores": [_score_to_json(score) for score in scored.scores],
    }


def from_json(saved: Mapping[str, Any], problem: Problem) -> ScoredGroup:
    """Return the group that was saved for this problem."""
    assert saved["key"] == problem.key, "a group belongs to one problem"
    return ScoredGroup(
        group=Group(
            problem=problem,
            prompt_ids=_ids(saved["prompt_ids"]),
            completions=tuple(_completion_from_json(each) for each in saved["completions"]),
        ),
        scores=tuple(_score_from_json(each) for each in saved["scores"]),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """Return what `problem_from_json` makes the problem of again, its `meta` aside: columns of the
    data, which rewards alone ask for."""
    prompt = problem.prompt
    return {
        "key": problem.key,
        "prompt": prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt],
        "answer": problem.answer,
        "level": problem.level,
        "source": problem.source,
    }


def problem_from_json(saved: Mapping[str, Any]) -> Problem:
    """Return the problem that was saved, with nothing in its `meta`."""
    prompt = saved["prompt"]
    return Problem(**{**saved, "prompt": prompt if isinstance(prompt, str) else tuple(prompt)})


def _completion_to_json(completion: Completion) -> dict[str, Any]:
    return asdict(completion) | {
        "token_ids": _words(completion.token_ids),
        "logprobs": _words(completion.logprobs),
    }


def _completion_from_json(saved: Mapping[str, Any]) -> Completion:
    logprobs = tuple(map(float, saved["logprobs"].split()))
    return Completion(**{**saved, "token_ids": _ids(saved["token_ids"]), "logprobs": logprobs})


def _score_to_json(score: Score) -> dict[str, Any]:
    return asdict(score) | {
        "token_rewards": _words(score.token_rewards),
        "held_back": list(score.held_back),
    }


def _score_from_json(saved: Mapping[str, Any]) -> Score:
    # A checkpoint may be older than rewards per token.
    token_rewards = tuple(map(float, saved.get("token_rewards", "").split()))
    held_back = tuple(saved.get("held_back", ()))
    return Score(**{**saved, "token_rewards": token_rewards, "held_back": held_back})


def _words(numbers: tuple[int, ...] | tuple[float, ...]) -> str:
    """Return the numbers with spaces between; Python's own text of a float reads back exactly."""
    return " ".join(map(str, numbers))


def _ids(words: str) -> tuple[int, ...]:
    return tuple(map(int, words.split()))
