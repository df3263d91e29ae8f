"""Every shipped reward gives what its EXAMPLES say."""

import argparse
import re

import pytest

from rl_llm.cli import rewards as rewards_command
from rl_llm.errors import PluginError
from rl_llm.plugins import resolve, shipped_folder
from rl_llm.scoring import Example, Failure, read_examples, run_example

SHIPPED = sorted(file.stem for file in shipped_folder("rewards").glob("[!_]*.py"))
SAID_ELSEWHERE = {"remote", "reward_model"}  # By a server and a model, which their tests start.
EXAMPLES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name in SHIPPED
    for index in range(len(read_examples(resolve(name, kind="rewards"))))
]


@pytest.mark.parametrize(("name", "index"), EXAMPLES)
def test_a_shipped_reward_gives_what_its_example_says(name, index, request):
    if name == "code_tests":
        request.getfixturevalue("isolated")
    plugin = resolve(name, kind="rewards")
    example = read_examples(plugin)[index]
    assert run_example(plugin, example) == example.expected


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in SAID_ELSEWHERE])
def test_a_shipped_reward_shows_more_than_one_value_in_its_examples(name):
    assert len({example.expected for example in read_examples(resolve(name, kind="rewards"))}) > 1


def test_a_reference_answer_without_a_number_is_a_failure_and_no_zero():
    plugin = resolve("numeric_answer", kind="rewards")
    (example,) = [e for e in read_examples(plugin) if e.inputs["completion"] == "I do not know"]
    broken = Example(inputs={**example.inputs, "answer": "three"}, expected=None)
    assert run_example(plugin, broken) == Failure(
        "ValueError: the reference answer 'three' holds no number"
    )


@pytest.mark.parametrize("answer", ["", " \n"])
def test_nothing_is_no_exact_answer_to_a_reference_that_is_blank(answer):
    outcome = run_example(
        resolve("exact_answer", kind="rewards"),
        Example(inputs={"completion": "", "answer": answer}, expected=None),
    )
    assert outcome.message.startswith("ValueError: the reference answer is blank, so that an empty")


@pytest.fixture
def load(tmp_path):
    def build(source):
        (tmp_path / "mine.py").write_text(source)
        return resolve(f"{tmp_path / 'mine.py'}:mine", kind="rewards")

    return build


def test_an_example_may_give_any_input_column_and_option_by_name(load):
    plugin = load("""
EXAMPLES = [
    ({"completion": "a", "unit": "cm", "gain": 2.0, "truncated": True, "token_count": 4}, 8.0),
]

def mine(completion, unit, truncated, token_count, *, gain: float):
    return gain * token_count * (completion == "a" and unit == "cm" and truncated)
""")
    (example,) = read_examples(plugin)
    assert run_example(plugin, example) == 8.0


def test_an_example_of_a_group_has_a_list_of_completions_and_a_list_of_values(load):
    plugin = load("""
EXAMPLES = [({"completions": ["a", "bb"], "answer": "bb"}, [0.0, 1.0])]

def mine(completions, answer):
    return [float(text == answer) for text in completions]
""")
    (example,) = read_examples(plugin)
    assert run_example(plugin, example) == [0.0, 1.0]


def test_an_example_of_another_shape_is_refused_by_its_number(load):
    plugin = load('EXAMPLES = [("a", "a", 1.0), ("a", 1.0)]\n\ndef mine(completion): return 1.0\n')
    with pytest.raises(PluginError, match=r"EXAMPLES\[1\] is \('a', 1\.0\); write it as"):
        read_examples(plugin)


def test_the_command_lists_every_shipped_reward_with_inputs_and_options(capsys):
    parser = argparse.ArgumentParser()
    rewards_command.configure(parser)
    assert rewards_command.run(parser.parse_args(["list"])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} >= set(SHIPPED)
    (budget,) = [line for line in lines if line.startswith("length_budget")]
    assert "  token_count  " in budget
    assert re.search(r"  limit \(required\), cache \(required\) +shipped$", budget)
