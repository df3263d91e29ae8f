"""Addition of two numbers, graded by their number of digits: level L adds two L-digit numbers.

The pass rate of a model that writes its steps out falls smoothly with the level, so one source
holds problems that are always, sometimes and never solved. The solution is written from the lowest
digit up, each step as `left+right+carry=sum`.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np

from rl_llm.errors import ConfigError
from rl_llm.records import Problem, content_key
from rl_llm.seeds import derive_rng, derive_seed

Split = Literal["train", "eval"]

EVAL_SHARE = 0.3
MAX_LEVEL = 18  # Both operands fit in 64 bits.
_LISTED_LEVELS = 2  # Up to here a level is small enough to be listed and shuffled.

_log = logging.getLogger(__name__)


def arithmetic(
    *,
    levels: list[int],
    size: int,
    split: Split,
    seed: int = 0,
    eval_share: float = EVAL_SHARE,
) -> Iterator[Problem]:
    """Yield `size` different problems, spread evenly over `levels`, level by level.

    A problem belongs to `eval` or to `train` by the hash of its key, so no seed and no size moves
    one from training to evaluation; `eval_share` is the share of all problems that is held out. A
    level that holds fewer problems than its part of `size` (level 1 has 100 in both splits)
    gives all it has, a warning is logged, and the other levels do not make up for it. Raises
    `ConfigError` at the call.
    """
    _check_options(levels, size, eval_share)
    asked = {level: size // len(levels) for level in levels}
    for level in levels[: size % len(levels)]:
        asked[level] += 1
    return _draw(asked, split=split, seed=seed, eval_share=eval_share)


def make_problem(left: int, right: int, *, level: int) -> Problem:
    """Return the problem `left+right=`."""
    prompt, answer = f"{left}+{right}=", str(left + right)
    key = content_key(prompt, answer)
    return Problem(key=key, prompt=prompt, answer=answer, level=level, source="arithmetic")


def split_of(problem: Problem, *, eval_share: float = EVAL_SHARE) -> Split:
    """Return the split that a problem belongs to, whatever the seed."""
    position = derive_seed("arithmetic", "split", problem.key) / 2**63
    return "eval" if position < eval_share else "train"


def operand_range(level: int) -> tuple[int, int]:
    """Return the smallest L-digit operand and the one past the largest; one digit includes 0."""
    return (0 if level == 1 else 10 ** (level - 1)), 10**level


def worked_solution(left: int, right: int) -> str:
    """Return the steps and the answer: 47+38 is `<think>7+8+0=15
    4+3+1=8</think><answer>85</answer>`.

    Both operands have the same number of digits.
    """
    return _write_solution(left, right, shifts=[0] * len(str(left)))


def noisy_solution(
    left: int, right: int, *, wrong_digit_rate: float, rng: np.random.Generator
) -> str:
    """Return a worked solution in which each step's digit is wrong with probability
    `wrong_digit_rate`.

    A wrong step keeps its carry and has another last digit, each of the nine equally likely: 7+8+0
    is 10 to 19 but not 15. The answer is read off the steps, so it is right exactly when all of
    them are.
    """
    num_steps = len(str(left))
    wrong_steps = rng.random(num_steps) < wrong_digit_rate
    shifts = np.where(wrong_steps, rng.integers(1, 10, size=num_steps), 0)
    return _write_solution(left, right, shifts=shifts.tolist())


def mistaken_solution(left: int, right: int, *, shifts: Sequence[int]) -> str:
    """Return a worked solution in which step i's digit is `shifts[i]` too high, modulo 10.

    A wrong step keeps its carry, and the answer is read off the steps.
    """
    return _write_solution(left, right, shifts=shifts)


def step_operands(left: int, right: int) -> list[tuple[int, int, int]]:
    """Return left digit, right digit and carry of every step, from the lowest digit up."""
    operands, carry = [], 0
    for left_digit, right_digit in zip(reversed(str(left)), reversed(str(right)), strict=True):
        operands.append((int(left_digit), int(right_digit), carry))
        carry = (int(left_digit) + int(right_digit) + carry) // 10
    return operands


def _check_options(levels: Sequence[int], size: int, eval_share: float) -> None:
    if not levels or len(set(levels)) < len(levels):
        raise ConfigError(f"levels={levels!r}: name at least one level, and each once")
    for level in levels:
        if not 1 <= level <= MAX_LEVEL:
            raise ConfigError(f"levels: {level} is not a number of digits from 1 to {MAX_LEVEL}")
    if size < len(levels):
        raise ConfigError(
            f"size={size} is less than one problem for each of {len(levels)} levels; "
            f"use at least {len(levels)}"
        )
    if not 0 < eval_share < 1:
        raise ConfigError(f"eval_share={eval_share} must lie between 0 and 1, as in {EVAL_SHARE}")


def _draw(
    asked: dict[int, int], *, split: Split, seed: int, eval_share: float
) -> Iterator[Problem]:
    for level, num_asked in asked.items():
        in_split = (
            problem
            for problem in _shuffled_level(level, derive_rng(seed, "arithmetic", level))
            if split_of(problem, eval_share=eval_share) == split
        )
        num_drawn = 0
        for problem in islice(in_split, num_asked):
            num_drawn += 1
            yield problem
        if num_drawn < num_asked:
            _log.warning(
                "arithmetic: level %d holds %d problems in split %s, %d were asked for; "
                "all of them are used, and the source is smaller by the difference",
                level,
                num_drawn,
                split,
                num_asked,
            )


def _shuffled_level(level: int, rng: np.random.Generator) -> Iterator[Problem]:
    """Yield every problem of a level once, in random order, at a cost that grows with what is
    taken."""
    low, high = operand_range(level)
    if level <= _LISTED_LEVELS:
        for index in rng.permutation((high - low) ** 2).tolist():
            left, right = divmod(index, high - low)
            yield make_problem(low + left, low + right, level=level)
        return
    seen: set[tuple[int, int]] = set()
    while len(seen) < (high - low) ** 2:
        left, right = rng.integers(low, high, size=2).tolist()
        if (left, right) not in seen:
            seen.add((left, right))
            yield make_problem(left, right, level=level)


def _write_solution(left: int, right: int, *, shifts: Sequence[int]) -> str:
    """Write the steps, moving step i's last digit on by `shifts[i]`, modulo 10."""
    steps, digits, carry = [], "", 0
    pairs = zip(reversed(str(left)), reversed(str(right)), shifts, strict=True)
    for left_digit, right_digit, shift in pairs:
        carry_out, digit = divmod(int(left_digit) + int(right_digit) + carry, 10)
        total = 10 * carry_out + (digit + shift) % 10
        steps.append(f"{left_digit}+{right_digit}+{carry}={total}")
        digits = f"{total % 10}{digits}"
        carry = carry_out
    answer = f"{carry or ''}{digits}"
    return f"<think>{' '.join(steps)}</think><answer>{answer}</answer>"
