"""What a recipe may say about the use of a reward."""

import pytest

from rl_llm.config import RewardUse, parse_recipe
from rl_llm.errors import ConfigError


def parse(only_if):
    tree = {
        "run": {"name": "tiny", "steps": 1},
        "model": {"path": "somewhere"},
        "data": {"train": [{"use": "arithmetic", "levels": [1]}]},
        "rewards": [
            {"use": "exact_answer"},
            {"use": "answer_tags", "channel": "format", "only_if": only_if},
        ],
    }
    return parse_recipe(tree, where="recipe.yaml")


def test_only_if_is_a_name_and_no_option_of_the_reward():
    _, tags = parse("exact_answer").rewards
    assert tags.only_if == "exact_answer"
    assert tags.options == {}


def test_a_reward_counts_always_unless_a_recipe_says_only_if():
    assert RewardUse(use="exact_answer").only_if is None


def test_only_if_takes_one_name_and_no_list():
    with pytest.raises(ConfigError, match=r"rewards\.1\.only_if"):
        parse(["exact_answer"])
