r"""Tests that come with the problem, on the Python program that a completion gives.

The program is the last block fenced as ```python, else the last fenced block. It runs in a sandbox:
without a network, without the run's files and environment, and within limits.

The answer of a problem is its tests. An object of JSON with `inputs` and `outputs` says what a
program prints for what it reads; a list of JSON, or text that is no JSON, is Python that follows
the program.
"""

import ast
import json
import re
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from rl_llm.errors import ConfigError, DataError, SandboxError
from rl_llm.records import Problem
from rl_llm.scoring.sandbox import MARGIN_S, Sandbox, check_isolated

_SUM = "```python\nprint(sum(map(int, input().split())))\n```"
_PAIRS = '{"inputs": ["1 2\\n", "3 4\\n"], "outputs": ["3\\n", "7\\n"]}'
_ADD = "```python\ndef add(a, b):\n    return a + b\n```"
_CHECK = "def check(candidate):\n    assert candidate(1, 2) == 3\n"

EXAMPLES = [
    (f"I add them up.\n{_SUM}", _PAIRS, 1.0),
    ("```\nprint(3)\n```", _PAIRS, 0.0),
    ({"completion": "```\nprint(3)\n```", "answer": _PAIRS, "partial": True}, 0.5),
    (_ADD, '["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]', 1.0),
    (_ADD, "assert add(1, 2) == 4", 0.0),
    ({"completion": _ADD, "answer": _CHECK, "entry_point": "add"}, 1.0),
    ({"completion": "def add(a, b): return 3", "answer": "assert add(1, 2) == 3"}, 0.0),
    (
        {
            "completion": "def add(a, b): return 3",
            "answer": "assert add(1, 2) == 3",
            "fenced": False,
        },
        1.0,
    ),
    ("```python\nimport os\nos._exit(0)\n```", "assert add(1, 2) == 3", 0.0),
    ("I do not know", _PAIRS, 0.0),
]

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^`]*")
_PYTHON = ("python", "python3", "py", "py3")
_SHOWN_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a program reads, and what it is to print."""

    stdin: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Script:
    """Python to run behind a program, and the modules that it imports."""

    source: str
    modules: tuple[str, ...]


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
    program = find_program(completion)
    if program is None and not fenced:
        program = completion
    if program is None or not program.strip():
        return 0.0
    num_passed = 0
    box = Sandbox(memory_mib=memory_mib, allow_unisolated=allow_unisolated)
    with closing(box) as sandbox:
        deadline = time.monotonic() + total_s
        for test in tests:
            left_s = deadline - time.monotonic()
            if left_s > 0 and passes(sandbox, program, test, min(limit_s, left_s)):
                num_passed += 1
            elif not partial:
                return 0.0
    return num_passed / len(tests)


def before_run(problems: Sequence[Problem], timeout_s: float, options: Mapping[str, Any]) -> None:
    """Refuse limits that do not fit each other, tests that cannot be read, and a machine that does
    not isolate programs."""
    limit_s, total_s = options["limit_s"], options["total_s"]
    if not 0 < limit_s <= total_s:
        raise ConfigError(
            f"limit_s={limit_s:g} of one test must lie above 0 and not above total_s={total_s:g} "
            "of all tests; set both"
        )
    if total_s + MARGIN_S > timeout_s:
        raise ConfigError(
            f"total_s={total_s:g} of the tests and {MARGIN_S:g} s for the sandbox do not fit into "
            f"timeout_s={timeout_s:g}, so that slow programs would fail the reward in place of "
            f"their tests; set timeout_s: {total_s + MARGIN_S:g}, or a lower total_s"
        )
    if options["memory_mib"] < 64:
        raise ConfigError(f"memory_mib={options['memory_mib']} is less than Python takes; use 64")
    for problem in problems:
        read_tests(problem.answer, problem)
    if options["allow_unisolated"]:
        return
    try:
        check_isolated()
    except SandboxError as error:
        raise ConfigError(
            f"{error}; run where user namespaces are permitted, or set allow_unisolated: true to "
            "have programs run with limits of time and memory alone, free to use the network and "
            "to read and change your files"
        ) from None


def passes(sandbox: Sandbox, program: str, test: Pair | Script, limit_s: float) -> bool:
    """Whether a program passes a test: it prints what is expected and ends well, or the test comes
    to its end."""
    if isinstance(test, Script):
        return sandbox.passes(program, test.source, modules=test.modules, limit_s=limit_s)
    ended = sandbox.run(program, stdin=test.stdin, limit_s=limit_s)
    printed = ended.output.decode("utf-8", "replace")
    return ended.how == "exit" and ended.code == 0 and _lines(printed) == _lines(test.expected)


def find_program(completion: str) -> str | None:
    """Return the last block that is fenced as Python, else the last fenced block; None without one.

    A block that is not closed is none.
    """
    last: str | None = None
    last_python: str | None = None
    opened: re.Match[str] | None = None
    inside: list[str] = []
    for line in completion.split("\n"):
        if opened is None:
            opened, inside = _FENCE.fullmatch(line.rstrip()), []
        elif line.strip().startswith(opened["fence"]) and not line.strip(
            f"{opened['fence'][0]} \t\r"
        ):
            last = textwrap.dedent("\n".join(inside)) if opened["indent"] else "\n".join(inside)
            if opened["language"].lower() in _PYTHON:
                last_python = last
            opened = None
        else:
            inside.append(line)
    return last if last_python is None else last_python


def read_tests(answer: str, problem: Problem) -> list[Pair] | list[Script]:
    """Return the tests of a problem; raises `DataError` where they cannot be read, or test
    nothing."""
    try:
        if answer.lstrip()[:1] == "{":
            return list(_pairs(json.loads(answer)))
        sources = json.loads(answer) if answer.lstrip()[:1] == "[" else [answer]
        if not sources or not all(isinstance(each, str) for each in sources):
            raise ValueError("a list of tests holds texts, at least one")
        return [_script(each, problem.meta.get("entry_point")) for each in sources]
    except (ValueError, SyntaxError, RecursionError) as error:
        prompt = problem.prompt
        asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        raise DataError(
            f"the answer {_short(answer)} of problem {_short(asked)} (key {problem.key}, source "
            f"{problem.source!r}) is no tests: {error}; write "
            '{"inputs": [...], "outputs": [...]}, a list of assertions, or Python'
        ) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _pairs(value: Mapping[str, Any]) -> Iterator[Pair]:
    if value.get("fn_name") is not None:
        raise ValueError("tests that call the function 'fn_name' are to be written as assertions")
    inputs, outputs = value.get("inputs"), value.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("an object has the lists 'inputs' and 'outputs'")
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    for place, (stdin, expected) in enumerate(zip(inputs, outputs, strict=True)):
        yield Pair(
            stdin=_text(stdin, f"inputs[{place}]"), expected=_text(expected, f"outputs[{place}]")
        )


def _text(value: Any, where: str) -> str:
    """Return a text, which may be a list of its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{where} is {value!r} and no text")
    return value


def _script(source: str, entry_point: str | None) -> Script:
    tree = ast.parse(source)
    functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    if entry_point is not None and "check" in functions:
        source = f"{source}\ncheck({entry_point})\n"
        tree = ast.parse(source)
    tests = [each for name, each in functions.items() if name.startswith("test")]
    for each in tests:
        if ast.unparse(each.args) or each.decorator_list:
            raise ValueError(f"{each.name}() takes arguments or is decorated, and cannot be called")
    if not tests and not any(map(_does_something, tree.body)):
        raise ValueError(
            "the code asserts nothing and calls nothing"
            + (
                ", and there is no column 'entry_point' to call check() with"
                * ("check" in functions)
            )
        )
    return Script(source=source, modules=tuple(dict.fromkeys(_imported(tree))))


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return any(isinstance(each, ast.Assert | ast.Call | ast.Raise) for each in ast.walk(statement))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _lines(text: str) -> list[str]:
    """Return the lines that are compared: without what is blank at their ends, and at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]
