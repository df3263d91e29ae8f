"""One reward, and the one place where it is called.

`call_reward` runs in the trainer's process for rewards that are `inline`, and in a worker for all
others: its arguments and results are plain records, and it loads the function from its reference.
"""

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rl_llm.errors import Stopped, nearest
from rl_llm.plugins import resolve, shipped_folder
from rl_llm.records import Completion, Group, Problem, Prompt
from rl_llm.scoring.signature import COMPLETION_INPUTS, GROUP_INPUTS, Style, callable_of
from rl_llm.scoring.values import Value, read_value

_MAX_MESSAGE_CHARS = 500

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A plugin bound to its place in a recipe.

    `reference` finds the function in any process, in its `file` as that was when `source` was read;
    `inputs` are the names it is passed; `options` are checked and complete. An `inline` reward is
    called in the process that trains, without limits; any other in a worker, for at most
    `timeout_s` a call and with at most `memory_gib` of address space, behind the `before_calls` of
    its file where that `gets_ready`. The rest is what the rubric does with what comes back.
    """

    name: str
    reference: str
    style: Style
    inputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    source: bytes | None = None
    is_async: bool = False
    inline: bool = False
    gets_ready: bool = False
    timeout_s: float = 30.0
    memory_gib: float | None = None
    weight: float = 1.0
    channel: str = "correctness"
    correct_at: float = 1.0
    on_error: Literal["mask", "zero", "raise"] = "mask"
    only_if: str | None = None


FailureKind = Literal["raised", "timeout", "killed", "wrong_value"]


@dataclass(frozen=True)
class Failure:
    """A reward gave nothing that counts: it raised; it took too long; its process ended, or had to
    be ended, under it; or it gave neither a finite number nor one for each token."""

    message: str
    kind: FailureKind = "raised"


Outcome = Value | None | Failure


class _TookTooLong(Exception):
    """An asynchronous call was cancelled at its limit."""


def call_reward(reward: Reward, group: Group) -> list[Outcome]:
    """Return one outcome for each completion of a group; nothing that a reward raises escapes.

    An outcome is a number for the whole completion, or a tuple with one for each of its tokens;
    None means that the reward does not apply. An `async` reward is awaited for all completions of
    the group at once, each for at most `timeout_s` unless it is `inline`. A failure concerns its
    own completion, and the whole group only where the reward is called once a group.
    """
    function = load_reward(reward.reference)
    calls = [partial(_ask, function, reward, read) for read in _readers(reward, group)]
    if inspect.iscoroutinefunction(function):
        limit_s = None if reward.inline else reward.timeout_s
        calls = [partial(_unwrap, result) for result in asyncio.run(_gather(calls, limit_s))]
    if reward.style == "completion":
        return [
            _read(_attempt(call, file=reward.file), num_tokens=len(each.token_ids))
            for call, each in zip(calls, group.completions, strict=True)
        ]
    (call,) = calls
    num_completions = len(group.completions)
    values = _attempt(call, file=reward.file)
    if not isinstance(values, Failure):
        values = _attempt(partial(_listed, values, num_completions), kind="wrong_value")
    if isinstance(values, Failure):
        return [values] * num_completions
    return [
        _read(value, num_tokens=len(each.token_ids))
        for value, each in zip(values, group.completions, strict=True)
    ]


@cache
def load_reward(reference: str) -> Callable[..., Any]:
    """Return the function that a reference names, loaded once a process."""
    return callable_of(resolve(reference, kind="rewards"))


def get_ready(reward: Reward) -> None:
    """Call the `before_calls` of a reward's file; raises what it raises."""
    resolve(reward.reference, kind="rewards").module.before_calls(reward.options)


def _attempt(
    call: Callable[[], _Result], *, kind: FailureKind = "raised", file: str = ""
) -> _Result | Failure:
    """Run somebody else's code, that of `file`: whatever it raises becomes a `Failure`, with the
    innermost line there; a signal goes through."""
    try:
        return call()
    except Stopped:
        raise
    except _TookTooLong as error:
        return Failure(str(error), kind="timeout")
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return Failure(described(error) + _place_in(file, error), kind=kind)


def _place_in(file: str, error: BaseException) -> str:
    """Return where in a file an error was raised; what ships says in words all there is to know."""
    if Path(file).parent == shipped_folder("rewards"):
        return ""
    frames = traceback.walk_tb(error.__traceback__)
    places = [(line, frame.f_code) for frame, line in frames if frame.f_code.co_filename == file]
    if not places:
        return ""
    line, code = places[-1]
    return f", in {Path(file).name} line {line}, {code.co_name}"


def described(error: BaseException) -> str:
    """Return an error's type and message, also where its message cannot be had."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")[:_MAX_MESSAGE_CHARS]
    except Exception:  # The error is somebody else's code, too.
        return type(error).__name__


def _ask(function: Callable[..., Any], reward: Reward, read: Callable[[str], Any]) -> Any:
    """Call a reward; reading its inputs belongs to the call, as a problem may lack a column."""
    return function(**{name: read(name) for name in reward.inputs}, **reward.options)


def _read(given: Any, *, num_tokens: int) -> Outcome:
    if isinstance(given, Failure):
        return given
    return _attempt(partial(read_value, given, num_tokens=num_tokens), kind="wrong_value")


def _listed(given: Any, num_completions: int) -> Sequence[Any]:
    rule = "a reward of a group gives a list with one for each completion"
    is_no_list = not isinstance(given, Iterable) or isinstance(given, Mapping | Set | bytes)
    if is_no_list or getattr(given, "ndim", 1) == 0:
        raise TypeError(f"gave {given!r} for {num_completions} completions; {rule}")
    values = list(given)
    if len(values) != num_completions:
        raise ValueError(f"gave {len(values)} values for {num_completions} completions; {rule}")
    return values


async def _gather(calls: Sequence[Callable[[], Any]], limit_s: float | None) -> list[Any]:
    """Await all calls at once; an exception becomes the result of its call."""
    awaited = [_awaited(call, limit_s) for call in calls]
    return await asyncio.gather(*awaited, return_exceptions=True)


async def _awaited(call: Callable[[], Any], limit_s: float | None) -> Any:
    """Await a call whose making may raise, too, for so long."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await call()
    except TimeoutError as error:
        if not limit.expired():
            raise
        said = f": {error}" if str(error) else ""  # What the reward made of being cancelled.
        raise _TookTooLong(f"took longer than timeout_s={limit_s:g}{said}") from None
    except Stopped:
        raise
    except SystemExit as error:  # It would end the loop, and all calls with it.
        return Failure(described(error))


def _unwrap(result: Any) -> Any:
    if isinstance(result, BaseException):
        raise result
    return result


def _readers(reward: Reward, group: Group) -> list[Callable[[str], Any]]:
    """Return, for every call that a group needs, what reads an input by its name."""
    if reward.style == "completion":
        return [
            partial(_completion_input, problem=group.problem, completion=each)
            for each in group.completions
        ]
    return [partial(_trl_input if reward.style == "trl" else _group_input, group=group)]


def _completion_input(name: str, problem: Problem, completion: Completion) -> Any:
    match name:
        case "completion":
            return completion.text
        case "token_ids":
            return completion.token_ids
        case "token_count":
            return len(completion.token_ids)
        case "truncated":
            return completion.finish_reason == "length"
        case "finish_reason":
            return completion.finish_reason
    return _problem_input(name, problem)


def _group_input(name: str, group: Group) -> Any:
    """Return a list over the completions for what differs between them, else the one value."""
    if name not in GROUP_INPUTS:
        return _problem_input(name, group.problem)
    one = "completion" if name == "completions" else name
    assert one in COMPLETION_INPUTS
    return [_completion_input(one, group.problem, each) for each in group.completions]


def _problem_input(name: str, problem: Problem) -> Any:
    match name:
        case "answer":
            return problem.answer
        case "prompt":
            return problem.prompt
        case "problem":
            return problem
    return _column(name, problem)


def _column(name: str, problem: Problem) -> Any:
    if name not in problem.meta:
        raise LookupError(f"the problem has no column {name!r}{nearest(name, problem.meta)}")
    return problem.meta[name]


def _trl_input(name: str, group: Group) -> Any:
    """Return a list over the completions, in TRL's form: a chat is a list of messages."""
    prompt = group.problem.prompt
    match name:
        case "prompts":
            return [_trl_prompt(prompt) for _ in group.completions]
        case "completions" if isinstance(prompt, str):
            return [each.text for each in group.completions]
        case "completions":
            return [[{"role": "assistant", "content": each.text}] for each in group.completions]
        case "completion_ids":
            return [list(each.token_ids) for each in group.completions]
        case "log_extra" | "log_metric":
            return _ignore
    problem = group.problem
    value = problem.answer if name == "answer" else _column(name, problem)
    return [value for _ in group.completions]


def _trl_prompt(prompt: Prompt) -> str | list[dict[str, Any]]:
    return prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]


def _ignore(*_values: Any) -> None:
    """Stand in for TRL's loggers."""
