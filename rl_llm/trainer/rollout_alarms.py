"""Alarms over training rollouts: completions that grow, are cut, or are all alike."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]

LENGTHS = "train/completion_tokens_mean/"
RECENT, BEFORE, LEAST_BEFORE = 4, 16, 8
"""The last 4 steps are compared with the 16 before them, or with 8 at least."""
SURE = 4.0
"""So many standard errors are no noise, though every step asks anew."""
GROWTH = 1.5
"""Completions half as long again within some steps are no drift."""
MORE_CUT = 0.1
"""One completion in ten that is cut, and was not before."""


class Length:
    """Raised where completions of the last steps are `GROWTH` times as long as in those before, and
    by `SURE` standard errors, within levels: harder problems may have longer answers.

    All is counted in logarithms of a step's mean length at a level. The spread of these within
    levels gives the standard error, and a level weighs by how surely its growth is known from it:
    one that was hardly seen, whose problems may happen to have short answers, says little.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._steps: deque[dict[str, float]] = deque(maxlen=RECENT + BEFORE)

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge the row of a step."""
        logs = {
            key: math.log(value)
            for key, value in row.items()
            if key.startswith(LENGTHS) and value > 0
        }
        if not logs:
            return {}
        self._steps.append(logs)
        before, recent = _split([*self._steps])
        growth, error = _growth(before, recent)
        if growth < math.log(GROWTH) or growth < SURE * error:
            return {"length": None}
        return {
            "length": (
                f"completions of the last {len(recent)} steps up to step {row['step']} are "
                f"{math.exp(growth):.2f} times as long as in the {len(before)} steps before, level "
                f"by level ({row['train/completion_tokens_mean']:.0f} tokens on average now). They "
                "may be padded or repeat themselves: look for a reward that pays for length"
            )
        }


class Truncation:
    """Raised where the share of completions that are cut is higher in the last steps than in those
    before by `MORE_CUT`, and by `SURE` standard errors.

    The standard error is that of the steps' spread, or of as many independent problems, whichever
    is larger.
    """

    def __init__(self, *, problems_per_step: int) -> None:
        """Start with nothing seen."""
        self._problems_per_step = problems_per_step
        self._shares: deque[float] = deque(maxlen=RECENT + BEFORE)

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge the row of a step."""
        if "train/truncated_share" not in row:
            return {}
        self._shares.append(row["train/truncated_share"])
        before, recent = _split([*self._shares])
        if not before:
            return {"truncation": None}
        was, now, overall = (float(np.mean(part)) for part in (before, recent, self._shares))
        of_problems = math.sqrt(overall * (1 - overall) / self._problems_per_step)
        spread = max(float(np.std(before, ddof=1)), of_problems)
        error = spread * _both(len(before), len(recent))
        if now - was < max(MORE_CUT, SURE * error):
            return {"truncation": None}
        return {
            "truncation": (
                f"of the completions of the last {len(recent)} steps up to step {row['step']}, "
                f"{100 * now:.0f} % were cut at rollout.max_new_tokens, and {100 * was:.0f} % in "
                f"the {len(before)} steps before. What is cut has no answer: raise the limit, or "
                "look for completions that repeat themselves"
            )
        }


class OneAnswer:
    """Raised where more than half of a step's completions, over different problems, give the same
    answer, and no reference answer explains it: none is that common, by three standard errors."""

    SURE = 3.0

    def __init__(self, *, problems_per_step: int) -> None:
        """`problems_per_step` is what the standard error is of."""
        self._problems_per_step = problems_per_step

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge the row of a step."""
        share, expected = (
            row.get(f"rollout/same_{what}_share") for what in ("answer", "reference")
        )
        if share is None or expected is None:
            return {}
        error = math.sqrt(expected * (1 - expected) / self._problems_per_step)
        if share <= 0.5 or share - expected <= self.SURE * error:
            return {"one_answer": None}
        return {
            "one_answer": (
                f"{100 * share:.0f} % of the completions of step {row['step']} give one and the "
                f"same answer, and no more than {100 * expected:.0f} % of its problems have one "
                "reference answer in common. The policy no longer reads the problem: look for a "
                "reward that such an answer earns, lower optim.lr or raise beta"
            )
        }


class Duplicates:
    """Raised where, in `RECENT` steps in a row, groups with a wrong completion held fewer than 1.5
    different texts on average: sampling again finds nothing new."""

    def __init__(self, *, group_size: int) -> None:
        """`group_size` completions make a group."""
        self._bound = 0.5 / max(group_size - 1, 1)
        self._shares: deque[float] = deque(maxlen=RECENT)

    def __call__(self, row: Row) -> dict[str, str | None]:
        """Judge the row of a step; one without such a group ends what stood in a row."""
        if "train/truncated_share" not in row:
            return {}
        if "rollout/distinct_share" not in row:
            self._shares.clear()
            return {"duplicates": None}
        self._shares.append(row["rollout/distinct_share"])
        if len(self._shares) < RECENT or max(self._shares) >= self._bound:
            return {"duplicates": None}
        entropy = row.get("entropy_nats_per_token")
        told = "" if entropy is None else f" (entropy {entropy:.3g} nats a token)"
        return {
            "duplicates": (
                f"for {RECENT} steps up to step {row['step']}, most groups with a wrong completion "
                f"hold the same text again and again{told}: rollout/distinct_share is "
                f"{self._shares[-1]:.3f}. Exploration has ended: raise rollout.temperature, beta "
                "or the algorithm's clip_high"
            )
        }


def _split(steps: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the steps before, none where there are too few of them, and the recent ones."""
    before, recent = steps[:-RECENT], steps[-RECENT:]
    return (before if len(before) >= LEAST_BEFORE else []), recent


def _both(num_before: int, num_recent: int) -> float:
    """Return what makes of a step's spread the standard error of a difference of two means."""
    return math.sqrt(1 / num_before + 1 / num_recent)


def _growth(
    before: Sequence[Mapping[str, float]], recent: Sequence[Mapping[str, float]]
) -> tuple[float, float]:
    """Return by how much what both have rose, level by level, and its standard error; 0 where they
    have no level in common, or none is there twice.

    Of a level that stands in m steps before and n recent ones, the difference of two means has the
    variance of one value times (m + n) / (m n), and weighs by the inverse of that.
    """
    growth = weights = squares = 0.0
    num_free = 0
    for level in sorted({level for step in (*before, *recent) for level in step}):
        then, now = ([step[level] for step in part if level in step] for part in (before, recent))
        for values in (then, now):
            squares += len(values) * float(np.var(values)) if values else 0.0
            num_free += max(len(values) - 1, 0)
        if then and now:
            weight = len(then) * len(now) / (len(then) + len(now))
            growth += weight * float(np.mean(now) - np.mean(then))
            weights += weight
    if not weights or not num_free:
        return 0.0, 0.0
    return growth / weights, math.sqrt(squares / num_free / weights)
