"""Pools: what is read, dropped, counted and refused."""

import re
from dataclasses import replace

import pytest

from rl_llm.config import SourceUse
from rl_llm.errors import ConfigError, DataError, PluginError
from rl_llm.problems import (
    Pool,
    check_disjoint,
    checked_streams,
    drop_too_long,
    load_pool,
    summary_lines,
)
from rl_llm.records import Problem, content_key

SOURCES = """
import logging
import random
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

def seeded(*, size: int, seed: int = 7, source: str = "seeded"):
    rng = random.Random(seed)
    logging.getLogger(__name__).warning("only %d", size)
    for n in range(size):
        yield problem(f"{rng.random()}", level=n % 2, source=source)

def unseeded(*, seed: int | None = None):
    yield problem("1+1=")
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


def test_a_file_without_a_row_is_named_alone_and_beside_a_good_one(use, tmp_path, caplog):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    table = SourceUse(use="jsonl", path=str(empty))
    named = f"(jsonl path={empty}) holds no problem"
    with pytest.raises(DataError, match=re.escape(f"data.train {named}; a run needs")):
        load_pool([table], where="data.train")
    assert caplog.messages == []
    assert load_pool([use("sums", first=1, last=2), table], where="data.train").num_read == 2
    assert caplog.messages == [f"data.train.1 {named}; mend or remove it"]


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


def prompts(problems):
    return [p.prompt for p in problems]


def test_batches_of_an_endless_source_differ_and_are_the_same_whenever_they_are_asked_for(use):
    pool = load_pool([use("seeded", size=3, endless=True)], where="data.train")
    (stream,) = pool.streams
    assert (stream.place, stream.seed) == ("data.train.0", 7)  # The seed is the source's default.
    batches = [prompts(stream.batch(number)) for number in (1, 2, 1)]
    assert batches[0] == batches[2]
    assert len({*prompts(pool.problems), *batches[0], *batches[1]}) == 9
    assert prompts(pool.problems) == prompts(
        load_pool([use("seeded", size=3)], where="data.train").problems
    )


def test_the_seed_of_an_endless_source_names_all_its_batches(use):
    pools = [
        load_pool([use("seeded", size=2, seed=seed, endless=True)], where="data.train")
        for seed in (1, 1, 2)
    ]
    first, again, other = (prompts(pool.streams[0].batch(1)) for pool in pools)
    assert first == again
    assert not {*first} & {*other}


def test_the_endless_keys_of_a_pool_are_those_of_its_endless_sources_alone(use):
    finite, endless = use("sums", first=1, last=2), use("seeded", size=2, endless=True)
    pool = load_pool([finite, endless], where="data.train")
    assert pool.endless_keys == {p.key for p in pool.problems[2:]}
    assert summary_lines(pool)[1:] == [
        "  sums level 1: 2",
        "  seeded level 0: 1 at a time, endless",
        "  seeded level 1: 1 at a time, endless",
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sums", "sums has no option `seed`, and fresh problems"),
        ("unseeded", "unseeded has seed=None, and fresh problems"),
    ],
)
def test_an_endless_source_without_a_seed_is_refused(use, name, found):
    options = {"first": 1, "last": 2} if name == "sums" else {}
    with pytest.raises(ConfigError, match=rf"^data\.train\.0\.endless=true: .*{found}"):
        load_pool([use(name, endless=True, **options)], where="data.train")


def test_a_misspelt_endless_is_told_what_was_meant(use):
    with pytest.raises(ConfigError, match=r"data\.train\.0\.endles: unknown.*mean 'endless'"):
        load_pool([use("seeded", size=2, endles=True)], where="data.train")


def test_an_endless_source_cannot_be_held_out(use):
    train = load_pool([use("sums", first=1, last=2)], where="data.train")
    held_out = load_pool([use("seeded", size=2, endless=True)], where="data.eval")
    with pytest.raises(ConfigError, match=r"^data\.eval\.0\.endless=true: held-out problems stay"):
        check_disjoint(train, held_out)


def test_fresh_prompts_over_the_limit_are_dropped(use):
    pool = load_pool([use("seeded", size=4, endless=True)], where="data.train")
    fresh = prompts(pool.streams[0].batch(1))
    (stream,) = checked_streams(
        pool,
        pool_of(where="data.eval"),
        lambda p: 9 if p.prompt == fresh[1] else 5,
        max_prompt_tokens=5,
    )
    assert prompts(stream.batch(1)) == [fresh[0], *fresh[2:]]


def test_a_fresh_problem_that_is_held_out_is_left_out_of_its_batch(use):
    pool = load_pool([use("seeded", size=4, endless=True)], where="data.train")
    fresh = pool.streams[0].batch(3)
    held_out = pool_of(fresh[1], where="data.eval")
    (stream,) = checked_streams(pool, held_out, lambda p: 1, max_prompt_tokens=1)
    assert list(stream.batch(3)) == [fresh[0], *fresh[2:]]


def scripted_stream(pool, batches):
    """Return a pool whose only stream brings the prompts of `batches`, and those it asked for."""
    asked = []

    def batch(number):
        asked.append(number)
        return [problem(prompt) for prompt in batches(number)]

    return replace(pool, streams=(replace(pool.streams[0], batch=batch),)), asked


def test_a_batch_that_is_held_out_altogether_is_empty_while_a_later_one_is_not(use):
    pool = load_pool([use("seeded", size=2, endless=True)], where="data.train")
    # Of 16 batches in a row from batch 1 on, the last one alone brings something.
    pool, asked = scripted_stream(pool, lambda number: ["new"] if number == 16 else ["held", "out"])
    held_out = pool_of(problem("held"), problem("out"), where="data.eval")
    (stream,) = checked_streams(pool, held_out, lambda p: 1, max_prompt_tokens=1)
    assert list(stream.batch(1)) == []
    assert asked == [*range(1, 17)]


def test_a_stream_of_which_nothing_is_left_ends_after_16_batches_with_the_reason(use):
    pool = load_pool([use("seeded", size=2, endless=True)], where="data.train")
    pool, asked = scripted_stream(pool, lambda number: ["held", "long"])
    held_out = pool_of(problem("held"), where="data.eval")
    (stream,) = checked_streams(
        pool, held_out, lambda p: 9 if p.prompt == "long" else 1, max_prompt_tokens=5
    )
    with pytest.raises(
        DataError,
        match=r"^data\.train\.0: its batches 2 to 17 bring nothing to train on; of the 2 problems "
        r"of the first of these, 1 stand in data\.eval, .*data\.max_prompt_tokens=5",
    ):
        stream.batch(2)
    assert asked == [*range(2, 18)]


def test_what_a_source_warns_of_is_said_once_and_not_for_every_batch(use, caplog):
    pool = load_pool([use("seeded", size=2, endless=True)], where="data.train")
    pool.streams[0].batch(1)
    assert caplog.messages == ["only 2"]
    load_pool([use("seeded", size=3)], where="data.train")
    assert caplog.messages == ["only 2", "only 3"]


def test_a_later_batch_that_cannot_be_read_names_the_source_and_the_batch(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from rl_llm.records import Problem, content_key\n"
        "def mine(*, seed: int):\n"
        "    assert seed == 1, 'one seed only'\n"
        "    yield Problem(key=content_key('p', '1'), prompt='p', answer='1')\n",
        encoding="utf-8",
    )
    use = SourceUse(use=f"{file}:mine", seed=1, endless=True)
    (stream,) = load_pool([use], where="data.train").streams
    with pytest.raises(DataError, match=r"^data\.train\.0 \(batch 1\): .*one seed only"):
        stream.batch(1)
