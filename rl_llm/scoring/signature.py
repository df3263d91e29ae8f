"""What a reward function asks for, read from its signature.

Keyword-only parameters are options, which come from the recipe. All others are inputs, which the
rubric passes by name. A reward that takes `completions` scores a whole group at once; one that ends
in `**kwargs` is called as TRL calls its reward functions.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rl_llm.errors import PluginError, nearest
from rl_llm.plugins import Plugin
from rl_llm.records import Problem

Style = Literal["completion", "group", "trl"]

PROBLEM_INPUTS = ("answer", "prompt", "problem")
COMPLETION_INPUTS = ("completion", "token_ids", "token_count", "truncated", "finish_reason")
GROUP_INPUTS = ("completions", "token_ids", "token_count", "truncated", "finish_reason")
TRL_INPUTS = ("prompts", "completions", "completion_ids", "answer", "log_extra", "log_metric")

_INPUTS: dict[Style, tuple[str, ...]] = {
    "completion": (*COMPLETION_INPUTS, *PROBLEM_INPUTS),
    "group": (*GROUP_INPUTS, *PROBLEM_INPUTS),
    "trl": TRL_INPUTS,
}


@dataclass(frozen=True, kw_only=True)
class RewardSignature:
    """The inputs and options of a reward.

    `style` says how it is called: once per completion, once per group, or as TRL does it.
    `optional_inputs` are the inputs that have a default.
    """

    style: Style
    inputs: tuple[str, ...]
    optional_inputs: frozenset[str]
    options: Mapping[str, inspect.Parameter]


def callable_of(plugin: Plugin) -> Callable[..., Any]:
    """Return the function behind a reward: itself, or the `__call__` of an object.

    Raises `PluginError` for a class.
    """
    if inspect.isclass(plugin.target):
        raise PluginError(
            f"reward {plugin.name!r} ({plugin.origin}) is a class; a reward is a function, or an "
            "object that can be called"
        )
    target: Any = plugin.target
    function: Callable[..., Any] = target if inspect.isroutine(target) else target.__call__
    return function


def read_signature(plugin: Plugin) -> RewardSignature:
    """Return what a reward asks for, not yet checked against any data.

    Raises `PluginError` for parameters that cannot be passed by name.
    """
    parameters = inspect.signature(callable_of(plugin)).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise PluginError(
                f"reward {plugin.name!r} ({plugin.origin}): parameter {name!r} cannot be passed by "
                "name; drop the * or / that makes it positional"
            )
    inputs = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    trl = inspect.Parameter.VAR_KEYWORD in kinds
    return RewardSignature(
        style="trl" if trl else "group" if "completions" in inputs else "completion",
        inputs=tuple(inputs),
        optional_inputs=frozenset(n for n, p in inputs.items() if p.default is not p.empty),
        options={n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY},
    )


def check_inputs(
    plugin: Plugin, *, columns: Collection[str], problems: Sequence[Problem] = ()
) -> tuple[str, ...]:
    """Return the names to pass to a reward on data with these columns.

    `problems` are those of the data, to say which lack a column that others have. Raises
    `PluginError` for an input that does not exist. A function with TRL's signature gets everything,
    and may have further parameters with defaults; an option of the name of something that it gets
    is refused.
    """
    signature = read_signature(plugin)
    known = {*_INPUTS[signature.style], *columns}
    for name in signature.inputs:
        excused = signature.style == "trl" and name in signature.optional_inputs
        if name not in known and not excused:
            _refuse_partial(plugin, name, problems)
            raise PluginError(
                f"reward {plugin.name!r} ({plugin.origin}) asks for {name!r}, which is neither an "
                f"input nor a column of the data{nearest(name, known)}; if it is an option of the "
                "recipe, make it keyword-only: put it after a bare * in the signature"
            )
    if signature.style != "trl":
        return signature.inputs
    if twice := sorted(known & signature.options.keys()):
        names = ", ".join(map(repr, twice))
        raise PluginError(
            f"reward {plugin.name!r} ({plugin.origin}): {names} cannot be keyword-only, which is "
            "for options of the recipe: a function that ends in **kwargs is given every input and "
            "every column of the data by name; put it before the bare * in the signature to be "
            "given that, or give the option another name"
        )
    return tuple(sorted(known))


def _refuse_partial(plugin: Plugin, column: str, problems: Sequence[Problem]) -> None:
    """Raise `PluginError` where some of the problems have the column and others lack it."""
    lacking = [problem for problem in problems if column not in problem.meta]
    if not 0 < len(lacking) < len(problems):
        return
    first = lacking[0]
    prompt = first.prompt if isinstance(first.prompt, str) else first.prompt[-1]["content"]
    raise PluginError(
        f"reward {plugin.name!r} ({plugin.origin}) asks for {column!r}, a column that "
        f"{len(lacking)} of {len(problems)} problems lack; the first is {prompt[:60]!r} (key "
        f"{first.key}, source {first.source!r}): give it to every problem, as null where there is "
        "none, or leave those problems out"
    )
