"""A package that somebody else wrote, built and installed by pip: its reward and its prompt source
answer to bare names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "count-vowels"
version = "0.1"

[project.entry-points."rl_llm.rewards"]
vowels = "count_vowels.rewards:vowels"

[project.entry-points."rl_llm.data"]
words = "count_vowels.words:words"

[tool.setuptools]
packages = ["count_vowels"]
""",
    "count_vowels/__init__.py": "",
    "count_vowels/rewards.py": '''\
import os

EXAMPLES = [({"completion": "aeiou", "wanted": 5}, 1.0), ({"completion": "xyz", "wanted": 1}, 0.0)]


def vowels(completion, *, wanted: int, name_of_process: bool = False):
    """1.0 when the completion has as many vowels as wanted."""
    if name_of_process:
        return float(os.getpid())
    return float(sum(letter in "aeiou" for letter in completion) == wanted)
''',
    "count_vowels/words.py": """\
from rl_llm.records import Problem, content_key


def words(*, count: int):
    for number in range(count):
        key = content_key(f"word {number}", "a")
        yield Problem(key=key, prompt=f"word {number}", answer="a", source="words")
""",
}

SCORE = """\
import json, os
from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric

texts = ("aa", "b", "io")
completions = tuple(
    Completion(token_ids=(1,), logprobs=(0.0,), text=t, finish_reason="stop", policy_version=0)
    for t in texts
)
problem = Problem(key="k", prompt="?", answer="")
group = Group(problem=problem, prompt_ids=(), completions=completions)
found = {"own": os.getpid()}
for name, options in {"score": {}, "process": {"name_of_process": True}}.items():
    rubric = build_rubric([RewardUse(use="vowels", wanted=2, **options)], columns=(), num_workers=1)
    (scored,) = rubric.score([group])
    rubric.close()
    found[name] = [score.total for score in scored.scores]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the package into a folder, and return a function that runs Python with it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, text in FILES.items():
        file = source / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *alone, str(source)], check=True, timeout=300)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env=os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.slow
def test_its_reward_is_listed_with_its_options_and_its_package(installed):
    done = installed("-m", "rl_llm", "rewards", "list")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("vowels ")]
    assert re.split("  +", line) == [
        "vowels",
        "1.0 when the completion has as many vowels as wanted.",
        "completion",
        "wanted (required), name_of_process=False",
        "entry point count_vowels.rewards:vowels of count-vowels",
    ]


@pytest.mark.slow
def test_its_reward_passes_its_check(installed):
    done = installed("-m", "rl_llm", "rewards", "check", "vowels")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "vowels of count_vowels.rewards:vowels of count-vowels, called in a worker" in done.stdout
    )
    assert "examples: 2 of 2 as expected" in done.stdout


@pytest.mark.slow
def test_its_reward_scores_a_group_in_a_worker(installed):
    done = installed("-c", SCORE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["score"] == [1.0, 0.0, 1.0]
    (worker,) = set(found["process"])
    assert worker != found["own"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rewards=[{use: vowels, wanted: 2}]"], None),
        (["rewards=[{use: vowels}]"], "error: rewards.0.wanted: required, and missing"),
        (["data.train=[{use: words}]"], "error: data.train.0.count: required, and missing"),
    ],
)
def test_a_recipe_takes_its_prompt_source_and_its_reward_by_name(installed, overrides, said):
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    parts = ["data.train=[{use: words, count: 64}]", "data.eval=[]", *overrides]
    done = installed("-m", "rl_llm", "validate", recipe, *parts)
    assert done.returncode == (0 if said is None else 2), done.stderr
    assert done.stderr.startswith(said) if said else "data.train: 64 problems" in done.stdout
