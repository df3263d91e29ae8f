"""Groups with texts of our choosing, and reward files."""

import pytest

from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem


@pytest.fixture
def make_group():
    def build(*texts, answer="7", prompt="3+4=", num_tokens=3, finish_reason="stop", **meta):
        problem = Problem(key="k1", prompt=prompt, answer=answer, meta=meta)
        completions = tuple(
            Completion(
                token_ids=tuple(range(num_tokens)),
                logprobs=(0.0,) * num_tokens,
                text=text,
                finish_reason=finish_reason,
                policy_version=0,
            )
            for text in texts
        )
        return Group(problem=problem, prompt_ids=(1, 2), completions=completions)

    return build


@pytest.fixture
def use_reward(tmp_path):
    """Write a file that defines reward `r` (or `name`) and return how a recipe uses it."""

    def build(source, name="r", **settings):
        file = tmp_path / f"{name}.py"
        file.write_text(source)
        return RewardUse(use=f"{file}:{name}", **settings)

    return build
