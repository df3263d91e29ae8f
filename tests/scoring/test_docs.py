"""What the pages about rewards show works as written."""

import re
from pathlib import Path

import pytest

from rl_llm.config import SourceUse
from rl_llm.plugins import resolve, shipped_folder
from rl_llm.problems import load_pool
from rl_llm.scoring import Example, read_examples, read_signature, run_example

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "rewards.md"
SHIPPED = DOCS / "shipped_rewards.md"


@pytest.mark.parametrize(("name", "num_examples"), [("unit_answer", 3), ("no_repeats", 1)])
def test_a_reward_of_the_page_gives_what_its_examples_say(tmp_path, name, num_examples):
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"```python\n(# rewards/{name}\.py\n.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / f"{name}.py").write_text(found[1])
    plugin = resolve(f"{tmp_path / name}.py:{name}", kind="rewards")
    examples = read_examples(plugin)
    assert len(examples) == num_examples
    assert [run_example(plugin, each) for each in examples] == [e.expected for e in examples]


def test_a_program_passes_the_tests_of_the_page_in_each_of_their_forms(tmp_path, isolated):
    section = SHIPPED.read_text(encoding="utf-8").partition("\n## Code\n")[2]
    (rows,) = re.findall(r"```json\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (tmp_path / "rows.jsonl").write_text(rows)
    use = SourceUse(use="jsonl", path=str(tmp_path / "rows.jsonl"))
    problems = load_pool([use], where="data.train").problems
    plugin = resolve("code_tests", kind="rewards")
    adds = "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n"
    adds += "    print(add(*map(int, input().split())))"

    def score(program, problem):
        given = {"completion": f"```python\n{program}\n```", "answer": problem.answer}
        return run_example(plugin, Example(inputs={**given, **problem.meta}, expected=None))

    assert [score(adds, each) for each in problems] == [1.0] * 3
    assert [score(adds.replace("+ b", "- b"), each) for each in problems] == [0.0] * 3


def test_the_page_gives_every_option_of_code_tests_with_its_default():
    page = SHIPPED.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \|", page, re.MULTILINE))
    plugin = resolve("code_tests", kind="rewards")
    options = read_signature(plugin).options
    shown = {name: str(each.default).lower().removesuffix(".0") for name, each in options.items()}
    assert {name: rows.get(name) for name in shown} == shown


def test_the_page_names_every_shipped_reward():
    page = SHIPPED.read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page.partition("\n## ")[0], re.MULTILINE)
    assert sorted(named) == sorted(file.stem for file in shipped_folder("rewards").glob("*.py"))


def test_the_page_names_the_shipped_rewards_that_read_references():
    page = PAGE.read_text(encoding="utf-8").partition("\n## References before a run\n")[2]
    said = page.partition("Of the\nshipped rewards ")[2].partition(" have one")[0]
    files = shipped_folder("rewards").glob("*.py")
    plugins = [resolve(file.stem, kind="rewards") for file in files]
    have = {plugin.name for plugin in plugins if hasattr(plugin.module, "read_reference")}
    assert set(re.findall(r"`(\w+)`", said)) == have
