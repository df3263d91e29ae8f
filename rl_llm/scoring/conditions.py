"""Which rewards count in a completion, where a recipe says that one counts `only_if` another."""

from collections.abc import Collection, Mapping, Sequence

from rl_llm.errors import ConfigError, nearest
from rl_llm.scoring.reward import Reward


def check_conditions(rewards: Sequence[Reward]) -> None:
    """Raise `ConfigError` for an `only_if` that names no reward, its own, or leads back to it.

    `rewards` stand in the order of the recipe.
    """
    by_name = {reward.name: reward for reward in rewards}
    for index, reward in enumerate(rewards):
        if reward.only_if is None:
            continue
        place = f"rewards.{index}.only_if={reward.only_if!r}"
        if reward.only_if not in by_name:
            raise ConfigError(
                f"{place}: there is no reward of that name in the recipe"
                f"{nearest(reward.only_if, by_name)}; name another reward by its function's name"
            )
        if reward.only_if == reward.name:
            raise ConfigError(
                f"{place}: this is the reward itself, and a reward counts only if another one "
                f"does its part; name another of {_listed(by_name)}, or drop only_if"
            )
        trail = _trail(reward, by_name)
        if trail[-1] == reward.name:
            raise ConfigError(
                f"{place}: {' only if '.join(map(repr, trail))} goes in a circle, and conditions "
                f"must lead to a reward without one; drop one only_if among the rewards "
                f"{_listed(by_name)}"
            )


def held_back(
    rewards: Sequence[Reward], parts: Mapping[str, float], *, failed: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of the rewards that gave something for a completion and do not count in it.

    These are the ones under an `only_if` whose reward gave less than its `correct_at`, or nothing.
    What that reward gave decides, whether or not it counts itself; one that `failed` reached
    nothing.
    """
    reached = {
        reward.name
        for reward in rewards
        if reward.name in parts
        and reward.name not in failed
        and parts[reward.name] >= reward.correct_at
    }
    return tuple(
        reward.name
        for reward in rewards
        if reward.name in parts and reward.only_if not in {None, *reached}
    )


def _trail(start: Reward, by_name: Mapping[str, Reward]) -> list[str]:
    """Return the names from a reward along `only_if`, up to an unknown, last or repeated one."""
    trail = [start.name]
    following = start.only_if
    while following is not None and following in by_name and following not in trail:
        trail.append(following)
        following = by_name[following].only_if
    return trail if following is None else [*trail, following]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
