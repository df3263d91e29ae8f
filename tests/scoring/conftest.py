"""Groups with texts of our choosing, reward files, and worker processes that are accounted for."""

import os
import time
import uuid

import psutil
import pytest

from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric

MARK = "RL_LLM_TEST_MARK"


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


@pytest.fixture(scope="module")
def marked():
    """Mark the processes that are started from here on, and return a function that finds them."""
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark

    def find():
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    yield find
    del os.environ[MARK]


@pytest.fixture
def left(marked):
    """Return what is left of the marked processes; one that is killed takes a moment to go."""

    def wait():
        deadline = time.monotonic() + 10
        while (found := marked()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def build(use_reward, left):
    """Build a rubric of one reward `r`; it is closed behind the test, and nothing is left."""
    rubrics = []

    def build(source, *, num_workers=2, columns=(), **settings):
        settings = {"timeout_s": 2.0, **settings}
        rubrics.append(
            build_rubric([use_reward(source, **settings)], columns=columns, num_workers=num_workers)
        )
        return rubrics[-1]

    yield build
    for rubric in rubrics:
        rubric.close()
    assert left() == []
