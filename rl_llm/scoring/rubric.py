"""All rewards of a recipe together: groups in, scored groups out."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError, PluginError, RunError
from rl_llm.plugins import check_options, resolve
from rl_llm.records import Group, Problem, Score, ScoredGroup
from rl_llm.scoring.conditions import check_conditions, held_back
from rl_llm.scoring.reward import Failure, Outcome, Reward, call_reward
from rl_llm.scoring.signature import callable_of, check_inputs, read_signature
from rl_llm.scoring.values import part_of

_logger = logging.getLogger(__name__)


class Rubric:
    """Scores groups with weighted rewards."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        """Take rewards with names of their own.

        `num_failures` counts, by reward, the completions on which it failed so far; the first
        failure of each reward is logged.
        """
        self.rewards = tuple(rewards)
        self.num_failures: Counter[str] = Counter()

    def score(self, groups: Iterable[Group]) -> Iterator[ScoredGroup]:
        """Yield every group with its scores, in the order in which groups come.

        A reward that gives None does not apply: it adds nothing to `total` and is missing from
        `parts`. One whose `only_if` does not hold stands in `parts` and adds 0. Where a reward
        fails under `on_error: mask`, or no reward on channel `correctness` applies, the score has
        an `error`, total 0.0, and is not correct. Raises `RunError` where a reward fails under
        `on_error: raise`.
        """
        for group in groups:
            outcomes = {reward.name: call_reward(reward, group) for reward in self.rewards}
            self._note_failures(outcomes, group.problem.key)
            scores = tuple(
                self._score({name: each[row] for name, each in outcomes.items()}, group.problem.key)
                for row in range(len(group.completions))
            )
            yield ScoredGroup(group=group, scores=scores)

    def _note_failures(self, outcomes: Mapping[str, Sequence[Outcome]], key: str) -> None:
        for reward in self.rewards:
            failures = [each for each in outcomes[reward.name] if isinstance(each, Failure)]
            if not failures:
                continue
            message = _describe(reward.name, failures[0], key)
            if reward.on_error == "raise":
                raise RunError(
                    f"{message}; correct the reward, or set on_error: mask to leave out the "
                    "completions on which it fails"
                )
            if not self.num_failures[reward.name]:
                _logger.warning("%s; further failures of this reward are only counted", message)
            self.num_failures[reward.name] += len(failures)

    def _score(self, outcomes: Mapping[str, Outcome], key: str) -> Score:
        """Put together what all rewards say about one completion."""
        parts = {n: part_of(v) for n, v in outcomes.items() if isinstance(v, float | tuple)}
        errors = [
            _describe(name, each, key)
            for name, each in outcomes.items()
            if isinstance(each, Failure)
        ]
        checks = [
            parts[reward.name] >= reward.correct_at
            for reward in self.rewards
            if reward.channel == "correctness" and reward.name in parts
        ]
        if not checks and not errors:
            errors = [f"no reward on channel 'correctness' applies to problem {key}"]
        if errors:
            return Score(total=0.0, parts=parts, correct=False, error="; ".join(errors))
        waiting = held_back(self.rewards, parts)
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
        )


def build_rubric(
    uses: Sequence[RewardUse], *, columns: Collection[str], problems: Sequence[Problem] = ()
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
        reward = _bind(use, path=f"rewards.{index}", columns=columns, problems=problems)
        if reward.name in rewards:
            raise ConfigError(
                f"rewards.{index}: {use.use!r} is a second reward named {reward.name!r}, after "
                f"{rewards[reward.name].reference!r}; scores are kept by name: drop one, or give "
                "its function another name"
            )
        rewards[reward.name] = reward
    check_conditions(tuple(rewards.values()))
    return Rubric(tuple(rewards.values()))


def common_columns(problems: Iterable[Problem]) -> frozenset[str]:
    """Return the columns that every problem has, which is what rewards may ask for."""
    columns = [frozenset(problem.meta) for problem in problems]
    return frozenset.intersection(*columns) if columns else frozenset()


def _bind(
    use: RewardUse, *, path: str, columns: Collection[str], problems: Sequence[Problem]
) -> Reward:
    try:
        plugin = resolve(use.use, kind="rewards")
    except PluginError as error:
        raise PluginError(f"{path}.use: {error}") from error.__cause__
    inputs = check_inputs(plugin, columns=columns, problems=problems)
    return Reward(
        name=plugin.name,
        reference=_absolute(use.use),
        style=read_signature(plugin).style,
        inputs=inputs,
        options=check_options(
            callable_of(plugin), use.options, path=path, beside=RewardUse.model_fields
        ),
        weight=use.weight,
        channel=use.channel,
        correct_at=use.correct_at,
        on_error=use.on_error,
        only_if=use.only_if,
    )


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


def _absolute(reference: str) -> str:
    """Return a reference that means the same in a process that runs in another folder."""
    file, colon, name = reference.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{name}" if colon else reference


def _describe(name: str, failure: Failure, key: str) -> str:
    return f"reward {name!r} failed on problem {key}: {failure.message}"
