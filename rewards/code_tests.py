r"""Tests that come with the problem, on the Python program that a completion gives.

The program is the last block fenced as ```python, else the last fenced block. It runs in a sandbox:
without a network, without the run's files and environment, and within limits.

The answer of a problem is its tests. An object of JSON with `inputs` and `outputs` says what a
program prints for what it reads; a list of JSON, or text that is no JSON, is Python that follows
the program.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rl_llm.records import Problem
from rl_llm.scoring.programs import find_program, num_passed, read_tests
from rl_llm.scoring.sandbox import Sandbox, check_limits

_SUM = "```python\nprint(sum(map(int, input().split())))\n```"
_PAIRS = '{"inputs": ["1 2\\n", "3 4\\n"], "outputs": ["3\\n", "7\\n"]}'
_ADD = "```python\ndef add(a, b):\n    return a + b\n```"
_ONE = "assert add(1, 2) == 3"
_CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n"

EXAMPLES = [
    (f"I add them up.\n{_SUM}", _PAIRS, 1.0),
    ("```\nprint(3)\n```", _PAIRS, 0.0),
    ({"completion": "```\nprint(3)\n```", "answer": _PAIRS, "partial": True}, 0.5),
    (_ADD, '["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]', 1.0),
    (_ADD, "assert add(1, 2) == 4", 0.0),
    ({"completion": _ADD, "answer": _CHECK, "entry_point": "add"}, 1.0),
    ("def add(a, b): return 3", _ONE, 0.0),
    ({"completion": "def add(a, b): return 3", "answer": _ONE, "fenced": False}, 1.0),
    ("```python\nimport os\nos._exit(0)\n```", _ONE, 0.0),
    ("I do not know", _PAIRS, 0.0),
]

read_reference = read_tests  # What `rl-llm validate` calls.


def code_tests(  # noqa: PLR0913  A reward's inputs and options are a flat list.
    completion: str,
    answer: str,
    problem: Problem,
    *,
    limit_s: float = 5.0,
    total_s: float = 20.0,
    memory_mib: int = 1024,
    partial: bool = False,
    fenced: bool = True,
    allow_unisolated: bool = False,
) -> float:
    """1.0 when the completion's program passes all tests of the problem, else 0.0.

    Every test has a process of its own, for `limit_s` at most; those that have not passed in
    `total_s` together fail. `partial` gives the share that pass. Without `fenced`, a completion
    that has no fenced block is a program as a whole.
    """
    tests = read_tests(answer, problem)
    program = find_program(completion, fenced=fenced)
    if program is None:
        return 0.0
    with closing(Sandbox(memory_mib=memory_mib, allow_unisolated=allow_unisolated)) as sandbox:
        count = num_passed(
            sandbox, program, tests, limit_s=limit_s, total_s=total_s, needs_all=not partial
        )
    return count / len(tests)


def before_run(timeout_s: float, options: Mapping[str, Any]) -> None:
    """Refuse limits that do not fit each other, and a machine that does not isolate programs."""
    check_limits(
        timeout_s=timeout_s,
        **{n: options[n] for n in ("limit_s", "total_s", "memory_mib", "allow_unisolated")},
    )
