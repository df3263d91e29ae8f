"""All rewards of a recipe together: groups in, scored groups out."""

import inspect
import logging
import weakref
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError, InputError, PluginError, RunError
from rl_llm.plugins import Plugin, check_options, resolve
from rl_llm.records import Group, Problem, Score, ScoredGroup
from rl_llm.scoring.conditions import check_conditions, held_back
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.reward import Failure, FailureKind, Outcome, Reward, call_reward
from rl_llm.scoring.signature import callable_of, check_inputs, read_signature
from rl_llm.scoring.values import part_of

_logger = logging.getLogger(__name__)


class Rubric:
    """Scores groups with weighted rewards."""

    def __init__(self, rewards: Sequence[Reward], *, num_workers: int | None = None) -> None:
        """Take rewards with names of their own; those that are not inline share `num_workers`
        processes, by default as many as there are cores, at most 4.

        The processes are started by the first call; close the rubric to end them. `failures`
        counts, by reward and kind, the completions on which it failed so far; the first failure of
        each kind is logged.
        """
        self.rewards = tuple(rewards)
        self.failures: Counter[tuple[str, FailureKind]] = Counter()
        self._pool = WorkerPool(num_workers)
        weakref.finalize(self, self._pool.close)

    @property
    def num_failures(self) -> Counter[str]:
        """The completions on which each reward failed so far."""
        total: Counter[str] = Counter()
        for (name, _), count in self.failures.items():
            total[name] += count
        return total

    def close(self) -> None:
        """End the worker processes at once, also from another thread: who waits for a score then
        gets `CancelledError`."""
        self._pool.close()

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Yield every group with its scores, in the order in which groups come; workers begin with
        a group as soon as it is there, while the next is waited for.

        A reward that gives None does not apply: it adds nothing to `total` and is missing from
        `parts`. One whose `only_if` does not hold stands in `parts` and adds 0. Where a reward
        fails under `on_error: mask`, or no reward on channel `correctness` applies, the score has
        an `error`, total 0.0, and is not correct. Under `on_error: zero` a reward that fails gives
        0.0, and on channel `correctness` the completion is not correct. Raises `RunError` where a
        reward fails under `on_error: raise`.
        """
        begun: deque[_Begun] = deque()
        try:
            for group in groups:
                begun.append(self._begin(group))
                while begun and begun[0].is_done:
                    yield self._scored(begun.popleft())
            while begun:
                yield self._scored(begun.popleft())
        finally:
            for each in begun:
                each.cancel()

    def _begin(self, group: Group) -> "_Begun":
        """Call the inline rewards, and have the others called."""
        waiting = {r.name: self._pool.submit(r, group) for r in self.rewards if not r.inline}
        there = {r.name: call_reward(r, group) for r in self.rewards if r.inline}
        return _Begun(group=group, there=there, waiting=waiting)

    def _scored(self, begun: "_Begun") -> ScoredGroup:
        given = begun.outcomes()
        outcomes = {reward.name: given[reward.name] for reward in self.rewards}
        key = begun.group.problem.key
        self._note_failures(outcomes, key)
        scores = tuple(
            self._score({name: each[row] for name, each in outcomes.items()}, key)
            for row in range(len(begun.group.completions))
        )
        return ScoredGroup(group=begun.group, scores=scores)

    def _note_failures(self, outcomes: Mapping[str, Sequence[Outcome]], key: str) -> None:
        for reward in self.rewards:
            for failure in outcomes[reward.name]:
                if not isinstance(failure, Failure):
                    continue
                message = _describe(reward.name, failure, key)
                if reward.on_error == "raise":
                    raise RunError(
                        f"{message}; correct the reward, or set on_error: mask to leave out the "
                        "completions on which it fails"
                    )
                if not self.failures[reward.name, failure.kind]:
                    _logger.warning(
                        "%s; further failures of this kind (%s) of this reward are only counted",
                        message,
                        failure.kind,
                    )
                self.failures[reward.name, failure.kind] += 1

    def _score(self, outcomes: Mapping[str, Outcome], key: str) -> Score:
        """Put together what all rewards say about one completion."""
        failed = {name: each for name, each in outcomes.items() if isinstance(each, Failure)}
        failures = {name: each.kind for name, each in failed.items()}
        zeroed = {r.name for r in self.rewards if r.name in failed and r.on_error == "zero"}
        outcomes = {name: 0.0 if name in zeroed else each for name, each in outcomes.items()}
        parts = {n: part_of(v) for n, v in outcomes.items() if isinstance(v, float | tuple)}
        errors = [_describe(n, each, key) for n, each in failed.items() if n not in zeroed]
        checks = [
            parts[reward.name] >= reward.correct_at and reward.name not in zeroed
            for reward in self.rewards
            if reward.channel == "correctness" and reward.name in parts
        ]
        if not checks and not errors:
            errors = [f"no reward on channel 'correctness' applies to problem {key}"]
        if errors:
            error = "; ".join(errors)
            return Score(total=0.0, parts=parts, correct=False, error=error, failures=failures)
        waiting = held_back(self.rewards, parts, failed=zeroed)
        weights = {
            reward.name: 0.0 if reward.name in waiting else reward.weight
            for reward in self.rewards
            if reward.name in parts
        }
        return Score(
            total=sum((weight * parts[name] for name, weight in weights.items()), start=0.0),
            parts=parts,
            correct=all(checks),
            token_rewards=_token_rewards(outcomes, weights),
            held_back=waiting,
            failures=failures,
        )


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A group of which some rewards are there, and workers are asked for the others."""

    group: Group
    there: Mapping[str, list[Outcome]]
    waiting: Mapping[str, "list[Future[list[Outcome]]]"]

    @property
    def is_done(self) -> bool:
        return all(part.done() for parts in self.waiting.values() for part in parts)

    def outcomes(self) -> dict[str, list[Outcome]]:
        """Wait for all, and return the outcomes by reward."""
        waited = {
            name: [outcome for part in parts for outcome in part.result()]
            for name, parts in self.waiting.items()
        }
        return {**self.there, **waited}

    def cancel(self) -> None:
        for parts in self.waiting.values():
            for part in parts:
                part.cancel()


def build_rubric(
    uses: Sequence[RewardUse],
    *,
    columns: Collection[str],
    problems: Sequence[Problem] = (),
    num_workers: int | None = None,
) -> Rubric:
    """Load a recipe's rewards and bind their options.

    `columns` are the columns of the data that rewards may ask for (`common_columns`), and
    `problems` those of the data, for messages. Raises `PluginError` for a reward that cannot be
    found or asks for something that does not exist, and `ConfigError` for options that its
    signature does not allow, two rewards of one name, or an `only_if` that names no other reward or
    goes in a circle.
    """
    rewards: dict[str, Reward] = {}
    for index, use in enumerate(uses):
        reward = bind_reward(use, path=f"rewards.{index}", columns=columns, problems=problems)
        if reward.name in rewards:
            raise ConfigError(
                f"rewards.{index}: {use.use!r} is a second reward named {reward.name!r}, after "
                f"{rewards[reward.name].reference!r}; scores are kept by name: drop one, or give "
                "its function another name"
            )
        rewards[reward.name] = reward
    check_conditions(tuple(rewards.values()))
    return Rubric(tuple(rewards.values()), num_workers=num_workers)


def common_columns(problems: Iterable[Problem]) -> frozenset[str]:
    """Return the columns that every problem has, which is what rewards may ask for."""
    columns = [frozenset(problem.meta) for problem in problems]
    return frozenset.intersection(*columns) if columns else frozenset()


def bind_reward(
    use: RewardUse, *, path: str, columns: Collection[str], problems: Sequence[Problem] = ()
) -> Reward:
    """Load a reward and bind its options, which stand at `path`; raises what `build_rubric` does
    for one."""
    plugin = _resolve(use, path=path)
    inputs = check_inputs(plugin, columns=columns, problems=problems)
    says_inline = bool(getattr(plugin.module, "INLINE", False)) and use.memory_gib is None
    options = _options(use, plugin, path=path)
    prepare(plugin, options, path=path, timeout_s=use.timeout_s)
    return Reward(
        name=plugin.name,
        reference=absolute_reference(use.use),
        style=read_signature(plugin).style,
        inputs=inputs,
        options=options,
        file=str(Path(plugin.origin).resolve()),
        source=_source(plugin),
        is_async=inspect.iscoroutinefunction(callable_of(plugin)),
        inline=says_inline if use.inline is None else use.inline,
        gets_ready=hasattr(plugin.module, "before_calls"),
        timeout_s=use.timeout_s,
        memory_gib=use.memory_gib,
        weight=use.weight,
        channel=use.channel,
        correct_at=use.correct_at,
        on_error=use.on_error,
        only_if=use.only_if,
    )


def find_reward(use: RewardUse, *, path: str) -> Plugin:
    """Return what a reward's name stands for, with its options checked and nothing prepared; raises
    `PluginError` and `ConfigError`, which name the place in the recipe."""
    plugin = _resolve(use, path=path)
    _options(use, plugin, path=path)
    return plugin


def _resolve(use: RewardUse, *, path: str) -> Plugin:
    try:
        return resolve(use.use, kind="rewards")
    except PluginError as error:
        raise PluginError(f"{path}.use: {error}") from error.__cause__


def _options(use: RewardUse, plugin: Plugin, *, path: str) -> dict[str, Any]:
    return check_options(callable_of(plugin), use.options, path=path, beside=RewardUse.model_fields)


def prepare(
    plugin: Plugin,
    options: Mapping[str, Any],
    *,
    path: str,
    timeout_s: float,
) -> None:
    """Call the `before_run` that a reward's file may define, with the options that stand at `path`.

    An `InputError` or a `ValueError` of it gets the path in front; raises `PluginError` where it
    fails in another way.
    """
    before_run = getattr(plugin.module, "before_run", None)
    if before_run is None:
        return
    try:
        before_run(timeout_s, options)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error.__cause__
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # It is somebody else's code.
        raise PluginError(
            f"{path}: before_run of {plugin.origin} fails: {type(error).__name__}: {error}"
        ) from error


def _source(plugin: Plugin) -> bytes | None:
    """Return what a reward's file holds; None for one of an installed package."""
    file = Path(plugin.origin)
    return file.read_bytes() if file.is_file() else None


def _token_rewards(
    outcomes: Mapping[str, Outcome], weights: Mapping[str, float]
) -> tuple[float, ...]:
    """Return the weighted sum, token by token, of the rewards that gave a number for each."""
    weighted = [
        [weights[name] * number for number in outcome]
        for name, outcome in outcomes.items()
        if isinstance(outcome, tuple)
    ]
    return tuple(map(sum, zip(*weighted, strict=True)))


def absolute_reference(reference: str) -> str:
    """Return a reference that means the same in a process that runs in another folder."""
    file, colon, name = reference.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{name}" if colon else reference


def _describe(name: str, failure: Failure, key: str) -> str:
    return f"reward {name!r} failed on problem {key}: {failure.message}"
