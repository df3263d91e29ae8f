"""What shipped rewards make of the references of the data, found out before a run."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rl_llm.plugins import shipped_folder
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.reward import Failure, Reward, call_reward
from rl_llm.scoring.trials import collect

_NEEDED = {"completion", "answer"}


def reference_faults(rewards: Iterable[Reward], problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a line for each shipped reward that fails where a completion is the reference itself.

    A reward that reads the reference fails on one that it cannot read, whatever the completion. A
    reward of one's own is not asked: a call of it may cost something.
    """
    pool = WorkerPool()
    try:
        for reward in rewards:
            if _is_shipped(reward) and set(reward.inputs) >= _NEEDED:
                yield from _faults(reward, problems, pool)
    finally:
        pool.close()


def _faults(reward: Reward, problems: Sequence[Problem], pool: WorkerPool) -> Iterator[str]:
    groups = [_group(problem) for problem in problems]
    if reward.inline:
        asked = [partial(call_reward, reward, group) for group in groups]
    else:
        asked = [partial(collect, pool.submit(reward, group)) for group in groups]
    failed = [
        (problem, outcome)
        for problem, ask in zip(problems, asked, strict=True)
        for outcome in ask()
        if isinstance(outcome, Failure)
    ]
    if failed:
        problem, failure = failed[0]
        yield (
            f"reward {reward.name!r} cannot use the references of {len(failed)} of {len(problems)} "
            f"problems; the first is of problem {problem.key} (source {problem.source!r}): "
            f"{failure.message}"
        )


def _is_shipped(reward: Reward) -> bool:
    return Path(reward.file).is_relative_to(shipped_folder("rewards").resolve())


def _group(problem: Problem) -> Group:
    completion = Completion(
        token_ids=(), logprobs=(), text=problem.answer, finish_reason="stop", policy_version=0
    )
    return Group(problem=problem, prompt_ids=(), completions=(completion,))
