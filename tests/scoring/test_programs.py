"""Which program a completion gives, and which tests a problem has."""

import pytest

from rl_llm.errors import DataError
from rl_llm.records import Problem
from rl_llm.scoring.programs import Pair, find_program, read_tests


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("no block", None),
        ("```python\nprint(1)\n```", "print(1)"),
        ("```python\na\n```\nor\n```python\nb\n```\nwhich prints\n```\n7\n```", "b"),
        ("```\na\n```\nand then\n~~~~ js\nb\n~~~\n~~~~", "b\n~~~"),
        ("```py\na\n```\n```Python3 title=x\nb\n```", "b"),
        ("1. so:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("```python\na\n```\n```python\nand then my tokens ra", "a"),
        ("```python\r\na\r\n```\r\n", "a\r"),
        ("````python\n'''\n```\n'''\n````", "'''\n```\n'''"),
        ("```print(1)```", None),
        ("```python\n```", None),
        ("```python\n \n```\n```\na\n```", None),
    ],
)
def test_the_program_is_the_last_closed_block_of_python_else_the_last_closed_block(
    completion, program
):
    assert find_program(completion, fenced=True) == program


def test_without_a_block_a_completion_is_a_program_where_the_recipe_says_so():
    assert find_program("print(1)", fenced=False) == "print(1)"
    assert find_program("So:\n```\nprint(2)\n```", fenced=False) == "print(2)"
    assert find_program(" \n", fenced=False) is None


def test_inputs_and_outputs_are_texts_or_lists_of_lines():
    answer = '{"inputs": ["1 2", ["3", "4"]], "outputs": ["3", ["7", ""]], "fn_name": null}'
    assert read_tests(answer, Problem(key="k", prompt="Add.", answer=answer)) == [
        Pair(stdin="1 2", expected="3"),
        Pair(stdin="3\n4", expected="7\n"),
    ]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ('{"inputs": ["1"]}', "an object has the lists 'inputs' and 'outputs'"),
        ('{"inputs": ["1"], "outputs": []}', "there are 1 inputs and 0 outputs"),
        ('{"inputs": [], "outputs": []}', "there are 0 inputs and 0 outputs"),
        ('{"inputs": ["1"], "outputs": [3]}', "outputs[0] is 3 and no text"),
        ('{"inputs": [[1]], "outputs": [[3]], "fn_name": "f"}', "are to be written as assertions"),
        ('{"inputs": ', "Expecting value"),
        ("[]", "a list of tests holds texts, at least one"),
        ('["assert f(1) == 1", 3]', "a list of tests holds texts, at least one"),
        ('["assert f(1) ="]', "invalid syntax"),
        ("", "the code asserts nothing and calls nothing"),
        ("42", "the code asserts nothing and calls nothing"),
        ("def check(c):\n    assert c(1)", "and there is no column 'entry_point' to call check()"),
        ("def test_f(x):\n    assert f(x)", "test_f() takes arguments or is decorated"),
    ],
)
def test_what_is_no_tests_is_refused_with_the_problem(answer, fault):
    problem = Problem(key="k7", prompt="Add.", answer=answer, source="mine")
    with pytest.raises(DataError, match=r"^the answer .* is no tests: ") as said:
        read_tests(answer, problem)
    assert fault in str(said.value)
    assert f"{answer!r} of problem 'Add.' (key k7, source 'mine')" in str(said.value)
    assert '{"inputs": [...], "outputs": [...]}, a list of assertions, or Python' in str(said.value)


@pytest.mark.parametrize(
    "answer",
    [
        "class Cases:\n    def test(self):\n        assert f(1)\nCases().test()",
        "if __name__ != '__main__':\n    pass\nelse:\n    assert f(1)",
        "async def test_f():\n    assert f(1)\n\nasyncio.run(test_f())",
        "for x in (1, 2):\n    assert f(x)",
        "class Node:\n    value = 1\nassert f(Node())",
        "def check(c):\n    assert c(1)\n\ncheck(f)",
        "def test_f():\n    assert f(1)\n\nif __name__ == '__main__':\n    test_f()",
    ],
)
def test_code_that_calls_or_asserts_something_is_a_test(answer):
    (script,) = read_tests(answer, Problem(key="k", prompt="Add.", answer=answer))
    assert script.source == answer


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("async def test_f():\n    assert f(1)\nf(1)", "nothing calls test_f(), which is async"),
        (
            "class TestF(unittest.TestCase):\n    def test_f(self):\n        assert f(1)\n"
            "if __name__ == '__main__':\n    unittest.main()",
            "nothing calls the tests in class TestF",
        ),
        (
            "class TestF(TestCase):\n    def test_f(self):\n        assert f(1)\nrun(TestF)",
            "nothing calls the tests in class TestF",
        ),
        (
            "class TestF:\n    def test_f(self):\n        assert f(1)\nx = list()",
            "nothing calls the tests in class TestF",
        ),
        (
            "def check(c):\n    assert c(1)\nif __name__ == '__main__':\n    check(f)",
            "the code asserts nothing and calls nothing",
        ),
        ("if f:\n    def g():\n        assert f(1)", "the code asserts nothing and calls nothing"),
        ("g = lambda: f(1)", "the code asserts nothing and calls nothing"),
    ],
)
def test_tests_that_nothing_would_call_are_refused(answer, fault):
    with pytest.raises(DataError, match=r"is no tests: ") as said:
        read_tests(answer, Problem(key="k7", prompt="Add.", answer=answer))
    assert f"is no tests: {fault}" in str(said.value)
