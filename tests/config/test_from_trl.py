"""What docs/from_trl.md says of names of TRL is what errors say, and what the schema has."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from rl_llm.algorithms import ALGORITHMS, CORRECTIONS
from rl_llm.cli.schema import recipe_table
from rl_llm.config import NamedPart
from rl_llm.config.from_trl import FROM_TRL
from rl_llm.curriculum.samplers import SAMPLERS
from rl_llm.kl import CONTROLLERS
from rl_llm.plugins import build_named

PAGE = (Path(__file__).parents[2] / "docs" / "from_trl.md").read_text(encoding="utf-8")


def test_the_page_and_the_errors_say_the_same():
    said = {}
    (settings,) = re.findall(r"^## Settings\n(.*?)^## ", PAGE, re.M | re.S)
    for names, keys in re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (`[\w.\[\], `]+|none) \|", settings, re.M
    ):
        for name in re.findall(r"`(.+?)`", names):
            said[name] = tuple(re.findall(r"`(.+?)`", keys))
    assert said == FROM_TRL


def test_every_key_on_the_page_is_one_of_the_schema_or_an_option():
    known = {row.split("`")[1] for row in recipe_table().splitlines()[2:]}
    known |= {f"algorithm.{o}" for build in ALGORITHMS.values() for o in options(build)}
    known |= {f"kl.controller.{o}" for build in CONTROLLERS.values() for o in options(build)}
    known |= {"algorithm.name"}
    assert {key for keys in FROM_TRL.values() for key in keys} <= known


def options(build):
    return inspect.signature(build).parameters


@pytest.mark.parametrize("written", sorted(set(re.findall(r"(?<!run: )\{name: [^{}]+\}", PAGE))))
def test_every_part_on_the_page_can_be_built(written):
    part = NamedPart(**yaml.safe_load(written))
    tables = (ALGORITHMS, CORRECTIONS, CONTROLLERS, SAMPLERS)
    (table,) = [table for table in tables if part.name in table]
    if table is SAMPLERS:
        assert not part.options
    else:
        supplied = {"total_steps": 10} if "total_steps" in options(table[part.name]) else {}
        build_named(part, table, path="page", **supplied)
