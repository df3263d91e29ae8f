"""What is known of pass rates before a run: parquet files by content key, or a column of the data.

Legend: N problems of a pool, M problems of the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, PoolBelief
from rl_llm.errors import DataError, InputError
from rl_llm.records import Problem

COLUMN = "pass_rate"


@dataclass(frozen=True, kw_only=True, eq=False)
class Priors:
    """Pass rates of problems by content key, each key once.

    `counted_M` says how many completions each was measured with, infinite where nobody said.
    `origin` names the files, for messages.
    """

    keys: pa.StringArray
    pass_rates_M: Floats
    counted_M: Floats
    origin: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Completions of each problem of a pool (N) that a prior is worth: correct and wrong ones, both
    0 where nothing is known."""

    correct_N: NDArray[np.float32]
    wrong_N: NDArray[np.float32]
    origin: str

    @property
    def num_known(self) -> int:
        """How many problems have a prior."""
        return int(np.count_nonzero(self.correct_N + self.wrong_N))

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"priors: {self.num_known:,} of {len(self.correct_N):,} problems known {self.origin}"


def read_priors(paths: str | Sequence[str]) -> Priors:
    """Read parquet files with the columns `key` and `pass_rate`; where a key stands in several, the
    last file wins.

    What a pass rate is worth is `num_counted` (as `rl-llm data measure` and `rl-llm data beliefs`
    write), or unknown. Rows without a pass rate, or with `num_counted` 0, say nothing. Raises
    `DataError` for a file that cannot be read, for one without these columns, and for values that
    are no pass rates.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str) else paths)]
    keys, rates, counted = pa.array([], pa.string()), np.empty(0), np.empty(0)
    for file in files:
        new = _read(file)
        kept = pc.invert(pc.is_in(keys, value_set=new.keys)).to_numpy(zero_copy_only=False)
        keys = pa.concat_arrays([keys.filter(pa.array(kept)), new.keys])
        rates = np.concatenate([rates[kept], new.pass_rates_M])
        counted = np.concatenate([counted[kept], new.counted_M])
    origin = f"from {', '.join(file.name for file in files)}"
    return Priors(keys=keys, pass_rates_M=rates, counted_M=counted, origin=origin)


def evidence_for(
    problems: Sequence[Problem], priors: Priors | None, *, strength: float
) -> Evidence:
    """Return what a pool may believe before its first step.

    A prior is worth `strength` completions at most, and never more than it was measured with.
    Without `priors`, the data's own column `pass_rate` (`Problem.meta`) counts, a number from 0 to
    1 worth `strength`; raises `DataError` for another value. None there says nothing. With them,
    `summary` says where the column would have known more.
    """
    if priors is None:
        rates_N, counted_N = _column(problems), np.full(len(problems), np.inf)
        origin = f"from the column {COLUMN}"
    else:
        wanted = pa.array([problem.key for problem in problems], pa.string())
        found = pc.index_in(wanted, value_set=priors.keys).fill_null(-1).to_numpy()
        known_N = found >= 0
        rates_N, counted_N = np.full((2, len(problems)), np.nan)
        rates_N[known_N] = priors.pass_rates_M[found[known_N]]
        counted_N[known_N] = priors.counted_M[found[known_N]]
        origin = priors.origin + _passed_over(problems, known_N)
        if len(priors.keys) and not known_N.any():
            origin += (
                f", which knows {len(priors.keys):,} others; a key stands for the prompt and the "
                "answer as the recipe's data make them"
            )
    worth_N = np.where(np.isnan(rates_N), 0.0, np.fmin(counted_N, strength))
    correct_N = worth_N * np.nan_to_num(rates_N)
    return Evidence(
        correct_N=correct_N.astype(np.float32),
        wrong_N=(worth_N - correct_N).astype(np.float32),
        origin=origin,
    )


def write_beliefs(
    path: Path,
    *,
    problems: Sequence[Problem],
    belief: PoolBelief,
    visits_N: NDArray[np.unsignedinteger[Any]],
    step: int,
) -> int:
    """Write one row for each problem with evidence of its own, by content key, and return how many
    there are: the completions that this evidence is worth after `step`, and how often the problem
    was visited.

    What is believed of a problem because of its bucket is not in it: a run that reads it has
    buckets of its own. Raises `InputError` where no file can be written.
    """
    correct_N, wrong_N = (np.asarray(own, np.float64) for own in belief.own_counts(slice(None)))
    counted_N = correct_N + wrong_N
    known = np.flatnonzero(belief.has_evidence_N & (counted_N > 0))
    own_problems = [problems[position] for position in known.tolist()]
    table = pa.table(
        {
            "key": pa.array([problem.key for problem in own_problems], pa.string()),
            "source": pa.array([problem.source for problem in own_problems], pa.string()),
            "level": pa.array([str(problem.level) for problem in own_problems], pa.string()),
            "num_correct": correct_N[known],
            "num_counted": counted_N[known],
            COLUMN: correct_N[known] / counted_N[known],
            "visits": visits_N[known],
            "step": np.full(len(known), step, np.int64),
        }
    )
    try:
        pq.write_table(table, path, compression="zstd")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); name another file") from None
    return len(known)


def _passed_over(problems: Sequence[Problem], known_N: NDArray[np.bool_]) -> str:
    """Return the end of a summary: of how many more problems the column knows, which does not count
    beside files; empty if of none."""
    rated_N = np.array([problem.meta.get(COLUMN) is not None for problem in problems], np.bool_)
    if num_rated := int(np.count_nonzero(rated_N & ~known_N)):
        return (
            f"; the column {COLUMN} knows {num_rated:,} more, and does not count beside "
            "curriculum.priors.path"
        )
    return ""


def _column(problems: Sequence[Problem]) -> Floats:
    """Return the column `pass_rate` of a pool, NaN where there is none."""
    rates_N = np.full(len(problems), np.nan)
    for position, problem in enumerate(problems):
        value = problem.meta.get(COLUMN)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 <= value <= 1):
            raise DataError(
                f"problem {problem.key} of source {problem.source!r} has {COLUMN}={value!r}; that "
                "column is a prior, a number from 0 to 1: mend it, or rename it"
            )
        rates_N[position] = value
    return rates_N


def _read(file: Path) -> Priors:
    if not file.is_file():
        raise DataError(
            f"curriculum.priors.path: there is no file {str(file)!r} (looked from {Path.cwd()}); "
            "`rl-llm data measure RECIPE --out FILE` makes one"
        )
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"curriculum.priors.path: {file} cannot be read as parquet ({error}); name a file of "
            "`rl-llm data measure` or `rl-llm data beliefs`"
        ) from None
    if missing := {"key", COLUMN} - set(table.column_names):
        raise DataError(
            f"curriculum.priors.path: {file} has the columns {table.column_names} and lacks "
            f"{' and '.join(sorted(missing))}; `rl-llm data measure RECIPE` measures pass rates, "
            "and `rl-llm data beliefs RUN` writes those that a run believes"
        )
    rates = _numbers(file, table, COLUMN)
    counted = _counted(file, table)
    if (counted < 0).any():
        raise DataError(
            f"curriculum.priors.path: {file}: num_counted={np.nanmin(counted):g} is no number of "
            "completions; it must be 0 or more"
        )
    says_something = ~np.isnan(rates) & (counted > 0)
    keys = table.column("key").cast(pa.string()).combine_chunks().filter(pa.array(says_something))
    rates, counted = rates[says_something], counted[says_something]
    _check(file, keys, rates)
    return Priors(keys=keys, pass_rates_M=rates, counted_M=counted, origin=file.name)


def _counted(file: Path, table: pa.Table) -> Floats:
    """Return how many completions each row is worth."""
    if "num_counted" in table.column_names:
        return _numbers(file, table, "num_counted")
    return np.full(len(table), np.inf)


def _numbers(file: Path, table: pa.Table, name: str) -> Floats:
    """Return a column as float64, NaN where it is empty."""
    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"curriculum.priors.path: {file}: column {name!r} holds {kind}, not numbers; write it "
            "as float64"
        )
    return table.column(name).cast(pa.float64()).to_numpy()  # type: ignore[no-any-return]


def _check(file: Path, keys: pa.StringArray, rates: Floats) -> None:
    wrong = np.flatnonzero(~((rates >= 0) & (rates <= 1)))
    if wrong.size:
        raise DataError(
            f"curriculum.priors.path: {file}: {COLUMN}={rates[wrong[0]]:g} of key "
            f"{keys[int(wrong[0])].as_py()} is no share; it must be from 0 to 1"
        )
    if pc.count_distinct(keys, mode="all").as_py() < len(keys):
        raise DataError(
            f"curriculum.priors.path: {file}: a key stands in more than one row; keep one, or put "
            "the rows in files of their own, of which the last wins"
        )
