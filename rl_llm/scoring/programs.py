"""Tests that come with a problem, read from its answer, and put to a program in a sandbox."""

import ast
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_llm.errors import DataError
from rl_llm.records import Problem
from rl_llm.scoring.answers import code_block
from rl_llm.scoring.sandbox import Sandbox

_PYTHON = ("python", "python3", "py", "py3")
_SHOWN_CHARS = 60
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEEDS = (ast.Assert, ast.Call, ast.Raise)


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


def find_program(completion: str, *, fenced: bool) -> str | None:
    """Return the last block that is fenced as Python, else the last fenced block; without one,
    the completion as a whole unless it has to be `fenced`. None where that is blank."""
    program = code_block(completion, *_PYTHON)
    if program is None:
        program = code_block(completion)
    if program is None and not fenced:
        program = completion
    return program if program and not program.isspace() else None


def num_passed(
    sandbox: Sandbox,
    program: str,
    tests: Sequence[Pair | Script],
    *,
    limit_s: float,
    total_s: float,
    needs_all: bool,
) -> int:
    """Return how many tests a program passes, each within `limit_s`; those that have not passed in
    `total_s` fail. Where it `needs_all`, 0 unless all do, and the first that fails is the last."""
    deadline = time.monotonic() + total_s
    count = 0
    for test in tests:
        left_s = deadline - time.monotonic()
        if left_s > 0 and _passes(sandbox, program, test, min(limit_s, left_s)):
            count += 1
        elif needs_all:
            return 0
    return count


def _passes(sandbox: Sandbox, program: str, test: Pair | Script, limit_s: float) -> bool:
    """Whether a program passes a test: it prints what is expected and ends well, or the test comes
    to its end."""
    if isinstance(test, Script):
        return sandbox.passes(program, test.source, modules=test.modules, limit_s=limit_s)
    ended = sandbox.run(program, stdin=test.stdin, limit_s=limit_s)
    printed = ended.output.decode("utf-8", "replace")
    return ended.how == "exit" and ended.code == 0 and _lines(printed) == _lines(test.expected)


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
    if uncalled := next(_uncalled(tree), None):
        raise ValueError(f"nothing calls {uncalled}")
    if not tests and not any(isinstance(each, _DEEDS) for each in _executed(tree)):
        raise ValueError(
            "the code asserts nothing and calls nothing"
            + (
                ", and there is no column 'entry_point' to call check() with"
                * ("check" in functions)
            )
        )
    return Script(source=source, modules=tuple(dict.fromkeys(_imported(tree))))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what runs with it: neither what functions and classes hold nor what is for a
    main program."""
    yield node
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "__name__" in _names_in(node.test):
        children = node.orelse
    for child in children:
        yield from _executed(child)


def _uncalled(tree: ast.Module) -> Iterator[str]:
    """Yield what looks like tests and is not run, so that every program would pass it."""
    used = _names_in(tree)
    for node in _executed(tree):
        if isinstance(node, ast.ClassDef) and _holds_tests(node):
            of_unittest = any(ast.unparse(base).endswith("TestCase") for base in node.bases)
            if of_unittest or node.name not in used:
                yield f"the tests in class {node.name}"
        elif (
            isinstance(node, ast.AsyncFunctionDef)
            and node.name.startswith("test")
            and node.name not in used
        ):
            yield f"{node.name}(), which is async"


def _holds_tests(node: ast.ClassDef) -> bool:
    return any(isinstance(each, _FUNCTIONS) and each.name.startswith("test") for each in node.body)


def _names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _lines(text: str) -> list[str]:
    """Return the lines that are compared: without what is blank at their ends, and at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]
