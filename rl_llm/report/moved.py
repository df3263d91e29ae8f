"""Which problems' pass rates moved most between their first and their last visit, from the log of
draws.

N rows of the log, V visits, U problems. A visit is all rows of a problem in one step, as far as
they counted completions. Millions of rows are read in blocks, as columns.
"""

import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from rl_llm.records import Problem
from rl_llm.report.read import RunRecord

DRAWS_FILE = "draws.jsonl"
_MOST_SHOWN = 6
_BLOCK_BYTES = 1 << 25
_SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "key": pa.string(),
        "correct": pa.int64(),
        "counted": pa.int64(),
        "belief": pa.list_(pa.float64()),
    }
)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """`num_correct` of `num_counted` completions of a problem in a step, and the pass rate believed
    before them."""

    step: int
    num_correct: int
    num_counted: int
    belief: float


@dataclass(frozen=True, kw_only=True)
class Mover:
    """A problem at its first and at its last visit; `prompt` is empty where no text is known."""

    key: str
    level: str
    prompt: str
    first: Visit
    last: Visit
    num_visits: int


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The problems that rose and that fell most, of `num_revisited` that were drawn in two steps or
    more, of `num_problems` that were drawn at all."""

    risen: Sequence[Mover] = ()
    fallen: Sequence[Mover] = ()
    num_revisited: int = 0
    num_problems: int = 0


@dataclass(frozen=True, kw_only=True)
class _Visits:
    """All visits, those of a problem side by side and oldest first; `keys` (U) names what `ids_V`
    counts."""

    keys: pa.Array
    ids_V: np.ndarray
    steps_V: np.ndarray
    correct_V: np.ndarray
    counted_V: np.ndarray
    beliefs_V: np.ndarray

    def at(self, index: int) -> Visit:
        """Return one of the visits."""
        return Visit(
            step=int(self.steps_V[index]),
            num_correct=int(self.correct_V[index]),
            num_counted=int(self.counted_V[index]),
            belief=float(self.beliefs_V[index]),
        )


def read_moved(run_dir: Path, run: RunRecord, problems: Iterable[Problem] = ()) -> Moved:
    """Return what moved most; nothing where the run has no log of draws.

    Of problems that moved as far, those with more completions in both visits stand first, then
    those that were drawn first. Prompts are those of `problems`, else of the samples that were
    kept.
    """
    path = run_dir / DRAWS_FILE
    table = _read_columns(path) if path.is_file() else _SCHEMA.empty_table()
    if not len(table):
        return Moved()
    visits = _visits(table)
    firsts_U = np.flatnonzero(np.diff(visits.ids_V, prepend=-1))
    lasts_U = np.append(firsts_U[1:], len(visits.ids_V)) - 1
    rates_V = visits.correct_V / visits.counted_V
    change_U = rates_V[lasts_U] - rates_V[firsts_U]
    weight_U = visits.counted_V[firsts_U] + visits.counted_V[lasts_U]
    order = np.lexsort((-weight_U, -np.abs(change_U)))
    risen = order[change_U[order] > 0][:_MOST_SHOWN].tolist()
    fallen = order[change_U[order] < 0][:_MOST_SHOWN].tolist()
    keys = {u: visits.keys[int(visits.ids_V[firsts_U[u]])].as_py() for u in (*risen, *fallen)}
    levels = _levels(path, keys.values())
    prompts = _prompts(run, problems, set(keys.values()))
    movers = {
        u: Mover(
            key=key,
            level=levels.get(key, ""),
            prompt=prompts.get(key, ""),
            first=visits.at(firsts_U[u]),
            last=visits.at(lasts_U[u]),
            num_visits=int(lasts_U[u] - firsts_U[u] + 1),
        )
        for u, key in keys.items()
    }
    return Moved(
        risen=[movers[u] for u in risen],
        fallen=[movers[u] for u in fallen],
        num_revisited=int((lasts_U > firsts_U).sum()),
        num_problems=len(firsts_U),
    )


def _visits(table: pa.Table) -> _Visits:
    """Put the rows of a problem together, and those of one step into one."""
    encoded = table["key"].unify_dictionaries()
    ids_N = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    # Stable: the log is in the order of the steps, and so are the rows of each problem.
    order_N = np.argsort(ids_N, kind="stable")
    ids_N, steps_N = ids_N[order_N], table["step"].to_numpy()[order_N]
    starts_V = np.flatnonzero(
        (np.diff(ids_N, prepend=-1) != 0) | (np.diff(steps_N, prepend=-1) != 0)
    )
    return _Visits(
        keys=encoded.chunk(0).dictionary,
        ids_V=ids_N[starts_V],
        steps_V=steps_N[starts_V],
        correct_V=np.add.reduceat(table["correct"].to_numpy()[order_N], starts_V),
        counted_V=np.add.reduceat(table["counted"].to_numpy()[order_N], starts_V),
        beliefs_V=table["belief"].to_numpy()[order_N][starts_V],
    )


def _read_columns(path: Path) -> pa.Table:
    """Return the rows that counted completions, keys as numbers of a dictionary, a belief as its
    mean."""
    tables = []
    for block in _blocks(path):
        rows = _parse(block).drop_null()
        rows = rows.filter(
            (pc.field("counted") > 0) & (pc.list_value_length(pc.field("belief")) == 2)
        )
        rows = rows.combine_chunks()
        a, b = (pc.list_element(rows["belief"], index) for index in (0, 1))
        at = rows.schema.get_field_index("belief")
        rows = rows.set_column(at, "belief", pc.divide(a, pc.add(a, b)))
        at = rows.schema.get_field_index("key")
        tables.append(rows.set_column(at, "key", rows["key"].dictionary_encode()))
    return pa.concat_tables(tables) if tables else _SCHEMA.empty_table()


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the file in pieces that end with their last whole line."""
    with path.open("rb") as file:
        rest = b""
        while data := file.read(_BLOCK_BYTES):
            whole, newline, rest_of_data = data.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
            rest = rest_of_data if newline else rest + data


def _parse(block: bytes) -> pa.Table:
    """Return a block's rows; where one of them is damaged, all others."""
    options = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    try:
        return pj.read_json(io.BytesIO(block), parse_options=options)
    except pa.ArrowInvalid:
        return pa.Table.from_pylist(list(_whole_rows(block)), schema=_SCHEMA)


def _whole_rows(block: bytes) -> Iterator[dict[str, object]]:
    for line in block.splitlines():
        try:
            row = json.loads(line)
            pa.Table.from_pylist([row], schema=_SCHEMA)
        except (ValueError, pa.ArrowInvalid, pa.ArrowTypeError, AttributeError):
            continue
        yield row


def _levels(path: Path, keys: Collection[str]) -> dict[str, str]:
    """Return the level of each problem, as its first row says it."""
    waiting = {key.encode(): key for key in keys}
    found: dict[str, str] = {}
    with path.open("rb") as file:
        for line in file:
            if not waiting:
                break
            for part in [part for part in waiting if part in line]:
                for row in _whole_rows(line):
                    if row["key"] == waiting[part]:
                        level = row.get("level")
                        found[waiting.pop(part)] = "" if level is None else str(level)
    return found


def _prompts(
    run: RunRecord, problems: Iterable[Problem], keys: Collection[str]
) -> Mapping[str, str]:
    """Return what a person asked: of a chat, the last turn."""
    known = {sample.key: sample.prompt[-1][1] for sample in run.samples if sample.key in keys}
    for problem in problems if keys else ():
        if problem.key in keys:
            prompt = problem.prompt
            known[problem.key] = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return known
