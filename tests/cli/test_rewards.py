"""`rl-llm rewards check` and `score`, with real workers."""

import json

import pytest

from rl_llm.cli.main import main
from rl_llm.plugins import shipped_folder
from rl_llm.scoring.trials import ODD_COMPLETIONS

HONEST = """
EXAMPLES = [("7", "7", 1.0), ("8", "7", 0.0)]

def r(completion, answer, *, gain: float = 1.0):
    return gain * (completion == answer)
"""


@pytest.fixture
def check(tmp_path, capsys):
    """Write a reward, check it, and return the exit code and what was printed and said."""

    def run(source, *overrides):
        file = tmp_path / "r.py"
        file.write_text(source, encoding="utf-8")
        code = main(["rewards", "check", f"{file}:r", *overrides])
        return code, *capsys.readouterr()

    return run


SHIPPED = {file.stem for file in shipped_folder("rewards").glob("[!_]*.py")}


# The other two need a server and a model, and are checked in their own tests.
@pytest.mark.parametrize("name", sorted(SHIPPED - {"remote", "reward_model"}))
def test_every_shipped_reward_passes_its_check(name, capsys, request):
    if name == "code_tests":
        request.getfixturevalue("isolated")
    assert main(["rewards", "check", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"odd completions: {len(ODD_COMPLETIONS)} of {len(ODD_COMPLETIONS)} scored" in lines
    assert "no fault was found" in lines


def test_an_honest_reward_passes(check):
    code, printed, _ = check(HONEST)
    assert code == 0
    assert "examples: 2 of 2 as expected\n" in printed
    assert f"the same when asked again: {2 + len(ODD_COMPLETIONS)} of" in printed
    assert "no fault was found\n" in printed


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('("8", "7", 0.0)', '("8", "7", 1.0)'), "EXAMPLES[1] gives 0.0 where 1.0 is expected"),
        (("EXAMPLES", "OTHERS"), "there are no EXAMPLES; write some beside the function"),
        (
            ("    return", "    assert completion\n    return"),
            "empty: raised: AssertionError, in r.py line 5, r",
        ),
        (
            (
                "    return",
                "    if len(completion) == 10**6: import time; time.sleep(9)\n    return",
            ),
            "a million digits: timeout: took longer than timeout_s=0.5, in r.py line 5, r",
        ),
        (
            ("    return", "    if '_exit' in completion: eval(completion)\n    return"),
            "code that exits: killed: ended its process with exit code 1",
        ),
        (
            ("    return", "    import time\n    return time.perf_counter() +"),
            ", and asked again ",
        ),
    ],
)
def test_a_check_finds(check, change, fault):
    code, printed, _ = check(HONEST.replace(*change), "timeout_s=0.5")
    assert code == 1
    assert [line for line in printed.splitlines() if line.startswith("fault: ") and fault in line]


def test_calls_that_fail_alike_are_one_fault(check):
    num_odd = len(ODD_COMPLETIONS)
    code, printed, _ = check(HONEST.replace("return gain * (completion == answer)", "return 'x'"))
    assert code == 1
    assert [line for line in printed.splitlines() if line.startswith("fault: ")] == [
        f"fault: EXAMPLES[0], EXAMPLES[1], empty and {num_odd - 1} more: wrong_value: TypeError: "
        "gave 'x', which is not a number"
    ]


def test_what_a_terminal_would_obey_is_written_as_escapes(check):
    raises = HONEST.replace("    return", "    raise ValueError('\\x1b[31mred\\nmore')\n    return")
    _, printed, _ = check(raises)
    (fault,) = [line for line in printed.splitlines() if line.startswith("fault: ")]
    assert r"raised: ValueError: \x1b[31mred\nmore, in r.py line 5, r" in fault


def test_what_always_hangs_is_not_waited_for_to_the_end(check):
    hangs = HONEST.replace("    return", "    import time; time.sleep(99)\n    return")
    code, printed, _ = check(hangs, "timeout_s=0.3")
    assert code == 1
    assert "examples: 0 of 2 as expected\nodd completions: 0 of 1 scored\n" in printed
    assert "fault: EXAMPLES[0], EXAMPLES[1], empty: timeout: took longer than" in printed
    num_left = len(ODD_COMPLETIONS) - 1
    assert f"fault: {num_left} more were not tried, as 3 took too long\n" in printed


BEFORE = """
from rl_llm.errors import DataError

def before_run(timeout_s, options):
    if options["gain"] > timeout_s:
        raise ValueError(f"gain={options['gain']} is more than timeout_s={timeout_s}")
    if options["gain"] == 13:
        raise DataError("13 is no gain")
    if options["gain"] < 0:
        raise KeyError("gain")
"""


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("gain=31", "r.py:r: gain=31.0 is more than timeout_s=30.0\n"),
        ("gain=13", "r.py:r: 13 is no gain\n"),
        ("gain=-1", "r.py fails: KeyError: 'gain'\n"),
    ],
)
def test_what_a_reward_refuses_before_the_run_is_an_error(check, override, fault):
    code, printed, said = check(BEFORE + HONEST, override)
    assert (code, printed) == (2, "")
    assert said.startswith("error: ") and said.endswith(fault)


def test_a_check_finds_a_slow_reward_that_says_inline(check):
    slow = HONEST.replace(
        "    return", "    import time; time.sleep(1.1 * (not completion))\n    return"
    )
    code, printed, _ = check("INLINE = True\n" + slow)
    assert code == 1
    assert "fault: its file says INLINE = True, and a call took 1.1" in printed


@pytest.mark.parametrize(
    ("source", "overrides", "said"),
    [
        (HONEST, ["gain=x"], "error: r.gain='x': input should be a valid number"),
        (HONEST, ["gian=1"], "gian: unknown option (did you mean 'gain'?)"),
        (HONEST, ["timeout_s=0"], "timeout_s=0: input should be greater than 0"),
        (HONEST, ["gain"], "'gain' sets nothing; write name=value"),
        ("def r(completion, unit): return 1.0", [], "asks for 'unit', which is no input and"),
        ("def r(completion, *, k: int): return 1.0", [], "k: required, and missing"),
        ("x = 1", [], "defines no callable 'r'"),
    ],
)
def test_what_cannot_be_tried_is_wrong_input(check, source, overrides, said):
    code, _, error = check(source, *overrides)
    assert code == 2
    assert error.startswith("error: ") and said in error


def test_an_option_of_the_command_line_is_used_where_an_example_has_none(check):
    code, printed, _ = check(HONEST, "gain=2.0")
    assert code == 1
    assert "fault: EXAMPLES[0] gives 2.0 where 1.0 is expected" in printed


ROWS = [
    {"completion": "7", "answer": "7", "unit": "cm"},
    {"text": "8", "answer": "7", "unit": "cm"},
    {"completions": ["7", "exit", "bad"], "answer": "7", "unit": "m"},
]
SCORES = """
import os

def r(completion, answer, unit):
    if completion == "exit":
        os._exit(1)
    if completion == "bad":
        raise ValueError("odd")
    return float(completion == answer and unit in ("cm", "m"))
"""


@pytest.fixture
def score(tmp_path, capsys):
    def run(source, rows, *arguments):
        (tmp_path / "r.py").write_text(source, encoding="utf-8")
        data = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        code = main(["rewards", "score", f"{tmp_path / 'r.py'}:r", str(data), *arguments])
        return code, *capsys.readouterr()

    return run


def test_score_adds_the_score_or_the_failure_to_every_line_in_order(score):
    code, printed, said = score(SCORES, ROWS)
    assert code == 1
    found = [json.loads(line) for line in printed.splitlines()]
    assert [row["score"] for row in found] == [1.0, 0.0, [1.0, None, None]]
    assert found[0] == {**ROWS[0], "score": 1.0}
    assert found[2]["error"] == [
        None,
        "killed: ended its process with exit code 1",
        "raised: ValueError: odd, in r.py line 8, r",
    ]
    assert said == "3 of 5 scored, mean 0.6667, 1 killed, 1 raised\n"


def test_score_writes_to_a_file_and_ends_with_0_where_all_are_scored(score, tmp_path):
    out = tmp_path / "new" / "scores.jsonl"
    code, printed, said = score(SCORES, ROWS[:2], "--out", str(out))
    assert (code, printed, said) == (0, "", "2 of 2 scored, mean 0.5\n")
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [1.0, 0.0]


def test_a_place_that_cannot_take_the_scores_is_refused_before_one_is_made(score, tmp_path):
    marks = f"def r(completion):\n    open({str(tmp_path / 'called')!r}, 'w')\n    return 1.0\n"
    code, _, said = score(marks, ROWS[:1], "--out", str(tmp_path))
    assert (code, said) == (
        2,
        f"error: --out {tmp_path} is a folder; name a file, such as {tmp_path}/scores.jsonl\n",
    )
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("source", "rows", "said"),
    [
        (SCORES, ["{"], "rows.jsonl line 1 is no JSON"),
        (SCORES, [ROWS[0], {"answer": "7"}], "rows.jsonl line 2 is no JSON object with a text"),
        (SCORES, [ROWS[0], {"completion": "7"}], "asks for 'unit', which is neither"),
        (SCORES, [], "holds no completions"),
        (
            "def r(completion, answer): return 1.0",
            [{"completion": "7"}],
            "rows.jsonl line 1 has no 'answer', and reward 'r' asks for it; add the reference",
        ),
        ("def r(token_count): return 1.0", ROWS, "line 1 has neither 'token_ids' nor"),
    ],
)
def test_completions_that_cannot_be_scored_are_wrong_input(score, source, rows, said):
    code, _, error = score(source, rows)
    assert code == 2
    assert error.startswith("error: ") and said in error


def test_an_answer_that_is_no_text_is_given_as_json(score):
    source = "def r(completion, answer):\n    return float(completion == answer)\n"
    rows = [{"completion": '["ä", 1]', "answer": ["ä", 1]}, {"completion": "7", "answer": 7}]
    code, printed, _ = score(source, rows)
    assert (code, [json.loads(line)["score"] for line in printed.splitlines()]) == (0, [1.0, 1.0])


def test_a_value_that_is_no_yaml_is_text(score):
    source = "def r(completion, *, start: str):\n    return float(completion.startswith(start))\n"
    code, printed, _ = score(source, [{"completion": "[a"}], "start=[a")
    assert (code, json.loads(printed)["score"]) == (0, 1.0)


def test_score_reads_what_a_run_keeps_of_its_completions(score):
    row = {"split": "eval", "text": "7", "answer": "7", "token_count": 3, "finish_reason": "length"}
    source = "def r(token_count, truncated, split):\n    return token_count + truncated\n"
    code, printed, _ = score(source, [row])
    assert (code, json.loads(printed)["score"]) == (0, 4.0)


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_a_line_of_the_file_ends_where_json_lines_end(score, separator):
    row = json.dumps({"completion": f"7{separator}7"}, ensure_ascii=False)
    source = "def r(completion):\n    return float(len(completion))\n"
    code, printed, _ = score(source, [row, row])
    assert code == 0
    assert [json.loads(line)["score"] for line in printed.split("\n") if line] == [3.0, 3.0]


SEVERAL = """
EXAMPLES = {
    "r": [("7", "7", 1.0), ("8", "7", 0.0)],
    "short": [({"token_count": 9, "limit": 20}, 1.0)],
}

def r(completion, answer):
    return float(completion == answer)

def short(token_count, *, limit):
    return float(token_count < limit)

def bare(completion):
    return 0.0
"""


@pytest.fixture
def check_several(tmp_path, capsys):
    def run(source, name):
        file = tmp_path / "several.py"
        file.write_text(source, encoding="utf-8")
        code = main(["rewards", "check", f"{file}:{name}"])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("name", "examples"), [("r", 2), ("short", 1)])
def test_each_reward_of_a_file_may_have_examples_of_its_own(check_several, name, examples):
    code, printed, _ = check_several(SEVERAL, name)
    assert code == 0, printed
    assert f"examples: {examples} of {examples} as expected" in printed


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (("", ""), "bare", "fault: there are no EXAMPLES of 'bare'; write some"),
        (("9,", "99,"), "short", "fault: EXAMPLES['short'][0] gives 0.0 where 1.0 is expected"),
        (('"short":', '"shrt":'), "r", "key 'shrt', and the file defines no function of that name"),
        (('"7", 1.0)', '"7")'), "r", "EXAMPLES['r'][0] is ('7', '7'); write it as"),
    ],
)
def test_examples_by_name_are_called_by_it(check_several, change, name, said):
    code, printed, error = check_several(SEVERAL.replace(*change, 1), name)
    assert code and said in printed + error


@pytest.mark.parametrize("examples", ["", 'EXAMPLES = [("7", "7", 1.0)]\n'])
def test_an_option_that_is_missing_is_written_as_on_the_command_line(check, examples):
    source = "def r(completion, answer, *, tol: float): return 1.0\n"
    code, _, error = check(examples + source)
    assert code == 2
    assert "r.tol: required, and missing; write tol=... behind the other arguments, or" in error
    code, printed, _ = check('EXAMPLES = [("7", "7", 1.0)]\n' + source, "tol=1")
    assert code == 0, printed


def test_score_says_how_an_option_is_given_too(tmp_path, capsys):
    file, data = tmp_path / "r.py", tmp_path / "data.jsonl"
    file.write_text("def r(completion, *, tol: float): return 1.0\n", encoding="utf-8")
    data.write_text('{"completion": "7"}\n', encoding="utf-8")
    assert main(["rewards", "score", f"{file}:r", str(data)]) == 2
    assert "r.tol: required, and missing; write tol=... behind" in capsys.readouterr().err
