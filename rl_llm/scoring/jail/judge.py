"""What runs a program, and tests in Python behind it.

Tests run in the program's own interpreter, where nothing can be kept from a program that looks for
it. So this makes sure of less: what ends early has not passed, and neither have tests whose
builtins, modules or comparisons the program has replaced.
"""

import ast
import builtins
import importlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType, ModuleType
from typing import Any
from weakref import CallableProxyType, ProxyType

_PROGRAM, _TESTS = "solution", "tests"
_CHECK = "__rl_llm_check__"
_COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
_CAN_BE_CHANGED = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that Python code has made, or could have.
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, dict, deque, *_VIEWS)
_STAND_INS = (ProxyType, CallableProxyType, MappingProxyType)
"""Classes of C that compare as what they stand for does."""
_EQUAL_TO_ALL = "unittest.mock"
_COMPARES = ("equal", "greater", "less", "close", "count")
"""What stands in the names of functions that compare, as `assertEqual` and `assert_allclose`."""


def run_program(source: str, name: str) -> ModuleType:
    """Run a program as the module `name`; raises whatever it raises."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "program.py", "exec", dont_inherit=True, optimize=0), vars(module))
    return module


def run_tests(source: str, modules: Iterable[str], *, ask: int, answer: int) -> int:
    """Run a program, then ask for its tests over a pipe and run them; behind the last of them, pass
    on the token that came along.

    `modules` are those that the tests import. What a program changes in modules that are there
    before it is undone.
    """
    for name in modules:
        with suppress(BaseException):  # The tests say so where they need it.
            importlib.import_module(name)
    there = {name: each for name, each in sys.modules.items() if isinstance(each, ModuleType)}
    held = [pair for each in (builtins, *there.values()) for pair in _held_by(each)]
    judge, restore = _Judge(), _restore
    program = run_program(source, _PROGRAM)
    restore(held)
    sys.modules.update(there)
    sys.settrace(None)
    sys.setprofile(None)
    os.write(answer, b"?")
    with os.fdopen(ask, encoding="ascii") as questions:
        tests, token = json.loads(questions.readline())
    judge.run(tests, program)
    os.write(answer, token.encode("ascii"))
    os._exit(0)


def _held_by(module: ModuleType) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield a module, and each of its classes that can be changed, with what they hold."""
    yield module, dict(vars(module))
    for value in vars(module).values():
        if isinstance(value, type) and value.__flags__ & _CAN_BE_CHANGED:
            yield value, dict(vars(value))


def _restore(held: Iterable[tuple[Any, Mapping[str, Any]]]) -> None:
    for owner, values in held:
        now = dict(vars(owner))
        changed = [name for name, value in values.items() if now.get(name) is not value]
        added = [name for name in now if name not in values] if isinstance(owner, type) else []
        for name in (*added, *changed):
            with suppress(AttributeError, TypeError):  # What cannot be set is not a program's.
                if name in values:
                    setattr(owner, name, values[name])
                else:
                    delattr(owner, name)


class _Judge:
    """Runs tests with what it took hold of before the program ran."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._parse, self._locate = ast.parse, ast.fix_missing_locations
        self._compile, self._exec = compile, exec
        self._module_of = type.__dict__["__module__"].__get__
        self._name_of = type.__dict__["__qualname__"].__get__
        self._bases_of = type.__dict__["__mro__"].__get__
        self._flags_of = type.__dict__["__flags__"].__get__
        self._dict_of = type.__dict__["__dict__"].__get__

    def run(self, source: str, program: ModuleType) -> None:
        """Run tests in a module that has the program's names, and then the functions `test...` in
        it; raises what they raise."""
        tree = self._parse(source)
        module = sys.modules[_TESTS] = ModuleType(_TESTS)
        names = vars(module)
        names.update(self._seen_by(tree, vars(program)))
        names.update({"__name__": _TESTS, "__builtins__": self._builtins, _CHECK: self._check})
        functions = [
            each.name
            for each in tree.body
            if isinstance(each, ast.FunctionDef) and each.name.startswith("test")
        ]
        checked = self._locate(_Comparisons().visit(tree))
        self._exec(self._compile(checked, "tests.py", "exec", dont_inherit=True, optimize=0), names)
        for name in functions:
            names[name]()

    def _seen_by(self, tree: ast.Module, program: Mapping[str, Any]) -> dict[str, Any]:
        """Return the program's names; one of Python's own only where tests use no other, so that a
        `len` of the program's is either what they test, or not what they call."""
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        uses_others = bool(used & (program.keys() - self._builtins.keys()))
        hidden = self._builtins if uses_others else {}
        return {name: value for name, value in program.items() if name not in hidden}

    def _check(self, *values: Any, is_in: bool = False) -> tuple[Any, ...]:
        """Return the values that are to be compared.

        Raises `AssertionError` where some, and not all, hold something of a class of the program's
        that says for itself what it is equal to; a container (`is_in`) may be such.
        """
        own = [self._is_its_own(value) for value in values if value is not None]
        if any(own[:1] if is_in else own) and not all(own):
            raise AssertionError("a class of the program's decides how it compares")
        return values

    def _is_its_own(self, value: Any) -> bool:
        waiting, seen = [[value]], {0}
        while waiting:
            items = waiting.pop()
            kinds = {id(kind): kind for kind in map(type, items)}.values()
            if any(self._compares_itself(kind) for kind in kinds):
                return True
            arrays = {id(kind): self._array_behind(kind) for kind in kinds}
            if not any(issubclass(kind, _CONTAINERS) or arrays[id(kind)] for kind in kinds):
                continue
            for each in items:
                array = arrays[id(type(each))]
                if (array or isinstance(each, _CONTAINERS)) and id(each) not in seen:
                    seen.add(id(each))
                    waiting.append(_inside_array(array, each) if array else _inside(each))
        return False

    def _array_behind(self, kind: type) -> Any:
        """Return numpy's class of arrays where a class is that or is made from it, else None."""
        for base in self._bases_of(kind):
            if not self._flags_of(base) & _CAN_BE_CHANGED and self._name_of(base) == "ndarray":
                return base
        return None

    def _compares_itself(self, kind: type) -> bool:
        if any(kind is each for each in _STAND_INS):
            return True
        for name in _COMPARISONS:
            owners = (base for base in self._bases_of(kind) if name in self._dict_of(base))
            if not self._is_known(next(owners, object)):
                return True
        return False

    def _is_known(self, kind: type) -> bool:
        """Whether a class is of C, or stands where it says: in a module that is neither the
        program's nor made to deceive."""
        if not self._flags_of(kind) & _CAN_BE_CHANGED:
            return True
        module = self._module_of(kind)
        found: Any = None if module in (_PROGRAM, _EQUAL_TO_ALL) else sys.modules.get(module)
        for part in self._name_of(kind).split("."):
            found = getattr(found, part, None)
        return found is kind


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    kind = next(kind for kind in _CONTAINERS if isinstance(value, kind))
    return list(kind.__iter__(value))


def _inside_array(array: Any, value: Any) -> list[Any]:
    """Return what an array holds where that may be of any class; it compares item by item."""
    return [array.tolist(value)] if array.dtype.__get__(value).hasobject else []


class _Comparisons(ast.NodeTransformer):
    """Has what is compared checked before, in `a == b` and in calls such as `assertEqual(a, b)`."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Check both sides, but not where `is` compares, which asks no class."""
        self.generic_visit(node)
        if any(isinstance(each, ast.Is | ast.IsNot) for each in node.ops):
            return node
        values = [node.left, *node.comparators]
        names = [f"value{place}" for place in range(len(values))]
        loads: list[ast.expr] = [ast.Name(id=name, ctx=ast.Load()) for name in names]
        compare = ast.Lambda(
            args=ast.arguments(
                posonlyargs=[],
                args=[ast.arg(arg=name) for name in names],
                kwonlyargs=[],
                kw_defaults=[],
                defaults=[],
            ),
            body=ast.Compare(left=loads[0], ops=node.ops, comparators=loads[1:]),
        )
        is_in = isinstance(node.ops[0], ast.In | ast.NotIn)
        return ast.Call(func=compare, args=[_checked(values, is_in=is_in)], keywords=[])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Check the two values that a function compares."""
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", "")).lower()
        if name.startswith("assert") and any(part in name for part in _COMPARES):
            node.args[:2] = [_checked(node.args[:2])]
        return node


def _checked(values: list[ast.expr], *, is_in: bool = False) -> ast.expr:
    flag = ast.keyword(arg="is_in", value=ast.Constant(is_in))
    function = ast.Name(id=_CHECK, ctx=ast.Load())
    return ast.Starred(ast.Call(func=function, args=values, keywords=[flag]), ctx=ast.Load())
