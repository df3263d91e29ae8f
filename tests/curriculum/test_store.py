import numpy as np
import pytest

from rl_llm.curriculum import store
from rl_llm.errors import CheckpointError

KEYS = ["aa", "bb", "cc"]


@pytest.fixture
def state():
    return {
        "columns": {
            "rate": np.array([0.1, -0.0, np.nan], np.float32),
            "visits": np.array([0, 1, 65535], np.uint16),
            "drawn": np.array([True, False, True]),
        },
        "rest": {"epoch": 3, "buckets": {"s/level=1": [0.1, 0.2, 7]}},
    }


def test_the_same_pool_gets_every_bit_back(state, tmp_path):
    path = tmp_path / "curriculum.parquet"
    rest = store.save(path, KEYS, state)
    loaded = store.load(path, KEYS, rest)
    assert loaded["rest"] == state["rest"]
    assert set(loaded["columns"]) == {"rate", "visits", "drawn"}
    for name, column in state["columns"].items():
        assert loaded["columns"][name].dtype == column.dtype
        assert loaded["columns"][name].tobytes() == column.tobytes()


def test_rows_follow_their_keys_into_an_edited_pool(state, tmp_path):
    path = tmp_path / "curriculum.parquet"
    loaded = store.load(path, ["new", "cc", "aa"], store.save(path, KEYS, state))
    assert loaded["columns"]["visits"].tolist() == [0, 65535, 0]
    assert loaded["columns"]["drawn"].tolist() == [False, True, True]
    assert loaded["columns"]["rate"][0] == 0.0
    assert loaded["columns"]["rate"][2] == np.float32(0.1)


def test_a_missing_or_damaged_file_is_named(state, tmp_path):
    path = tmp_path / "curriculum.parquet"
    with pytest.raises(CheckpointError, match=r"curriculum\.parquet: .*cannot be read"):
        store.load(path, KEYS, {})
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(CheckpointError, match=r"curriculum\.parquet: .*cannot be read"):
        store.load(path, KEYS, {})


def test_a_pool_that_has_changed_is_told_and_the_same_one_in_another_order_is_not(state, tmp_path):
    path = tmp_path / "curriculum.parquet"
    store.save(path, KEYS, state)
    assert store.describe_changes(path, ["cc", "aa", "bb"]) is None
    told = store.describe_changes(path, ["new", "cc"])
    assert told is not None
    assert told.startswith("the pool has changed since the checkpoint: 2 problems are gone and 1 ")
