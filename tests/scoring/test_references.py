"""References that a reward cannot use are named before a run, each asked for once."""

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import PluginError
from rl_llm.records import Problem
from rl_llm.scoring import build_rubric
from rl_llm.scoring.references import reference_faults


def problems(*answers):
    return [
        Problem(key=f"k{number}", prompt=f"{number}?", answer=answer, source="mine")
        for number, answer in enumerate(answers)
    ]


def faults(use, *answers, **given):
    rubric = build_rubric([use], columns=())
    return list(reference_faults(rubric.rewards, problems(*answers), **given))


def test_references_without_a_number_are_counted_and_the_first_is_named():
    (line,) = faults(RewardUse(use="numeric_answer"), "7", "seven", "#### 8", "eight")
    assert line == (
        "reward 'numeric_answer' cannot use the references of 2 of 4 problems; the first is of "
        "problem k1 (source 'mine'): ValueError: the reference answer 'seven' holds no number"
    )


def test_references_that_can_be_used_give_no_line():
    for name in ("numeric_answer", "exact_answer", "choice_answer", "answer_tags"):
        answers = ("A", "b") if name == "choice_answer" else ("7", "8")
        assert faults(RewardUse(use=name), *answers) == []


def test_the_reward_itself_is_not_called(use_reward):
    source = "def r(completion, answer):\n    raise ValueError('it costs something')\n"
    assert faults(use_reward(source, inline=True), "7") == []
    source += "def read_reference(answer):\n    return [7]\n"
    assert faults(use_reward(source, inline=True), "7") == []


@pytest.mark.parametrize(("inputs", "num_calls"), [("answer", 2), ("answer, problem", 3)])
def test_a_reference_of_many_problems_is_read_once_unless_more_is_asked_for(
    use_reward, tmp_path, inputs, num_calls
):
    calls = tmp_path / "calls"
    source = (
        "def r(completion, answer): return 1.0\n"
        f"def read_reference({inputs}):\n"
        f"    with open({str(calls)!r}, 'a') as file: file.write('.')\n"
        "    raise KeyError(answer)\n"
    )
    (line,) = faults(use_reward(source, inline=True), "7", "8", "7")
    assert "references of 3 of 3 problems; the first is of problem k0 (source 'mine')" in line
    assert line.endswith("KeyError: '7', in r.py line 4, read_reference")
    assert len(calls.read_text()) == num_calls


@pytest.mark.parametrize("parameters", ["completions", "answer, *, tolerance=1", "**columns"])
def test_what_reads_a_reference_is_given_nothing_but_a_problem(use_reward, parameters):
    source = f"def r(answer): return 1.0\ndef read_reference({parameters}): pass\n"
    with pytest.raises(PluginError, match="read_reference may ask for answer, prompt, problem and"):
        faults(use_reward(source, inline=True), "7")


def test_tests_are_read_and_no_reference_is_run_as_a_program(tmp_path):
    mark = tmp_path / "ran"
    use = RewardUse(use="code_tests", fenced=False, allow_unisolated=True)
    line, *others = faults(use, "42", f"open({str(mark)!r}, 'w')")
    assert "cannot use the references of 1 of 2 problems; the first is of problem k0" in line
    assert (others, mark.exists()) == ([], False)


@pytest.mark.slow
def test_references_that_are_no_mathematics_are_found_by_workers():
    use = RewardUse(use="math_answer", timeout_s=2.0)
    said = []
    answers = (r"\frac{1}{2}", r"\frac{1}{", "Monday", r"\boxed{5}", "Monday")
    (line,) = faults(use, *answers, num_workers=1, say=said.append)
    assert said == ["different references for reward 'math_answer' to read: 4"]
    assert "references of 1 of 5 problems; the first is of problem k1 (source 'mine'): " in line
    assert line.endswith("or remove the problem")
