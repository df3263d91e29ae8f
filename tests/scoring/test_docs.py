"""The reward that docs/rewards.md begins with works as written."""

import re
from pathlib import Path

from rl_llm.plugins import resolve
from rl_llm.scoring import read_examples, run_example

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


def test_the_first_reward_of_the_page_gives_what_its_examples_say(tmp_path):
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "unit_answer.py").write_text(found[1])
    plugin = resolve(f"{tmp_path / 'unit_answer.py'}:unit_answer", kind="rewards")
    examples = read_examples(plugin)
    assert len(examples) == 3
    assert [run_example(plugin, each) for each in examples] == [e.expected for e in examples]
