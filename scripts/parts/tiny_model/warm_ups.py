"""What the small models see before reinforcement learning: solutions with mistakes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from rl_llm.plugins import resolve
from rl_llm.seeds import derive_rng

arithmetic = resolve("arithmetic", kind="data").module

LEVELS = (1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """A supervised curriculum: level L is drawn with weight `level_decay**L`.

    Each step of a solution is wrong with the level's rate, by any digit. Beside that, a share
    `confused_share` of the 200 digit sums (left + right + carry) is confused: each of those is
    wrong at a rate of its own, evenly drawn between `confusion_rates`, always by the same digit.
    """

    name: str
    purpose: str
    level_decay: float
    wrong_digit_rates: tuple[float, ...]
    steps: int
    confused_share: float = 0.0
    confusion_rates: tuple[float, float] = (0.0, 0.0)


WARM_UPS = {
    "sharpen": WarmUp(
        name="sharpen",
        purpose=(
            "Every level is known, and the higher ones are blurred by noise: reinforcement "
            "learning sharpens them within a minute or two. The quickstart trains it."
        ),
        level_decay=0.75,
        wrong_digit_rates=(0.005, 0.01, 0.01, 0.03, 0.1, 0.22, 0.3, 0.38),
        steps=2500,
    ),
    "frontier": WarmUp(
        name="frontier",
        purpose=(
            "Half of its digit sums are confused: some problems are solved, some never, and "
            "reinforcement learning has to carry the frontier upwards, sum by sum. Benchmarks of "
            "the curriculum train it."
        ),
        level_decay=0.6,
        wrong_digit_rates=(0.01,) * len(LEVELS),
        steps=1400,
        confused_share=0.5,
        confusion_rates=(0.3, 0.9),
    ),
}


def draw_examples(warm_up: WarmUp, *, seed: int) -> Iterator[tuple[str, str]]:
    """Yield prompts of the training split with noisy solutions, without end."""
    rng = derive_rng(seed, "warm-up", warm_up.name)
    weights = warm_up.level_decay ** np.array(LEVELS)
    while True:
        level = int(rng.choice(LEVELS, p=weights / weights.sum()))
        left, right = rng.integers(*arithmetic.operand_range(level), size=2).tolist()
        problem = arithmetic.make_problem(left, right, level=level)
        if arithmetic.split_of(problem) == "train":
            rate = warm_up.wrong_digit_rates[level - 1]
            if warm_up.confused_share:
                shifts = mistakes(warm_up, left, right, wrong_digit_rate=rate, rng=rng)
                solution = arithmetic.mistaken_solution(left, right, shifts=shifts)
            else:
                solution = arithmetic.noisy_solution(left, right, wrong_digit_rate=rate, rng=rng)
            yield problem.prompt, solution


def mistakes(
    warm_up: WarmUp, left: int, right: int, *, wrong_digit_rate: float, rng: np.random.Generator
) -> list[int]:
    """Draw by how much every step of a solution is wrong; 0 where it is right."""
    shifts = []
    for operands in arithmetic.step_operands(left, right):
        rate, shift = confusion(warm_up, operands)
        if rng.random() < rate:
            shifts.append(shift)
        else:
            shifts.append(int(rng.integers(1, 10)) if rng.random() < wrong_digit_rate else 0)
    return shifts


@cache
def confusion(warm_up: WarmUp, operands: tuple[int, int, int]) -> tuple[float, int]:
    """Return how often a digit sum is confused, and by how much; the same for every seed."""
    rng = derive_rng("confusion", *operands)
    if rng.random() >= warm_up.confused_share:
        return 0.0, 0
    return float(rng.uniform(*warm_up.confusion_rates)), int(rng.integers(1, 10))
