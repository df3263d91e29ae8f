"""What rewards make of the references of the data, found out before a run."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from rl_llm.errors import PluginError
from rl_llm.plugins import resolve
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.reward import Failure, Outcome, Reward, call_reward
from rl_llm.scoring.signature import read_signature
from rl_llm.scoring.trials import collect

_NAME = "read_reference"


def reference_faults(
    rewards: Iterable[Reward],
    problems: Sequence[Problem],
    *,
    num_workers: int | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[str]:
    """Yield a line for each reward whose file has a `read_reference` that raises for a problem.

    That function is called as the reward is, inline or in one of `num_workers` workers, within the
    same limits; what it returns does not count. `say` is told of what takes a while before it is
    begun.
    """
    with closing(WorkerPool(num_workers)) as pool:
        for reward in rewards:
            check = _check_of(reward)
            if check is not None:
                yield from _faults(check, problems, pool, say)


def _check_of(reward: Reward) -> Reward | None:
    """Return the reward's `read_reference`, to be called in its place; None where there is none,
    or the reward is one of an installed package."""
    plugin = resolve(reward.reference, kind="rewards")
    if reward.source is None or not hasattr(plugin.module, _NAME):
        return None
    reference = f"{reward.file}:{_NAME}"
    signature = read_signature(resolve(reference, kind="rewards"))
    if signature.style != "completion" or signature.options:
        raise PluginError(
            f"{plugin.origin}: {_NAME} may ask for answer, prompt, problem and columns, and for "
            "nothing else"
        )
    is_async = inspect.iscoroutinefunction(getattr(plugin.module, _NAME))
    return replace(
        reward,
        reference=reference,
        style="completion",
        inputs=signature.inputs,
        options={},
        is_async=is_async,
        gets_ready=False,
    )


def _faults(
    check: Reward, problems: Sequence[Problem], pool: WorkerPool, say: Callable[[str], object]
) -> Iterator[str]:
    asked = {_what_is_asked(check, problem): problem for problem in reversed(problems)}
    if check.inline:
        waiting = {key: partial(call_reward, check, _group(each)) for key, each in asked.items()}
    else:
        say(f"different references for reward {check.name!r} to read: {len(asked):,}")
        waiting = {
            key: partial(collect, pool.submit(check, _group(each))) for key, each in asked.items()
        }
    found = {key: failure for key, ask in waiting.items() if (failure := _failure(ask()))}
    failed = [each for each in problems if _what_is_asked(check, each) in found]
    if failed:
        yield (
            f"reward {check.name!r} cannot use the references of {len(failed)} of {len(problems)} "
            f"problems; the first is of problem {failed[0].key} (source {failed[0].source!r}): "
            f"{found[_what_is_asked(check, failed[0])].message}"
        )


def _what_is_asked(check: Reward, problem: Problem) -> str:
    """Return what is the same for problems that need be checked but once."""
    return problem.answer if check.inputs == ("answer",) else problem.key


def _failure(outcomes: Iterable[Outcome]) -> Failure | None:
    failures = (each for each in outcomes if isinstance(each, Failure))
    return next((each for each in failures if each.kind != "wrong_value"), None)


def _group(problem: Problem) -> Group:
    """Return a problem with a completion that nothing asks for."""
    completion = Completion(
        token_ids=(), logprobs=(), text="", finish_reason="stop", policy_version=0
    )
    return Group(problem=problem, prompt_ids=(), completions=(completion,))
