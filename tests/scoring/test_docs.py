"""The rewards that docs/rewards.md shows with examples work as written."""

import re
from pathlib import Path

import pytest

from rl_llm.plugins import resolve
from rl_llm.scoring import read_examples, run_example

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


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
