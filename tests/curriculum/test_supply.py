"""Endless positions: what replaces what was drawn, and that a resume goes on the same."""

import json
import tracemalloc
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rl_llm.config import SourceUse
from rl_llm.curriculum import store
from rl_llm.curriculum.pool import PoolIndex
from rl_llm.curriculum.supply import Supply
from rl_llm.errors import CheckpointError, DataError
from rl_llm.problems import Pool, checked_streams, load_pool
from rl_llm.records import Problem, content_key

FAMILIES = {
    "arithmetic": {"levels": [2, 5], "size": 24, "split": "train"},
    "reasoning_gym": {"family": "chain_sum", "levels": [2, 5], "size": 24, "split": "train"},
}


def problem(prompt, *, level=1):
    return Problem(key=content_key(prompt, "a"), prompt=prompt, answer="a", level=level, source="s")


@dataclass
class Scripted:
    """A stream whose batches stand in a list, batch 0 first; later ones are empty. It counts how
    often each was asked for."""

    batches: list
    seed: int = 1
    place: str = "data.train.0"

    def __post_init__(self):
        self.asked = Counter()

    @property
    def keys(self):
        return {p.key for p in self.batch(0)}

    def batch(self, number, /):
        self.asked[number] += 1
        prompts = self.batches[number] if number < len(self.batches) else ""
        # "a" is of level 1 and "A" of level 2.
        return [problem(prompt, level=1 + prompt.isupper()) for prompt in prompts]


def supply_of(*batches, finite=""):
    stream = Scripted(list(batches))
    return Supply([*stream.batch(0), *map(problem, finite)], [stream]), stream


def standing(supply):
    return "".join(p.prompt for p in supply.problems)


def shipped(name, **options):
    use = SourceUse(use=name, endless=True, seed=3, **FAMILIES[name] | options)
    return load_pool([use], where="data.train")


def supply_from(pool):
    return Supply(pool.problems, pool.streams)


def resumed(supply, fresh, tmp_path):
    """Take a supply through a checkpoint on disk."""
    rest = store.save(tmp_path / "c.parquet", supply.row_names, supply.state_dict())
    rest = json.loads(json.dumps(rest))
    fresh.load_state_dict(store.load(tmp_path / "c.parquet", fresh.row_names, rest))
    return fresh


def test_a_drawn_slot_gets_the_next_problem_of_its_level_and_the_others_stay():
    supply, _ = supply_of("abAB", "cCdD", "eE")
    supply.replace([1, 2])
    assert standing(supply) == "acCB"
    supply.replace(np.array([1, 0]))
    assert standing(supply) == "edCB"


def test_a_finite_problem_is_never_replaced():
    supply, _ = supply_of("ab", "cd", finite="xy")
    supply.replace([0, 1, 2, 3])
    assert standing(supply) == "cdxy"


def test_a_problem_that_stands_anywhere_in_the_pool_is_passed_over():
    supply, _ = supply_of("ab", "xbac", finite="x")
    supply.replace([0])
    assert standing(supply) == "cbx"


def test_a_problem_that_was_replaced_may_come_back():
    supply, _ = supply_of("a", "b", "a")
    supply.replace([0])
    supply.replace([0])
    assert standing(supply) == "a"


def test_the_place_of_a_key_follows_what_stands_there():
    supply, _ = supply_of("ab", "cd", finite="x")
    key = {prompt: problem(prompt).key for prompt in "abcdx"}
    supply.replace([1])
    assert supply.position_of(key["c"]) == 1 and supply.position_of(key["x"]) == 2
    with pytest.raises(KeyError):
        supply.position_of(key["b"])
    assert supply.positions_of([key["x"], key["c"], key["a"]]).tolist() == [2, 1, 0]
    with pytest.raises(KeyError, match=key["b"]):
        supply.positions_of([key["a"], key["b"]])
    assert supply.positions_of([]).dtype == supply.first_positions_of([]).dtype == np.int64


def test_the_first_place_of_a_key_outlasts_its_replacement():
    supply, _ = supply_of("ab", "cd", finite="x")
    key = {prompt: problem(prompt).key for prompt in "abcdx"}
    supply.replace([1])
    assert supply.first_positions_of([key["x"], key["b"], key["c"]]).tolist() == [2, 1, 1]
    with pytest.raises(KeyError, match=key["d"]):
        supply.first_positions_of([key["a"], key["d"]])


def test_a_problem_that_came_back_elsewhere_has_its_old_first_place_and_its_new_one():
    supply, _ = supply_of("ab", "c", "a")
    key = problem("a").key
    supply.replace([0])
    supply.replace([1])
    assert standing(supply) == "ca"
    assert supply.position_of(key) == 1 and supply.first_positions_of([key]).tolist() == [0]


def test_a_level_that_brings_nothing_keeps_its_problems_and_waits_for_a_round_of_draws():
    # Level 2 is full: batch 1 is read in vain, then three draws pass before batch 2 is looked at.
    supply, stream = supply_of("abABC", "cCAB", "dABD")
    supply.replace([2, 3, 4])
    assert standing(supply) == "abABC"
    assert stream.asked[1] == 1 and stream.asked[2] == 0
    supply.replace([0])
    assert standing(supply) == "cbABC"
    supply.replace([3])
    assert standing(supply) == "cbADC"


def test_levels_that_stand_at_different_batches_keep_their_part_of_them():
    supply, stream = supply_of("aA", "bcBC", "deDE")
    for position in (0, 0, 0, 1, 0, 1):
        supply.replace([position])
    assert standing(supply) == "eC"
    # Level 1 reads batches 1 and 2; level 2 comes to batch 1 later, and neither reads one again.
    assert (stream.asked[1], stream.asked[2]) == (2, 1)


def test_levels_that_come_to_a_batch_one_after_the_other_share_it():
    supply, stream = supply_of("aA", "bB", "cC")
    for positions in ([0, 1], [1, 0]):
        supply.replace(positions)
    assert standing(supply) == "cC"
    assert (stream.asked[1], stream.asked[2]) == (1, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shipped_source_gives_fresh_problems_of_the_same_split_without_end(name):
    pool = shipped(name)
    held_out = load_pool(
        [SourceUse(use=name, seed=9, **FAMILIES[name] | {"split": "eval", "size": 300})],
        where="data.eval",
    )
    streams = checked_streams(pool, held_out, lambda p: 1, max_prompt_tokens=1)
    supply = Supply(pool.problems, streams)
    seen = {p.key for p in supply.problems}
    levels = [p.level for p in supply.problems]
    for _ in range(10):
        supply.replace(range(24))
        assert [p.level for p in supply.problems] == levels
        assert not {p.key for p in pool.problems} & {p.key for p in supply.problems}
        seen |= {p.key for p in supply.problems}
    # Level 2 of arithmetic holds 5670 training problems, of which 132 draws repeat a few.
    assert len(seen) > 250
    assert not seen & {p.key for p in held_out.problems}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_supply_holds_the_same_problems_and_goes_on_the_same(name, tmp_path):
    supply = supply_from(shipped(name))
    rng = np.random.default_rng(0)
    for _ in range(15):
        supply.replace(rng.choice(24, 5, replace=False))
    again = resumed(supply, supply_from(shipped(name)), tmp_path)
    assert list(again.problems) == list(supply.problems)
    assert [again.position_of(p.key) for p in supply.problems] == list(range(24))
    for _ in range(15):
        drawn = rng.choice(24, 5, replace=False)
        supply.replace(drawn)
        again.replace(drawn)
        assert list(again.problems) == list(supply.problems)


@pytest.mark.parametrize(
    ("batches", "drawn", "now", "next_now"),
    [
        (("ab", "cd", "ae"), (0, 1, 1), "ca", "ea"),
        (("ab", "ca", "ef"), (0, 1, 0), "ea", "fa"),
    ],
)
def test_a_resume_finds_a_problem_that_came_back_in_another_slot(
    batches, drawn, now, next_now, tmp_path
):
    supply, _ = supply_of(*batches)
    for position in drawn:
        supply.replace([position])
    assert standing(supply) == now
    again = resumed(supply, supply_of(*batches)[0], tmp_path)
    assert [again.position_of(problem(prompt).key) for prompt in now] == [0, 1]
    again.replace([0])
    assert standing(again) == next_now


def test_a_resume_remembers_that_a_level_is_waiting(tmp_path):
    batches = ("abcA", "B", "d")
    supply, _ = supply_of(*batches)
    supply.replace([0])  # Batch 1 brings nothing for level 1: two more draws pass in vain.
    again = resumed(supply, supply_of(*batches)[0], tmp_path)
    for each in (supply, again):
        each.replace([1, 2, 0])
        assert standing(each) == "dbcA"


def test_loading_takes_back_what_was_replaced_since(tmp_path):
    supply, _ = supply_of("ab", "cd", "ef")
    supply.replace([0])
    state = supply.state_dict()
    supply.replace([0, 1])
    supply.load_state_dict(state)
    assert standing(supply) == "cb"
    supply.replace([1])
    assert standing(supply) == "cd"


@pytest.mark.parametrize("later", ["xd", ""])
def test_a_source_that_gives_other_problems_at_the_resume_is_refused(later, tmp_path):
    supply, _ = supply_of("ab", "cd")
    supply.replace([0])
    with pytest.raises(CheckpointError, match=r"data\.train\.0 no longer gives the problems"):
        resumed(supply, supply_of("ab", later)[0], tmp_path)


def test_a_slot_is_named_by_its_bucket_and_seed_whatever_it_holds():
    supply, _ = supply_of("abA", "cdB", finite="x")
    names = ["s/level=1#0@1", "s/level=1#1@1", "s/level=2#0@1", problem("x").key]
    assert supply.row_names == names
    supply.replace([0, 2])
    assert supply.row_names == names


def test_two_streams_of_one_bucket_and_seed_name_their_slots_apart():
    first, second = Scripted(["ab", "c"]), Scripted(["de", "f"], place="data.train.1")
    supply = Supply([*first.batch(0), *second.batch(0)], [first, second])
    assert supply.row_names == [f"s/level=1#{n}@1" for n in range(4)]
    supply.replace([0, 3])
    assert standing(supply) == "cbdf"


def test_without_streams_rows_are_named_by_key_and_nothing_is_remembered():
    pool = [problem("a"), problem("b")]
    supply = Supply(pool)
    supply.replace([0, 1])
    assert supply.problems is pool and standing(supply) == "ab"
    assert not supply.is_endless
    assert supply.row_names == [problem("a").key, problem("b").key]
    assert supply.state_dict() == {"columns": {}, "rest": {}}


def test_a_finite_pool_costs_12_bytes_a_problem():
    pool = [problem(str(number)) for number in range(10_000)]
    tracemalloc.start()
    supply = Supply(pool)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert supply.position_of(pool[-1].key) == 9_999
    assert held / len(pool) == pytest.approx(12, abs=1)


def test_an_empty_pool_and_a_key_that_stands_twice_are_refused():
    with pytest.raises(DataError, match="the training pool is empty"):
        Supply([])
    with pytest.raises(DataError, match="problems 0 and 1 of the training pool have the same key"):
        Supply([problem("a"), problem("a")])


def test_the_buckets_of_a_stream_are_endless_in_the_index():
    pool = shipped("arithmetic")
    finite = [problem("x"), problem("y")]
    index = PoolIndex.of([*pool.problems, *finite], endless_keys=pool.endless_keys)
    assert index.bucket_names == ("arithmetic/level=2", "arithmetic/level=5", "s/level=1")
    assert index.endless_K.tolist() == [True, True, False]


def checked_supply(*batches, held_out):
    """Return a supply from batches, and of the held-out prompts none but in batch 0."""
    first = Scripted(list(batches))
    (stream,) = shipped("arithmetic").streams
    stream = replace(stream, keys=frozenset(first.keys), batch=first.batch)
    pool = Pool(problems=tuple(first.batch(0)), num_read=2, streams=(stream,))
    theirs = Pool(problems=tuple(map(problem, held_out)), num_read=1, where="data.eval")
    return Supply(pool.problems, checked_streams(pool, theirs, lambda p: 1, max_prompt_tokens=1))


def test_a_fresh_problem_that_is_held_out_is_passed_over_and_so_is_it_after_a_resume(tmp_path):
    def fresh():
        return checked_supply("ab", "cde", "dfdg", held_out="d")

    supply, seen = fresh(), []
    for drawn in (0, 1, 0):
        supply.replace([drawn])
        seen.append(standing(supply))
        supply = resumed(supply, fresh(), tmp_path)
    assert seen == ["cb", "ce", "fe"]
    supply.replace([1])
    assert standing(supply) == "fg"


def test_a_stream_that_brings_held_out_problems_alone_ends_with_an_error():
    supply = checked_supply("ab", *["cd"] * 40, held_out="cd")
    with pytest.raises(DataError, match=r"data\.train\.0: its batches 1 to 16 bring nothing"):
        supply.replace([0])
