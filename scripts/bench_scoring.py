"""What scoring a step of 512 completions costs: inline, and through worker processes.

python scripts/bench_scoring.py

Prints the best of five rounds in milliseconds; workers have started and loaded the reward before.
"""

import time
from collections.abc import Callable

from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric

NUM_GROUPS = 64
GROUP_SIZE = 8
ROUNDS = 5
TEXT = "<think>" + "17+25=42 " * 40 + "</think><answer>42</answer>"


def groups() -> list[Group]:
    """Return 64 groups of 8 completions of 200 tokens."""
    completion = Completion(
        token_ids=tuple(range(200)),
        logprobs=(-0.5,) * 200,
        text=TEXT,
        finish_reason="stop",
        policy_version=0,
    )
    return [
        Group(
            problem=Problem(key=f"k{number}", prompt="17+25=", answer="42"),
            prompt_ids=(),
            completions=(completion,) * GROUP_SIZE,
        )
        for number in range(NUM_GROUPS)
    ]


def best_ms(call: Callable[[], object]) -> float:
    """Return the shortest of some calls."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def main() -> None:
    """Measure and print a line for each way."""
    given = groups()
    count = NUM_GROUPS * GROUP_SIZE
    for name in ("exact_answer", "numeric_answer"):
        for num_workers in (None, 1, 2, 4):
            use = RewardUse(use=name, inline=num_workers is None)
            rubric = build_rubric([use], columns=(), num_workers=num_workers)
            list(rubric.score(given))
            spent = best_ms(lambda rubric=rubric: list(rubric.score(given)))
            rubric.close()
            where = "inline" if num_workers is None else f"{num_workers} workers"
            print(
                f"{name:15} {where:10} {spent:7.1f} ms for {count} completions, "
                f"{spent / count:.3f} ms each"
            )


if __name__ == "__main__":
    main()
