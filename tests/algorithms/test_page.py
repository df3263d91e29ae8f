"""docs/algorithms.md says of every algorithm and option what the code does."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml

from rl_llm.algorithms import ALGORITHMS, ScoredBatch, sequence_mean
from rl_llm.config import NamedPart
from rl_llm.plugins import build_named

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
SEE_ABOVE = {"clip_low", "clip_high", "scale", "reduce"}


def cells(section, width):
    """Return the rows of the table under a heading, or of the first table after it."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [
        re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if line[:1] == "|"
    ]
    return [row for row in rows[2:] if len(row) == width]


def defaults(name):
    parameters = inspect.signature(ALGORITHMS[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def options_on_the_page():
    """Return {option: (its default cell, its algorithms)}."""
    found = {}
    for option_cell, default_cell, of_cell, _ in cells("Options", 4):
        names = set(re.findall(r"`(\w+)`", of_cell))
        for option in re.findall(r"`(\w+)`", option_cell):
            found[option] = (
                default_cell,
                names or {n for n in ALGORITHMS if option in defaults(n)},
            )
    return found


def test_the_page_names_every_algorithm():
    assert {row[0].strip("`") for row in cells("Which one", 7)} == set(ALGORITHMS)


def test_the_page_gives_every_option_and_whose_it_is():
    of = {}
    for name in ALGORITHMS:
        for option in defaults(name):
            of.setdefault(option, set()).add(name)
    assert {option: names for option, (_, names) in options_on_the_page().items()} == of


def test_the_page_gives_every_default():
    for option, (cell, names) in options_on_the_page().items():
        if option in SEE_ABOVE:
            continue
        general, *exceptions = cell.split("; ")
        own = dict(re.findall(r"`(\w+)`: `([\w.]+)`", "; ".join(exceptions)))
        for name in names:
            expected = yaml.safe_load(own.get(name, general.strip("`")))
            assert defaults(name)[option] == expected, (option, name)


def test_the_page_gives_the_clip_scale_and_reduction_of_each():
    for row in cells("Which one", 7):
        # A star says that the default is ours and not the source's.
        quoted, _, clip, _, scale, reduction, _ = (cell.removesuffix("*") for cell in row)
        found = defaults(quoted.strip("`"))
        if "clip_low" in found:
            assert [float(bound) for bound in clip.split(" / ")] == [
                found["clip_low"],
                found["clip_high"],
            ]
        assert found.get("scale", scale) == scale
        assert found.get("reduce", "").replace("_", " ") in ("", reduction)


def test_grpo_as_published_is_what_the_page_says():
    (published,) = re.findall(r"`(\{name: grpo, clip_high[^`]*\})`", PAGE)
    algorithm = build_named(NamedPart(**yaml.safe_load(published)), ALGORITHMS, path="algorithm")
    assert algorithm.reduce is sequence_mean
    stars = [row for row in cells("Which one", 7) if row[0] == "`grpo`"]
    assert [cell for cell in stars[0] if cell.endswith("*")] == [".2 / .28*", "token mean*"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_recipe_can_name_it_with_its_options(name):
    part = NamedPart(name=name, truncated="penalise", overlong_cache=5, entropy_bonus=0.01)
    assert build_named(part, ALGORITHMS, path="algorithm").name == name


def test_the_algorithm_on_the_page_doubles_what_went_well(tmp_path):
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    part = NamedPart(name=f"{tmp_path / 'mine.py'}:bold", factor=3.0)
    algorithm = build_named(part, ALGORITHMS, path="algorithm")
    rewards_PG = torch.tensor([[1.0, 0.0]])
    batch = ScoredBatch(
        rewards_PG=rewards_PG,
        counted_PG=torch.ones_like(rewards_PG, dtype=torch.bool),
        parts_PGR=rewards_PG[:, :, None],
        weights_R=torch.ones(1),
        lengths_PG=torch.ones_like(rewards_PG).long(),
        max_response_tokens=4,
    )
    assert algorithm.advantages(batch).tolist() == [[1.5, -0.5]]
