"""Which scored groups are learnt from.

A gate is a class whose keyword-only arguments are its options in the recipe. Beside them it may
name `group_size` and `needs_mixed` (whether groups that are all correct or all wrong are not learnt
from, whatever the gates say); the program supplies those.
"""

from typing import Literal, Protocol

import numpy as np

from rl_llm.curriculum.belief import check_range
from rl_llm.errors import ConfigError, PluginError
from rl_llm.records import Score, ScoredGroup


class Gate(Protocol):
    """Says of one scored group whether the policy learns from it; beliefs learn from all."""

    def admit(self, scored_group: ScoredGroup) -> bool:
        """Return True to keep the group."""
        ...


def admits(gate: Gate, scored_group: ScoredGroup) -> bool:
    """Return what a gate, which may be anybody's, says of a group; raises `PluginError` for an
    answer that is neither True nor False, as of a method without `return`."""
    answer = gate.admit(scored_group)
    if not isinstance(answer, (bool, np.bool_)):
        raise PluginError(
            f"gate {type(gate).__name__}: admit returned {answer!r}; it must return True or False"
        )
    return bool(answer)


class Informative:
    """Keep groups that can teach a group-normalised algorithm something.

    `of: correct` keeps a group with at least one correct and one wrong completion. `of: total`
    keeps a group whose total rewards are not all equal; with a format reward that lets through
    groups in which every answer is wrong. Completions whose reward failed are left out.
    """

    def __init__(
        self, *, of: Literal["correct", "total"] = "correct", group_size: int | None = None
    ) -> None:
        """Judge by correctness, or by the total reward. Raise `ConfigError` for groups of 1."""
        if group_size == 1:
            raise ConfigError(
                "rollout.group_size=1: one completion differs from no other, so no group would be "
                "learnt from; use 2 or more, or curriculum.gates []"
            )
        self._of = of

    def admit(self, scored_group: ScoredGroup) -> bool:
        """Return True when what is judged differs within the group."""
        if self._of == "correct":
            return is_mixed(scored_group)
        return len({score.total for score in counted_scores(scored_group)}) > 1


class Range:
    """Keep groups whose share of correct completions is from `low` to `high`, both included: online
    difficulty filtering, arXiv:2504.03380.

    Completions whose reward failed are left out; a group without any other is not kept.
    """

    def __init__(
        self,
        *,
        low: float = 0.1,
        high: float = 0.9,
        group_size: int | None = None,
        needs_mixed: bool = False,
    ) -> None:
        """Raise `ConfigError` unless 0 <= low <= high <= 1, and where no share of `group_size`
        completions, with `needs_mixed` other than none and all, is within the range."""
        check_range("low", low, least=0.0, most=1.0)
        check_range("high", high, least=0.0, most=1.0)
        if low > high:
            raise ConfigError(f"low={low} with high={high}: must not be the larger one")
        self._low, self._high = low, high
        if group_size is not None:
            self._check_reachable(group_size, needs_mixed=needs_mixed)

    def _check_reachable(self, group_size: int, *, needs_mixed: bool) -> None:
        shares = [num_correct / group_size for num_correct in range(group_size + 1)]
        held = [share for share in shares if self._low <= share <= self._high]
        if held and needs_mixed and all(share in (0, 1) for share in held):
            raise ConfigError(
                f"low={self._low} with high={self._high}: of groups of rollout.group_size="
                f"{group_size} completions it holds those alone that are all correct or all wrong, "
                f"and those are not learnt from; widen it to hold one of 1/{group_size} to "
                f"{group_size - 1}/{group_size}"
            )
        if held:
            return
        num_below = sum(share < self._low for share in shares) - 1
        raise ConfigError(
            f"low={self._low} with high={self._high}: no group of rollout.group_size={group_size} "
            f"completions has such a share of correct ones, so none would be learnt from; the "
            f"nearest are {num_below}/{group_size} and {num_below + 1}/{group_size}: widen the "
            "range to hold one of them"
        )

    def admit(self, scored_group: ScoredGroup) -> bool:
        """Return True when the share of correct completions is within the range."""
        scores = counted_scores(scored_group)
        if not scores:
            return False
        return self._low <= sum(score.correct for score in scores) / len(scores) <= self._high


def is_mixed(scored_group: ScoredGroup) -> bool:
    """Tell whether some completion is correct and another wrong, of those whose rewards did not
    fail."""
    return len({score.correct for score in scored_group.scores if score.error is None}) > 1


def counted_scores(scored_group: ScoredGroup) -> list[Score]:
    """Return the scores of the completions whose rewards did not fail."""
    return [score for score in scored_group.scores if score.error is None]
