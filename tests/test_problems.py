"""Pools: what is read, dropped, counted and refused."""

import re
from dataclasses import replace

import pytest

from rl_llm.config import SourceUse
from rl_llm.errors import ConfigError, DataError, PluginError
from rl_llm.problems import (
    Pool,
    check_disjoint,
    drop_too_long,
    load_pool,
    summary_lines,
)
from rl_llm.records import Problem, content_key

SOURCES = """
from rl_llm.errors import ConfigError
from rl_llm.records import Problem, content_key

def problem(prompt, answer="1", **fields):
    return Problem(key=content_key(prompt, answer), prompt=prompt, answer=answer, **fields)

def sums(*, first: int, last: int, source: str = "sums"):
    for n in range(first, last + 1):
        yield problem(f"{n}+1=", str(n + 1), level=len(str(n)), source=source, meta={"n": n})

def nothing():
    return []

def blank():
    yield problem("1+1=")
    yield problem("  \\n")

def blank_chat():
    yield problem(({"role": "system", "content": "Add."}, {"role": "user", "content": " "}))

def wrong_key():
    yield Problem(key="k1", prompt="p", answer="a")

def rows():
    yield {"prompt": "p"}

def refuses_late():
    raise ConfigError("levels=[9]: no such level")
    yield
"""


@pytest.fixture
def use(tmp_path):
    file = tmp_path / "sources.py"
    file.write_text(SOURCES)
    return lambda name, **options: SourceUse(use=f"{file}:{name}", **options)


def problem(prompt, answer="1", **fields):
    return Problem(key=content_key(prompt, answer), prompt=prompt, answer=answer, **fields)


def pool_of(*problems, where="data.train"):
    return Pool(problems=problems, num_read=len(problems), where=where)


def test_sources_are_read_in_order_with_their_options(use):
    pool = load_pool([use("sums", first=8, last=9), use("sums", first=1, last=2)], where="data.x")
    assert [p.prompt for p in pool.problems] == ["8+1=", "9+1=", "1+1=", "2+1="]
    assert (pool.num_read, pool.num_duplicates, pool.num_too_long) == (4, 0, 0)


def test_of_equal_problems_the_first_stays_and_the_others_are_counted(use):
    uses = [use("sums", first=1, last=3, source="a"), use("sums", first=2, last=5, source="b")]
    pool = load_pool(uses, where="data.train")
    assert [(p.prompt, p.source) for p in pool.problems] == [
        ("1+1=", "a"),
        ("2+1=", "a"),
        ("3+1=", "a"),
        ("4+1=", "b"),
        ("5+1=", "b"),
    ]
    assert (pool.num_read, pool.num_duplicates) == (7, 2)
    assert summary_lines(pool)[0] == "data.train: 5 problems (7 read; 2 duplicates dropped)"


def test_counts_keep_the_order_of_the_sources_and_sort_levels_by_value():
    pool = pool_of(
        problem("a", source="z", level=10),
        problem("b", source="z", level=9),
        problem("c", source="a", level="hard"),
        problem("d", source="z", level=9),
        problem("e", source="a", level=2),
    )
    assert list(pool.counts.items()) == [
        (("z", 9), 2),
        (("z", 10), 1),
        (("a", 2), 1),
        (("a", "hard"), 1),
    ]
    assert summary_lines(pool) == [
        "data.train: 5 problems",
        "  z level 9: 2",
        "  z level 10: 1",
        "  a level 2: 1",
        "  a level hard: 1",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "holds no problem; a run needs at least one"),
        ("blank", "data.train.0: problem 2 of .*blank has an empty prompt"),
        ("blank_chat", "data.train.0: problem 1 of .*blank_chat has an empty prompt"),
        ("wrong_key", "has the key 'k1'; a prompt source sets key=content_key"),
        ("rows", "problem 1 of .*rows is a dict; a prompt source yields rl_llm.records.Problem"),
    ],
)
def test_what_breaks_a_rule_is_one_error_that_names_the_source(use, name, message):
    with pytest.raises(DataError, match=message):
        load_pool([use(name)], where="data.train")


def test_no_source_at_all_holds_no_problem():
    with pytest.raises(DataError, match=re.escape("data.eval (no source) holds no problem")):
        load_pool([], where="data.eval")


def test_option_errors_name_the_place_in_the_recipe(use):
    good = use("sums", first=1, last=2)
    with pytest.raises(ConfigError, match=r"data\.train\.1\.frst: unknown option \(did you mean"):
        load_pool([good, use("sums", frst=1, last=2)], where="data.train")
    with pytest.raises(ConfigError, match=r"^data\.train\.0: levels=\[9\]: no such level$"):
        load_pool([use("refuses_late")], where="data.train")
    with pytest.raises(PluginError, match="arithmetik"):
        load_pool([SourceUse(use="arithmetik")], where="data.train")


def test_a_problem_in_both_pools_is_refused_with_both_places():
    shared = problem("What is 2+2?", "4", source="web")
    train = pool_of(problem("a"), shared, problem("b"))
    held_out = pool_of(problem("c"), replace(shared, source="book"), where="data.eval")
    with pytest.raises(DataError) as error:
        check_disjoint(train, held_out)
    assert str(error.value) == (
        "1 problem in both data.train and data.eval: the first is 'What is 2+2?' "
        f"(key {shared.key}), in data.train from source 'web' and in data.eval from source "
        "'book'; take them out of one of the two"
    )


def test_pools_without_a_common_key_are_disjoint():
    check_disjoint(pool_of(problem("a", "1")), pool_of(problem("a", "2")))


def test_prompts_over_the_limit_are_dropped_and_counted():
    pool = pool_of(problem("one two"), problem("one two three"), problem("one"))
    kept = drop_too_long(pool, lambda p: len(p.prompt.split()), max_prompt_tokens=2, policy="drop")
    assert [p.prompt for p in kept.problems] == ["one two", "one"]
    assert (kept.num_read, kept.num_too_long) == (3, 1)
    assert summary_lines(kept)[0] == (
        "data.train: 2 problems (3 read; 1 over the length limit dropped)"
    )


@pytest.mark.parametrize(
    ("limit", "policy", "message"),
    [
        (2, "error", "1 of 2 prompts exceed .*'one two three'.* has 3 tokens; .*too_long=drop"),
        (0, "drop", "2 of 2 prompts exceed .*; raise data.max_prompt_tokens$"),
    ],
)
def test_prompts_over_the_limit_are_an_error_if_asked_or_if_none_is_left(limit, policy, message):
    pool = pool_of(problem("one"), problem("one two three", source="s"))
    with pytest.raises(DataError, match=message):
        drop_too_long(pool, lambda p: len(p.prompt.split()), max_prompt_tokens=limit, policy=policy)


def test_a_source_that_raises_is_one_message_with_its_place(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine():\n    yield 1 / 0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"data.train.0: .*mine raised ZeroDivisionError"):
        load_pool([SourceUse(use=f"{file}:mine")], where="data.train")
