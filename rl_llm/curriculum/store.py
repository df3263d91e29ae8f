"""The curriculum's state on disk: one row a problem in a parquet file, keyed by content key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rl_llm.curriculum.pool import StateDict
from rl_llm.errors import CheckpointError

_KEY = "key"


def save(path: Path, keys: Sequence[str], state: StateDict) -> dict[str, Any]:
    """Write the columns of a state beside the keys of its problems; return the rest, which the
    caller keeps as JSON."""
    columns = {_KEY: pa.array(keys, pa.string())}
    columns |= {name: pa.array(values) for name, values in state["columns"].items()}
    pq.write_table(pa.table(columns), path, use_dictionary=False, compression="zstd")
    return state["rest"]


def load(path: Path, keys: Sequence[str], rest: Mapping[str, Any]) -> StateDict:
    """Read a state for the pool with these keys: bit-exact for problems that were saved, zeros for
    new ones; rows of problems that are gone are left out.

    Raises `CheckpointError` for a file that is missing, damaged or of another kind.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            f"{path}: the curriculum's state cannot be read ({error}); resume from another "
            "checkpoint"
        ) from None
    if _KEY not in table.column_names:
        raise CheckpointError(
            f"{path}: no column {_KEY!r} among {table.column_names}; this is not a curriculum's "
            "state"
        )
    rows = _rows_of(table.column(_KEY), keys)
    columns = {
        name: _select(table.column(name).to_numpy(), rows)
        for name in table.column_names
        if name != _KEY
    }
    return {"columns": columns, "rest": dict(rest)}


def describe_changes(path: Path, keys: Sequence[str]) -> str | None:
    """Say how the pool with these keys differs from the one that was saved; None where it does
    not. Read `path` with `load` first, which refuses what cannot be read."""
    saved = set(pq.read_table(path, columns=[_KEY]).column(_KEY).to_pylist())
    num_gone, num_new = len(saved.difference(keys)), len(set(keys) - saved)
    if not num_gone and not num_new:
        return None
    return (
        f"the pool has changed since the checkpoint: {num_gone} problems are gone and {num_new} "
        "are new; what is known of the others stays, and of levels by their names"
    )


def _rows_of(saved_keys: pa.ChunkedArray, keys: Sequence[str]) -> NDArray[np.int64]:
    """Return the saved row of every key, -1 where there is none."""
    wanted = pa.array(keys, pa.string())
    if saved_keys.combine_chunks().equals(wanted):
        return np.arange(len(wanted))
    found = pc.index_in(wanted, value_set=saved_keys)
    rows: NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
    return rows


def _select(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    selected = np.zeros(len(rows), values.dtype)
    selected[rows >= 0] = values[rows[rows >= 0]]
    return selected
