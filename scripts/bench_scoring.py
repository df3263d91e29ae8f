"""What scoring a step of 512 completions costs: inline, and through worker processes.

python scripts/bench_scoring.py

Prints the best of five rounds in milliseconds; workers have started and loaded the reward before.
Of `math_answer` it prints the median of five rounds, with one worker and with two in turns, and how
many times as fast two are: the target is 1.7 times, on two cores that do nothing else. Before, two
rounds warm up what parser and algebra keep in each process. A round compares references of
tests/rewards/pairs_math.txt with their own answers and seven others each; the next compares others.
"""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric

NUM_GROUPS = 64
GROUP_SIZE = 8
ROUNDS = 5
WARM_UP_ROUNDS = 2
TEXT = "<think>" + "17+25=42 " * 40 + "</think><answer>42</answer>"
PAIRS = Path(__file__).resolve().parent.parent / "tests" / "rewards" / "pairs_math.txt"


def group(number: int, answer: str, texts: list[str]) -> Group:
    """Return a problem with completions of 200 tokens."""
    completions = tuple(
        Completion(
            token_ids=tuple(range(200)),
            logprobs=(-0.5,) * 200,
            text=text,
            finish_reason="stop",
            policy_version=0,
        )
        for text in texts
    )
    problem = Problem(key=f"k{number}", prompt="17+25=", answer=answer)
    return Group(problem=problem, prompt_ids=(), completions=completions)


def groups() -> list[Group]:
    """Return 64 groups of 8 completions of 200 tokens."""
    return [group(number, "42", [TEXT] * GROUP_SIZE) for number in range(NUM_GROUPS)]


def math_groups(round_number: int) -> list[Group]:
    """Return 64 groups of 8 completions that give their answers in a box, others in each round."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()
    pairs = [re.split(r"\s{2,}", line)[:2] for line in lines if line and not line.startswith("# ")]
    made = []
    for number in range(NUM_GROUPS):
        turn, first = divmod(round_number * NUM_GROUPS + number, len(pairs))
        rows = [(first + place * (37 + turn)) % len(pairs) for place in range(GROUP_SIZE)]
        texts = [f"We put it together and get \\boxed{{{pairs[row][0]}}}." for row in rows]
        made.append(group(number, pairs[first][1], texts))
    return made


def best_ms(call: Callable[[], object]) -> float:
    """Return the shortest of some calls."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def measure_plain() -> None:
    """Print a line for each way to call rewards that are quick."""
    given = groups()
    for name in ("exact_answer", "numeric_answer"):
        for num_workers in (None, 1, 2, 4):
            use = RewardUse(use=name, inline=num_workers is None)
            rubric = build_rubric([use], columns=(), num_workers=num_workers)
            list(rubric.score(given))
            spent = best_ms(lambda rubric=rubric: list(rubric.score(given)))
            rubric.close()
            _print(name, "inline" if num_workers is None else f"{num_workers} workers", spent)


def measure_math() -> None:
    """Print a line for one worker and for two, and how many times as fast two are."""
    rubrics = {
        count: build_rubric([RewardUse(use="math_answer")], columns=(), num_workers=count)
        for count in (1, 2)
    }
    spent: dict[int, list[float]] = {count: [] for count in rubrics}
    for round_number in range(WARM_UP_ROUNDS + ROUNDS):
        given = math_groups(round_number)
        for count in sorted(rubrics, reverse=round_number % 2 == 1):
            started = time.perf_counter()
            list(rubrics[count].score(given))
            spent[count].append((time.perf_counter() - started) * 1000)
    medians = {count: statistics.median(times[WARM_UP_ROUNDS:]) for count, times in spent.items()}
    for count, rubric in rubrics.items():
        rubric.close()
        _print("math_answer", f"{count} workers", medians[count])
    print(f"math_answer: two workers are {medians[1] / medians[2]:.2f} times as fast as one")


def _print(name: str, where: str, spent_ms: float) -> None:
    count = NUM_GROUPS * GROUP_SIZE
    print(
        f"{name:15} {where:10} {spent_ms:7.1f} ms for {count} completions, "
        f"{spent_ms / count:.3f} ms each"
    )


def main() -> None:
    """Measure and print."""
    measure_plain()
    measure_math()


if __name__ == "__main__":
    main()
