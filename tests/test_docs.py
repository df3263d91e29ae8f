"""What pages and the headers of recipes promise is there: links, commands, recipes, options, the
README's reward."""

import inspect
import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml

from rl_llm.cli.main import COMMANDS, main
from rl_llm.config import NamedPart, Recipe, SourceUse, load_recipe, parse_recipe
from rl_llm.config.curriculum import BeliefSection, ProbeSection
from rl_llm.curriculum import (
    Outcomes,
    PoolBelief,
    PoolIndex,
    Posterior,
    build_gates,
    build_sampler,
)
from rl_llm.kl import Constant, GrpoD
from rl_llm.plugins import resolve
from rl_llm.problems import load_pool
from rl_llm.records import Group, Problem, Score, ScoredGroup
from rl_llm.scoring import read_examples, run_example

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
RUNS = [recipe for recipe in RECIPES if recipe.parent.name != "accelerate"]
HAVE_SUBCOMMANDS = ("rewards", "data")
SMALLEST = {
    "run": {"name": "page", "steps": 100},
    "model": {"path": "somewhere"},
    "data": {"train": [{"use": "arithmetic"}]},
    "rewards": [{"use": "exact_answer"}],
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_text = pytest.mark.parametrize(
    "page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)).replace("/", "-")
)
each_run = pytest.mark.parametrize(
    "recipe", RUNS, ids=lambda recipe: f"{recipe.parent.name}-{recipe.stem}"
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of one language; without one, those of a terminal."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def header(recipe: Path) -> str:
    """Return the comment at the top of a recipe; what that of a run calls RECIPE is the recipe."""
    text = re.sub(r"^# ?", "", re.match(r"(?:#.*\n)*", text_of(recipe))[0], flags=re.MULTILINE)
    return text.replace("RECIPE", str(recipe.relative_to(ROOT))) if recipe in RUNS else text


def code(page: Path) -> list[str]:
    """Return lines of terminal blocks and what stands between backticks, comments cut off; of a
    recipe's header its lines, without the words before a colon and what is in brackets."""
    if page.suffix == ".yaml":
        text = header(page).replace("\\\n", "")
        lines = [re.sub(r"^\s*[\w ]+: +|  +\(.*", "", line) for line in text.splitlines()]
        quoted = re.findall(r"`([^`]+)`", " ".join(text.split()))
        return [line for line in lines if "`" not in line] + quoted
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks(page) for line in block.replace("\\\n", "").splitlines()]
    return [line.partition(" #")[0] for line in [*lines, *re.findall(r"`([^`\n]+)`", prose)]]


def commands(page: Path) -> list[list[str]]:
    """Return the words after every `rl-llm` in code; scripts/train.py is `rl-llm train`."""
    lines = (line.replace("scripts/train.py", "&& rl-llm train") for line in code(page))
    found = (re.search(r"(?:^|\s|/)rl-llm (\S.*)", line) for line in lines)
    return [shlex.split(match[1]) for match in found if match]


def anchors(page: Path) -> set[str]:
    """Return the fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading_in_it(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"[a-z]+:", link):
            name, _, fragment = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not fragment or fragment in anchors(target), link


@each_text
def test_every_command_that_a_page_names_exists(page, capsys):
    for words in commands(page):
        if not words[0].startswith("-"):
            assert words[0] in COMMANDS, words
        if words[0] in HAVE_SUBCOMMANDS and len(words) > 1:
            with pytest.raises(SystemExit) as left:
                main([*words[:2], "--help"])
            assert left.value.code == 0, words
    capsys.readouterr()


def test_the_pages_name_commands_at_all():
    assert ["rewards", "list"] in commands(ROOT / "README.md")
    assert sum(len(commands(page)) for page in PAGES) > 10


@each_run
def test_the_header_of_a_recipe_has_a_command_that_trains_it(recipe):
    assert ["train", str(recipe.relative_to(ROOT))] in commands(recipe)
    for label in ("Command", "Hardware", "Expect"):
        assert re.search(rf"^{label}: ", header(recipe), re.MULTILINE), label


def test_the_page_lists_every_recipe_that_ships():
    listed = re.findall(
        r"^\| \[`(.+?)`\]\(\.\./recipes/\1\) \|", text_of(ROOT / "docs/recipes.md"), re.MULTILINE
    )
    assert sorted(listed) == sorted(str(run.relative_to(ROOT / "recipes")) for run in RUNS)


@each_run
def test_overrides_in_the_header_of_a_recipe_fit_it(recipe):
    found = re.findall(
        r"'([a-z_.\d]+=[^']+)'|(?<!')\b([a-z_]+\.[a-z_.\d]+=[\w./]*\w)", header(recipe)
    )
    load_recipe(recipe, [quoted or plain for quoted, plain in found])


@each_text
def test_every_recipe_and_program_that_is_named_exists(page):
    for name in re.findall(r"\b((?:recipes|scripts)/[\w./-]+\.(?:yaml|py))\b", text_of(page)):
        assert (ROOT / name).is_file(), name


@each_text
def test_overrides_in_commands_fit_their_recipes(page):
    for words in commands(page):
        shipped = [word for word in words if word.startswith("recipes/")]
        overrides = [word for word in words if re.match(r"[a-z_.\d]+=\S", word)]
        if words[0] in ("train", "validate") and shipped:
            load_recipe(ROOT / shipped[0], overrides)


@each_page
def test_parts_of_recipes_on_a_page_fit_the_schema(page):
    for block in blocks(page, "yaml"):
        part = yaml.safe_load(block)
        if isinstance(part, dict) and part.keys() <= Recipe.model_fields.keys():
            parse_recipe({**SMALLEST, **part}, where=page.name)


SUPPLIED = {"divides_by_group"}  # By the program, never by a recipe.


def options(part: type) -> dict[str, str]:
    """Return a part's own options with their defaults, as a recipe writes them."""
    parameters = inspect.signature(part).parameters.values()
    return {
        p.name: "null" if p.default is None else str(p.default)
        for p in parameters
        if p.default is not p.empty and p.name not in SUPPLIED
    }


@pytest.mark.parametrize(
    ("page", "parts"),
    [("curriculum.md", [BeliefSection, Posterior, ProbeSection]), ("kl.md", [Constant, GrpoD])],
)
def test_the_page_gives_every_option_with_its_default(page, parts):
    rows = re.findall(r"\| `(\w+)` \| `([\w.]+)` \|", text_of(ROOT / "docs" / page))
    assert dict(rows) == {
        name: default for part in parts for name, default in options(part).items()
    }


def test_the_reward_of_the_readme_gives_what_its_examples_say(tmp_path):
    (source,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "unit_answer.py").write_text(source, encoding="utf-8")
    plugin = resolve(f"{tmp_path / 'unit_answer.py'}:unit_answer", kind="rewards")
    examples = read_examples(plugin)
    assert [run_example(plugin, each) for each in examples] == [1.0, 0.0]


@pytest.mark.parametrize("is_right", [True, False])
def test_the_test_in_the_docs_runs_the_examples_of_a_file(tmp_path, monkeypatch, is_right):
    (source,) = blocks(ROOT / "README.md", "python")
    (test,) = [b for b in blocks(ROOT / "docs" / "rewards.md", "python") if "run_example" in b]
    (tmp_path / "path" / "to").mkdir(parents=True)
    text = source if is_right else source.replace("1.0)", "0.5)")
    (tmp_path / "path" / "to" / "unit_answer.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(test, names)
    with nullcontext() if is_right else pytest.raises(AssertionError):
        names["test_the_reward_gives_what_its_examples_say"]()


def test_the_report_in_the_readme_is_a_small_picture():
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 300_000


def test_the_sampler_in_the_docs_plans_learns_and_resumes(tmp_path):
    source, _ = blocks(ROOT / "docs" / "curriculum.md", "python")
    (tmp_path / "hardest.py").write_text(source, encoding="utf-8")
    index = PoolIndex.of([Problem(key=str(i), prompt="q", answer="a") for i in range(4)])
    part = NamedPart(name=f"{tmp_path / 'hardest.py'}:Hardest", jitter=0.0)
    supplied = {"index": index, "belief": PoolBelief(index), "seed": 0, "group_size": 8}
    first, second = (build_sampler(part, **supplied) for _ in range(2))
    solved = Outcomes(
        indices=np.array([0, 2]), num_correct=np.array([8, 8]), num_counted=np.array([8, 8]), step=1
    )
    first.observe(solved)
    second.load_state_dict(first.state_dict())
    assert sorted(first.plan(2, 2)) == sorted(second.plan(2, 2)) == [1, 3]


def test_the_gate_in_the_docs_admits_up_to_its_share(tmp_path):
    _, source = blocks(ROOT / "docs" / "curriculum.md", "python")
    (tmp_path / "gates.py").write_text(source, encoding="utf-8")
    (gate,) = build_gates([NamedPart(name=f"{tmp_path / 'gates.py'}:NotTooEasy", most=0.5)])

    def group(correct, errors):
        return ScoredGroup(
            group=Group(
                problem=Problem(key="0", prompt="q", answer="a"), prompt_ids=(), completions=()
            ),
            scores=tuple(
                Score(total=0.0, parts={}, correct=right, error=error)
                for right, error in zip(correct, errors, strict=True)
            ),
        )

    fine, failed = [None] * 4, [None, None, None, "late"]
    assert gate.admit(group([True, True, False, False], fine))
    assert not gate.admit(group([True, True, False, False], failed))


def test_the_source_in_the_docs_gives_problems(tmp_path):
    (source,) = blocks(ROOT / "docs" / "data.md", "python")
    file = tmp_path / "squares.py"
    file.write_text(source, encoding="utf-8")
    pool = load_pool([SourceUse(use=f"{file}:squares", up_to=3)], where="data.train")
    assert [p.prompt + p.answer for p in pool.problems] == ["0*0=0", "1*1=1", "2*2=4"]


def test_the_rows_in_the_docs_are_read(tmp_path):
    (rows,) = blocks(ROOT / "docs" / "data.md", "json")
    file = tmp_path / "rows.jsonl"
    file.write_text(rows, encoding="utf-8")
    use = SourceUse(use="jsonl", path=str(file), level="level")
    plain, chat = load_pool([use], where="data.train").problems
    assert (plain.answer, plain.level) == (chat.answer, chat.level) == ("12", 1)
    assert chat.prompt == ({"role": "user", "content": plain.prompt},)
