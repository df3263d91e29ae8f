"""The `EXAMPLES` of a reward: what it should give, beside the code that gives it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl_llm.errors import PluginError, nearest
from rl_llm.plugins import Plugin, check_options
from rl_llm.records import Completion, Group, Problem, content_key
from rl_llm.scoring.reward import Outcome, Reward, call_reward
from rl_llm.scoring.signature import (
    COMPLETION_INPUTS,
    GROUP_INPUTS,
    callable_of,
    check_inputs,
    read_signature,
)

_GIVEN = {"prompt", "answer", "problem", *COMPLETION_INPUTS, *GROUP_INPUTS}
_COLUMNS_IN_TRL = {"prompt", "problem"}


@dataclass(frozen=True, kw_only=True)
class Example:
    """Inputs and options of a reward by name, and what it should give: a tuple where that is a
    number for each token, a list over the completions of a group."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    expected: Any


def read_examples(plugin: Plugin) -> list[Example]:
    """Return the `EXAMPLES` of a reward's module: a list for all its rewards, or a mapping from the
    name of each to its own.

    Each is `(completion, answer, expected)` or `(inputs, expected)`, where `inputs` is a mapping of
    inputs, columns and options by name. Raises `PluginError` for anything else.
    """
    place, found = place_of_examples(plugin)
    examples = []
    for index, item in enumerate(found or ()):
        match item:
            case (str(completion), str(answer), expected):
                inputs: Mapping[str, Any] = {"completion": completion, "answer": answer}
            case (dict(inputs), expected):
                pass
            case _:
                raise PluginError(
                    f"{plugin.origin}: {place}[{index}] is {item!r}; write it as (completion, "
                    "answer, expected) or as ({'completion': ..., 'token_count': ...}, expected)"
                )
        examples.append(Example(inputs=inputs, expected=expected))
    return examples


def place_of_examples(plugin: Plugin) -> tuple[str, Sequence[Any] | None]:
    """Return what the examples of a reward are called in its file, and those; None without any.

    Raises `PluginError` where the file has examples for what it does not define.
    """
    found = getattr(plugin.module, "EXAMPLES", None)
    if not isinstance(found, Mapping):
        return "EXAMPLES", found
    for name in found:
        if not callable(getattr(plugin.module, str(name), None)):
            defined = [
                key for key, value in vars(plugin.module).items() if inspect.isroutine(value)
            ]
            raise PluginError(
                f"{plugin.origin}: EXAMPLES has the key {name!r}, and the file defines no function "
                f"of that name{nearest(str(name), defined)}"
            )
    own = [name for name in (plugin.name, getattr(plugin.target, "__name__", "")) if name in found]
    return (f"EXAMPLES[{own[0]!r}]", found[own[0]]) if own else ("EXAMPLES", None)


def run_example(plugin: Plugin, example: Example) -> Outcome | list[Outcome]:
    """Return what a reward gives for an example: a list where the example has `completions`."""
    outcomes = call_reward(*bind_example(plugin, example))
    return outcomes if "completions" in example.inputs else outcomes[0]


def bind_example(
    plugin: Plugin, example: Example, *, options: Mapping[str, Any] | None = None
) -> tuple[Reward, Group]:
    """Return a reward with the options of an example, or of `options` where those are given, and
    the group that the example describes."""
    signature = read_signature(plugin)
    own = {name: v for name, v in example.inputs.items() if name in signature.options}
    given = {name: v for name, v in example.inputs.items() if name not in own}
    inputs = _GIVEN - _COLUMNS_IN_TRL if signature.style == "trl" else _GIVEN
    meta = {name: value for name, value in given.items() if name not in inputs}
    path = f"EXAMPLES of {plugin.name}" if options is None else plugin.name
    reward = Reward(
        name=plugin.name,
        reference=plugin.reference,
        style=signature.style,
        inputs=check_inputs(plugin, columns=meta),
        options=check_options(callable_of(plugin), {**own, **(options or {})}, path=path),
        is_async=inspect.iscoroutinefunction(callable_of(plugin)),
        gets_ready=hasattr(plugin.module, "before_calls"),
    )
    return reward, group_of(given, meta)


def group_of(given: Mapping[str, Any], meta: Mapping[str, Any]) -> Group:
    """Return the group of a problem with columns `meta`, from inputs by name; what is not given is
    empty."""
    prompt, answer = given.get("prompt", ""), given.get("answer", "")
    problem = Problem(key=content_key(prompt, answer), prompt=prompt, answer=answer, meta=meta)
    truncated = given.get("truncated", False)
    texts = given.get("completions", [given.get("completion", "")])
    completions = tuple(
        Completion(
            token_ids=token_ids,
            logprobs=(0.0,) * len(token_ids),
            text=text,
            finish_reason=given.get("finish_reason", "length" if truncated else "stop"),
            policy_version=0,
        )
        for text, token_ids in zip(texts, _token_ids(given, len(texts)), strict=True)
    )
    if "problem" in given and "problem" not in meta:
        problem = given["problem"]
    return Group(problem=problem, prompt_ids=(), completions=completions)


def _token_ids(given: Mapping[str, Any], num_completions: int) -> list[tuple[int, ...]]:
    """Return the ids of each completion: those that the example gives, else `token_count` of any
    kind."""
    if "token_ids" not in given:
        return [tuple(range(given.get("token_count", 0)))] * num_completions
    ids = given["token_ids"] if "completions" in given else [given["token_ids"]]
    if len(ids) != num_completions:
        raise PluginError(
            f"EXAMPLES: token_ids={given['token_ids']!r} with {num_completions} completions; give "
            "a list of token ids for each completion"
        )
    return [tuple(each) for each in ids]
