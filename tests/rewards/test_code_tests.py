"""What passes the tests of a problem, what does not, and limits that are refused."""

import os
import shutil
import subprocess
import sys

import psutil
import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError, DataError
from rl_llm.plugins import resolve
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import Example, Failure, build_rubric, common_columns, run_example
from rl_llm.scoring.sandbox import MARGIN_S

PLUGIN = resolve("code_tests", kind="rewards")
PAIRS = '{"inputs": ["1 2"], "outputs": ["3"]}'


def score(program, answer, **given):
    inputs = {"completion": f"```python\n{program}\n```", "answer": answer, **given}
    return run_example(PLUGIN, Example(inputs=inputs, expected=None))


@pytest.mark.parametrize(
    ("program", "answer", "expected"),
    [
        ("print(3)", '{"inputs": [""], "outputs": ["3"]}', 1.0),
        ("print('3 \\t\\r\\n4\\n\\n')", '{"inputs": [""], "outputs": ["3\\n4"]}', 1.0),
        ("print(' 3')", '{"inputs": [""], "outputs": ["3"]}', 0.0),
        ("print('3\\n\\n4')", '{"inputs": [""], "outputs": ["3\\n4"]}', 0.0),
        ("print('3.0')", '{"inputs": [""], "outputs": ["3"]}', 0.0),
        ("print(3); raise ValueError", '{"inputs": [""], "outputs": ["3"]}', 0.0),
        ("print(3); exit()", '{"inputs": [""], "outputs": ["3"]}', 1.0),
        ("print(input() + input())", '{"inputs": [["a", "b"]], "outputs": [["ab"]]}', 1.0),
        ("import os; os.write(1, b'3\\xff')", '{"inputs": [""], "outputs": ["3"]}', 0.0),
        ("print('ü')", '{"inputs": [""], "outputs": ["\\u00fc"]}', 1.0),
        ("if __name__ == '__main__': print(3)", '{"inputs": [""], "outputs": ["3"]}', 1.0),
        ("def f(x): return x", '["assert f(1) == 1", "assert f(2) == 2"]', 1.0),
        ("def f(x): return 1", '["assert f(1) == 1", "assert f(2) == 2"]', 0.0),
        ("def f(x): return x\nif __name__ == '__main__': f(input())", "assert f(1) == 1", 1.0),
        ("def f(x): return x", "import math\nassert math.isclose(f(.1 + .2), .3)", 1.0),
        ("def f(x): return x", "from solution import f as g\ndef test_g(): assert g(1) == 1", 1.0),
        ("def f(x): return x", "def test_a():\n    assert f(1) == 1\ndef test_b(): assert 0", 0.0),
        (
            "def f(x): raise KeyError",
            "try: f(1)\nexcept KeyError: pass\nelse: raise ValueError",
            1.0,
        ),
        ("def f(x): return x", "f(1", DataError),
    ],
)
def test_tests_pass_and_fail_as_written(isolated, program, answer, expected):
    if expected is DataError:
        assert "DataError" in score(program, answer).message
    else:
        assert score(program, answer) == expected


def test_the_check_of_a_test_is_called_with_the_column_entry_point(isolated):
    answer = "METADATA = {}\n\ndef check(candidate):\n    assert candidate([1]) == 1\n"
    method = "class Solution:\n    def f(self, x): return x[0]"
    assert score("def f(x): return x[0]", answer, entry_point="f") == 1.0
    assert score("def f(x): return x", answer, entry_point="f") == 0.0
    assert score(method, answer, entry_point="Solution().f") == 1.0


def test_partial_gives_the_share_that_passes_in_the_time_of_all(isolated):
    answer = '{"inputs": ["0", "30", "0", "30"], "outputs": ["", "", "", ""]}'
    sleeps = "import time; time.sleep(float(input()))"
    assert score(sleeps, answer, partial=True, limit_s=1.0) == 0.5
    assert score(sleeps, answer, partial=True, limit_s=1.0, total_s=1.0) == 0.25
    assert score(sleeps, answer, limit_s=1.0) == 0.0


# A program's own classes, and those of libraries that a program may return.
HONEST = {
    "a class that is equal to its like": (
        "class P:\n    def __init__(self, x): self.x = x\n"
        "    def __eq__(self, other): return self.x == other.x\n"
        "def f(x): return P(x)",
        "assert f(1) == P(1) and f(1) != P(2) and [f(1)] == [P(1)] and f(1) in [P(1)]",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
        "assert f() == (1, 2)",
    ),
    "an enumeration": (
        "import enum\nclass E(enum.IntEnum):\n    A = 3\ndef f(): return E.A",
        "assert f() == 3 and f() is E.A and f() in (1, 3)",
    ),
    "classes of libraries": (
        "from fractions import Fraction\nfrom collections import Counter, OrderedDict\n"
        "from datetime import date\nfrom decimal import Decimal\n"
        "def f():\n"
        "    return Fraction(1, 2), Counter('a'), OrderedDict(a=1), date(1, 1, 1), Decimal(2)",
        "a, b, c, d, e = f()\n"
        "assert a == 0.5 and b == {'a': 1} and c == {'a': 1} and d.year == 1 and 1 < e < 3",
    ),
    "numpy": (
        "import numpy\ndef f(): return numpy.arange(3)",
        "import numpy\nnumpy.testing.assert_array_equal(f(), [0, 1, 2])\nassert (f() == f()).all()",
    ),
    "an array of anything": (
        "import numpy\ndef f(): return numpy.array([10**30, 'a', None, [1]], dtype=object)",
        "assert f().tolist() == [10**30, 'a', None, [1]]\n"
        "assert (f() == f()).all() and f()[0] == 10**30",
    ),
    "views and iterators": (
        "def f(): return {1: 2}",
        "assert f().keys() == {1} and f().items() == {(1, 2)} and [*f().values()] == [2]\n"
        "assert range(3) == range(0, 3, 1) and (1).__add__ == (1).__add__",
    ),
    "a class that is compared with nothing": (
        "class P:\n    def __eq__(self, other): return False\ndef f(): return P()",
        "assert f() is not None and not f() == None and isinstance(f(), P)",
    ),
    "a class of a class that compares": (
        "class M(type):\n    def __eq__(self, other): return self is other\n"
        "class P(metaclass=M): pass\ndef f(): return [P()]",
        "x = f()\nassert x == x",
    ),
    "a container of its own": (
        "class Trie:\n    def __contains__(self, x): return x == 3\n"
        "    def __eq__(self, other): return True",
        "assert 3 in Trie() and 4 not in Trie()",
    ),
    "a function named as one of Python's": ("def sum(a, b): return a * b", "assert sum(2, 3) == 6"),
    "one of Python's that it uses for itself": (
        "def max(x): return x[0]\ndef f(x): return max(x)",
        "assert f([1, 2]) == 1 and max(1, 2) == 2",
    ),
    "a list that it changes": ("def f(x): x.sort()", "x = [2, 1]\nf(x)\nassert x == [1, 2]"),
    "output of its own": (
        "import sys, io\nsys.stdout = io.StringIO()\ndef f(): print('x' * 10**7); return 1",
        "assert f() == 1",
    ),
    "a test that says what is equal": (
        "def f(): return 3",
        "class Any:\n    def __eq__(self, other): return True\nassert f() == Any()",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(isolated, name):
    assert score(*HONEST[name]) == 1.0


ALWAYS = "class A(int):\n    def __eq__(self, other): return True\n    __lt__ = __ge__ = __eq__\n"
ALWAYS += "    def __hash__(self): return hash(3)\n"
TEST = "assert f(1) == 3"
TRICKS = {
    "exits": ("import os; os._exit(0)", TEST),
    "leaves": ("import sys; sys.exit(0)", TEST),
    "exits in the test": ("import os\ndef f(x): os._exit(0)", TEST),
    "leaves in the test": ("def f(x): raise SystemExit(0)", TEST),
    "leaves by a subclass": ("class E(BaseException): pass\ndef f(x): raise E", TEST),
    "exits a little later": (
        "import os, threading, time\nthreading.Timer(.1, os._exit, [0]).start()\n"
        "def f(x): time.sleep(9)",
        TEST,
    ),
    "exits when it fails": (
        "import atexit, os, sys\nsys.excepthook = lambda *a: os._exit(0)\n"
        "atexit.register(os._exit, 0)\ndef f(x): return 1",
        TEST,
    ),
    "prints what looks like success": (
        "print('ok', 'passed', '?', True)\ndef f(x): return 1",
        TEST,
    ),
    "writes everywhere": (
        "import os\nfor n in range(1, 64):\n    try: os.write(n, b'?' + b'0' * 32)\n"
        "    except OSError: pass\ndef f(x): return 3",
        TEST,
    ),
    "reads what there is to read": (
        "import os\nfor n in range(3, 64):\n    try: os.read(n, 9999)\n    except OSError: pass\n"
        "def f(x): return 3",
        TEST,
    ),
    "looks for the tests before they are there": (
        "import gc, sys\nframe, seen = sys._getframe(), ''\nwhile frame:\n"
        "    for value in [*frame.f_locals.values()]:\n"
        "        seen += str(getattr(getattr(value, 'gi_frame', value), 'f_locals', value))\n"
        "    frame = frame.f_back\ngc.unfreeze()\n"
        "seen += str([each for each in gc.get_objects() if type(each) in (dict, list, tuple)])\n"
        "def f(x): return 3 if '(1)'.join(['rt f', ' ==']) in seen else 1",
        TEST,
    ),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)\ndef f(x): return 1", TEST),
    "is equal to everything": (ALWAYS + "def f(x): return A()", TEST),
    "is equal to everything on the right": (ALWAYS + "def f(x): return A()", "assert 3 == f(1)"),
    "holds what is equal": (ALWAYS + "def f(x): return {'a': [A()]}", "assert f(1) == {'a': [3]}"),
    "is in a queue": (
        ALWAYS + "from collections import deque\ndef f(x): return deque([A()])",
        "from collections import deque\nassert f(1) == deque([3])",
    ),
    "is a key": (ALWAYS + "def f(x): return {A(): 1}.keys()", "assert f(1) == {3}"),
    "takes what is equal from a library": (
        "from unittest.mock import ANY\ndef f(x): return ANY",
        TEST,
    ),
    "stands for what is equal": (
        ALWAYS + "import weakref\nkept = A()\ndef f(x): return weakref.proxy(kept)",
        TEST,
    ),
    "shows what is equal": (
        "import types\nclass A(dict):\n    def __eq__(self, other): return True\n"
        "def f(x): return types.MappingProxyType(A())",
        TEST,
    ),
    "is in an array": (
        ALWAYS + "import numpy\ndef f(x): return numpy.array([A()], dtype=object)",
        TEST,
    ),
    "is all of an array of its own": (
        ALWAYS + "import numpy\nclass B(numpy.ndarray):\n    def tolist(self): return []\n"
        "def f(x): return numpy.array(A(), dtype=object).view(B)",
        TEST,
    ),
    "is in everything": (ALWAYS + "def f(x): return A()", "assert f(1) in [3, 4]"),
    "is a set of what is equal": (ALWAYS + "def f(x): return {A()}", "assert f(1) == {3}"),
    "lies between": (ALWAYS + "def f(x): return A()", "assert 2 < f(1) < 4"),
    "is equal in a call": (
        ALWAYS + "def f(x): return A()",
        "import unittest\nunittest.TestCase().assertEqual(f(1), 3)",
    ),
    "calls its class a builtin": (
        ALWAYS + "A.__module__, A.__qualname__ = 'builtins', 'int'\ndef f(x): return A()",
        TEST,
    ),
    "makes its class by type()": (
        "def f(x): return type('int', (), {'__eq__': lambda *a: True, '__module__': 'builtins'})()",
        TEST,
    ),
    "replaces a builtin": (
        "import builtins\nbuiltins.set = lambda *a: 0\ndef f(x): return []",
        "assert set(f(1)) == set([3])",
    ),
    "replaces a builtin in the test": (
        "def f(x):\n    import builtins\n    builtins.set = lambda *a: 0\n    return []",
        "assert set(f(1)) == set([3])",
    ),
    "has a function of a builtin's name": (
        "def set(*a): return 0\ndef f(x): return []",
        "assert set(f(1)) == set([3])",
    ),
    "replaces a function of a module": (
        "import math\nmath.isclose = lambda *a: True\ndef f(x): return 1",
        "import math\nassert math.isclose(f(1), 3)",
    ),
    "replaces a method of a class": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 1",
        "import unittest\nunittest.TestCase().assertEqual(f(1), 3)",
    ),
    "replaces what runs tests": (
        "import ast, builtins, json, os\nbuiltins.exec = builtins.compile = lambda *a, **k: None\n"
        "json.loads = lambda text: ['', '']\nast.parse = lambda text: ast.Module([], [])\n"
        "ast.NodeTransformer.visit = lambda self, tree: ast.Module([], [])\n"
        "os.write = lambda *a: None\ndef f(x): return 1",
        TEST,
    ),
    "replaces a module": (
        "import sys, types\nsys.modules['math'] = types.SimpleNamespace(isclose=lambda *a: True)\n"
        "def f(x): return 1",
        "import math\nassert math.isclose(f(1), 3)",
    ),
    "traces the test": (
        "import sys\ndef skip(frame, event, arg):\n    if event == 'line': frame.f_lineno += 1\n"
        "    return skip\nsys.settrace(skip)\ndef f(x): return 1",
        TEST + "\nx = 1\n",
    ),
    "prints the tests": ("import sys\nprint(sys.argv, sys.stdin.read())", PAIRS),
    "prints nothing and exits well": ("import os; os._exit(0)", PAIRS),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_does_not_pass(isolated, name):
    assert score(*TRICKS[name], limit_s=1.0) == 0.0


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"timeout_s": 20.0}, f"do not fit into timeout_s=20, .* set timeout_s: {20 + MARGIN_S:g}"),
        ({"total_s": 60.0}, f"do not fit into timeout_s=30, .* set timeout_s: {60 + MARGIN_S:g}"),
        ({"limit_s": 21.0}, "limit_s=21 of one test must lie above 0 and not above total_s=20"),
        ({"limit_s": 0.0}, "limit_s=0 of one test must lie above 0"),
        ({"memory_mib": 8}, "memory_mib=8 is less than Python takes; use 64"),
    ],
)
def test_limits_that_do_not_fit_are_refused_before_the_run(settings, fault):
    with pytest.raises(ConfigError, match=f"rewards.0: .*{fault}"):
        build_rubric([RewardUse(use="code_tests", **settings)], columns=())


def test_a_sandbox_that_fails_is_a_failed_reward_and_no_zero(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    outcome = score("print(3)", PAIRS)
    assert outcome == Failure("SandboxError: the sandbox ended", kind="raised")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
@pytest.mark.parametrize("allowed", [False, True])
def test_a_kernel_that_permits_no_isolation_is_an_error_unless_the_recipe_allows_it(
    isolated, allowed
):
    """The kernel is a real one, in a namespace that may hold no others."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" "$@"'
    command = [sys.executable, "-m", "rl_llm", "rewards", "check", "code_tests"]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, *command]
        + ["allow_unisolated=true"] * allowed,
        capture_output=True,
        text=True,
        check=False,
    )
    if allowed:
        assert (done.returncode, done.stderr) == (0, "")
        assert "examples: 10 of 10 as expected" in done.stdout
    else:
        assert done.returncode == 2
        assert done.stderr.startswith(
            "error: code_tests: programs cannot be isolated here: unshare: No space left on device"
        )
        assert "set allow_unisolated: true" in done.stderr


def daemon(mark):
    return (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.setsid()\n        os.execv('/bin/sleep', ['sleep', '{mark}'])\n"
        "    os._exit(0)\nos.wait()"
    )


@pytest.mark.slow
def test_in_a_group_hostile_programs_are_wrong_and_right_ones_beside_them_right(isolated):
    mark = f"600.{os.getpid()}"
    right = "print(sum(map(int, input().split())))"
    programs = [
        *(right, "while True: pass", right, "import os\nwhile True: os.fork()"),
        *("import os; os._exit(0)", "kept = []\nwhile True: kept.append(bytearray(1 << 24))"),
        *("import ctypes; ctypes.string_at(0)", "while True: print('x' * 10**6)", daemon(mark)),
        *("import os, signal; os.killpg(0, 9)", "print(4)", right),
    ]
    group = Group(
        problem=Problem(key="k", prompt="Add them.", answer=PAIRS),
        prompt_ids=(1,),
        completions=tuple(
            Completion(
                token_ids=(1,),
                logprobs=(0.0,),
                text=f"```python\n{program}\n```",
                finish_reason="stop",
                policy_version=0,
            )
            for program in programs
        ),
    )
    use = RewardUse(use="code_tests", limit_s=1.0)
    rubric = build_rubric(
        [use], columns=common_columns([group.problem]), problems=[group.problem], num_workers=2
    )
    try:
        ((scored),) = rubric.score([group])
    finally:
        rubric.close()
    assert [each.total for each in scored.scores] == [float(each == right) for each in programs]
    assert [each.correct for each in scored.scores] == [each == right for each in programs]
    assert [each.error for each in scored.scores] == [None] * len(programs)
    assert [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])] == []
