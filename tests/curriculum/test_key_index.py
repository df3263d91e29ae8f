import pytest

from rl_llm.curriculum.key_index import KeyIndex
from rl_llm.errors import DataError
from rl_llm.records import Problem


def index_of(*keys):
    return KeyIndex([Problem(key=key, prompt="", answer="") for key in keys])


class Crowded(str):
    """A key whose hash is that of all the others."""

    def __hash__(self):
        return 7


KEYS = ("f" * 32, "0" * 32, "F" * 32, "0" * 31 + "1", "", "é", "any words", "\ud800")


def test_every_key_is_found_where_it_stands_whatever_it_is_made_of():
    index = index_of(*KEYS)
    assert index.find(KEYS[::-1]).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [index.get(key) for key in KEYS] == list(range(8))


def test_an_unknown_key_stands_nowhere():
    index = index_of(*KEYS)
    assert index.find(["1" * 32, KEYS[3], "\x00"]).tolist() == [-1, 3, -1]
    assert index.get("1" * 32) == -1
    assert index.find([]).tolist() == []


def test_an_index_of_one_key_answers_hashes_before_and_after_it():
    index = index_of("a")
    assert index.find([f"{number}" for number in range(50)]).tolist() == [-1] * 50


def test_keys_of_one_hash_are_told_apart():
    keys = [Crowded(letter) for letter in "dacb"]
    index = index_of(*keys, "other")
    assert index.find([*map(Crowded, "abcd"), "other"]).tolist() == [1, 3, 2, 0, 4]
    assert index.get(Crowded("e")) == -1 and index.find([Crowded("e")]).tolist() == [-1]


def test_a_key_that_stands_twice_is_refused_with_both_places():
    with pytest.raises(
        DataError, match="problems 1 and 3 of the training pool have the same key b"
    ):
        index_of("a", "b", "c", "b", "c")


def test_a_key_that_stands_twice_is_found_among_others_of_its_hash():
    with pytest.raises(
        DataError, match="problems 0 and 2 of the training pool have the same key a"
    ):
        index_of(Crowded("a"), Crowded("b"), Crowded("a"))
