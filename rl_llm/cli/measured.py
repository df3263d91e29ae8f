"""A measurement that survives interruptions: a part file a batch, and one file in the end."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rl_llm.errors import InputError
from rl_llm.trainer.storage import writing

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("level", pa.string()),
        ("num_correct", pa.int64()),
        ("num_counted", pa.int64()),
        ("pass_rate", pa.float64()),
        ("mean_tokens", pa.float64()),
    ]
)

_METADATA = b"rl_llm.measured"
_PARTIAL = ".partial"


class MeasuredFile:
    """The rows that were measured so far into one parquet file.

    Until the last one is there they lie in `FILE.parts/`, one part a batch, written aside and
    renamed, so that what can be read is whole. Every file carries `identity`, what was measured and
    how, in its metadata; rows of another identity never mix with these.
    """

    def __init__(self, file: Path, *, identity: Mapping[str, Any]) -> None:
        """Read what is there already.

        Raises `InputError` where that cannot be read, or was measured otherwise.
        """
        self._file = file
        self._parts = file.with_name(file.name + ".parts")
        self._identity = dict(identity)
        self._rows: dict[str, Row] = {}
        self._next_part = 0
        for part in sorted(self._parts.glob("*.parquet")):
            self._add(self._read(part))
            self._next_part = int(part.stem) + 1
        if file.exists():
            self._add(self._read(file))

    @property
    def rows(self) -> Mapping[str, Row]:
        """Everything measured so far, by key."""
        return self._rows

    def append(self, rows: Sequence[Row]) -> None:
        """Keep the rows of a batch; raises `StorageError` where they cannot be written."""
        with writing(self._parts):
            self._parts.mkdir(parents=True, exist_ok=True)
        self._write(self._parts / f"{self._next_part:06d}.parquet", rows)
        self._next_part += 1
        self._add(rows)

    def finish(self, keys: Sequence[str]) -> None:
        """Write the one file, the rows of `keys` first and in their order, and drop the parts."""
        first = dict.fromkeys(keys)
        rest = [row for key, row in self._rows.items() if key not in first]
        self._write(self._file, [*(self._rows[key] for key in first), *rest])
        shutil.rmtree(self._parts, ignore_errors=True)

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.setdefault(row["key"], row)

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        text = json.dumps(self._identity, sort_keys=True)
        schema = SCHEMA.with_metadata({_METADATA: text.encode()})
        aside = path.with_name(path.name + _PARTIAL)
        with writing(path):
            pq.write_table(pa.Table.from_pylist(list(rows), schema), aside, compression="zstd")
            aside.replace(path)

    def _read(self, path: Path) -> list[Row]:
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path} cannot be read ({error}); delete it, or give another --out"
            ) from None
        metadata = (table.schema.metadata or {}).get(_METADATA)
        if metadata is None:
            raise InputError(f"{path} was not written by `rl-llm data measure`; give another --out")
        self._refuse_another(path, json.loads(metadata))
        rows: list[Row] = table.to_pylist()
        return rows

    def _refuse_another(self, path: Path, there: Mapping[str, Any]) -> None:
        given = json.loads(json.dumps(self._identity))
        changes = [
            f"  {name}: {there.get(name)!r} there, {given.get(name)!r} now"
            for name in sorted(there.keys() | given.keys())
            if there.get(name) != given.get(name)
        ]
        if changes:
            raise InputError(
                f"{path} was measured otherwise:\n" + "\n".join(changes) + "\n"
                f"give another --out, or delete {self._file} and {self._parts} to start over"
            )
