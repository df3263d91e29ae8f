"""What passes between the parts of rl-llm: frozen records without logic.

Legend: P problems, G completions of each, T tokens. A *problem* is a prompt with its reference
answer, a *group* is all completions of one problem in one step.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

FinishReason = Literal["stop", "length"]
Level = int | str


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A prompt with a reference answer that rewards can check a completion against.

    `key` is `content_key(prompt, answer)`: it does not change when a data set is shuffled, renamed,
    merged or templated. `level` groups problems of one `source` by difficulty; `source` names the
    prompt source. `meta` holds the other columns of the data set, which rewards may ask for by
    name.
    """

    key: str
    prompt: Prompt
    answer: str
    level: Level = 0
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def level_order(level: Level) -> tuple[bool, float, str]:
    """Return a sort key: numbers, also those written as text, by value and before names."""
    try:
        value = float(level)
    except ValueError:
        value = math.nan
    return (False, value, str(level)) if math.isfinite(value) else (True, 0.0, str(level))


def content_key(prompt: Prompt | Sequence[Message], answer: str) -> str:
    """Return the first 128 bits of sha256 over the canonical prompt and answer, as 32 hex
    digits."""
    canonical_prompt = prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    text = json.dumps([canonical_prompt, answer], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an engine draws tokens.

    `temperature` 0 is greedy; then logprobs are those of temperature 1.
    """

    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask an engine for `num_completions` of one problem.

    `stream_key` seeds every random draw for this request, so what is drawn does not depend on which
    other requests share a batch, or on the rank that serves it.
    """

    problem: Problem
    num_completions: int
    sampling: Sampling
    stream_key: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled answer.

    `token_ids` (T) ends with the end-of-sequence token exactly when `finish_reason` is `stop`.
    `logprobs` (T), in nats, are those of the sampling distribution, temperature included, as the
    engine that drew the tokens reports them. `text` is decoded without special tokens.
    `policy_version` is the step behind which the weights were published.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """All completions of one problem, with the prompt's token ids as the engine saw them."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the rewards say about one completion.

    `total` is the weighted sum that the policy learns from. `parts` holds each reward by name,
    unweighted, a reward per token as its sum; `held_back` names those of them that add 0, because
    their `only_if` does not hold. `token_rewards` (T) is the weighted sum of the rewards per token,
    which `total` includes; it is () where no reward is per token. `correct` is True when every
    reward on channel `correctness` reaches its `correct_at`; beliefs learn from nothing else.
    `error` is the message of a reward that failed under `on_error: mask`: such a completion counts
    in neither the successes nor the size of its group. `failures` says, by reward, how those that
    failed did: `raised`, `timeout`, `killed` or `wrong_value`.
    """

    total: float
    parts: Mapping[str, float]
    correct: bool
    error: str | None = None
    token_rewards: tuple[float, ...] = ()
    held_back: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """A group with one score for each completion, in the same order."""

    group: Group
    scores: tuple[Score, ...]
