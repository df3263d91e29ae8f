"""Problems from any table: a local file, or whatever the `datasets` library loads by name.

A row is one problem. One column holds the prompt (text, or a list of `{role, content}` turns), one
the answer, one perhaps the level; all others go to `meta`, where rewards may ask for them by name.
"""

import codecs
import csv
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_llm.errors import ConfigError, DataError, nearest
from rl_llm.problems import is_empty
from rl_llm.records import Level, Message, Problem, Prompt, content_key

_log = logging.getLogger(__name__)

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_NULL_CELLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]  # Of a .csv file.
_MOST_CELL_CHARS = 2**31 - 1  # As much as the reader of `datasets` takes.
_PASS_RATE = "pass_rate"


@dataclass(frozen=True)
class Row:
    """The columns of one row, and where they stand, for messages."""

    columns: Mapping[str, Any]
    place: str


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Which columns hold what, and how a prompt becomes a chat."""

    prompt: str
    answer: str
    level: str | None
    source: str
    system: str | None
    chat: bool


def jsonl(  # noqa: PLR0913  A source's options are a flat list in the recipe.
    *,
    path: str,
    split: str = "train",
    name: str | None = None,
    prompt: str = "prompt",
    answer: str = "answer",
    level: str | None = None,
    source: str | None = None,
    system: str | None = None,
    chat: bool = False,
) -> Iterator[Problem]:
    """Yield one problem a row, in the order of the table.

    `path` is a .jsonl, .json, .csv or .parquet file, a folder that holds `<split>.jsonl`, or a name
    or folder that `datasets.load_dataset(path, name, split=split)` takes. `prompt`, `answer` and
    `level` name columns; without `level` all problems have level 0, with a warning where there is a
    column of that name. `source` is the name under
    which the problems are counted: the last part of the path unless given. `chat` makes a user
    message of a plain prompt; `system` does too, and puts a system message first where the prompt
    does not begin with one.

    An answer that is no text becomes one: a whole number without fraction (7.0 is `7`), any other
    value as JSON. In a .csv file the prompt and the answer are what stands there, to the letter. A
    column `pass_rate` is a prior, a number from 0 to 1 or null. Raises `DataError` with the file
    and line for a row that cannot be read.
    """
    mapped = Mapped(
        prompt=prompt,
        answer=answer,
        level=level,
        source=source or Path(path).stem,
        system=system,
        chat=chat or system is not None,
    )
    rows = read_rows(path, split=split, name=name, texts=(prompt, answer))
    return _read_problems(rows, mapped)


def _read_problems(rows: Iterable[Row], mapped: Mapped) -> Iterator[Problem]:
    for number, row in enumerate(rows):
        if number == 0 and mapped.level is None and "level" in row.columns:
            _log.warning(
                "%s: there is a column 'level', which is not read, so all problems have level 0; "
                "to schedule by it, add level: level to the source",
                row.place,
            )
        yield read_problem(row, mapped)


def read_problem(row: Row, mapped: Mapped) -> Problem:
    """Make a problem of one row.

    Raises `DataError` with the row's place.
    """
    prompt = read_prompt(row, mapped)
    answer = read_answer(row, mapped.answer)
    used = {mapped.prompt, mapped.answer, mapped.level}
    if _PASS_RATE not in used:
        check_pass_rate(row)
    return Problem(
        key=content_key(prompt, answer),
        prompt=prompt,
        answer=answer,
        level=0 if mapped.level is None else read_level(row, mapped.level),
        source=mapped.source,
        meta={column: value for column, value in row.columns.items() if column not in used},
    )


def read_prompt(row: Row, mapped: Mapped) -> Prompt:
    """Return the prompt of a row as text, or as a chat that ends with the user's turn."""
    value = _column(row, mapped.prompt)
    if isinstance(value, str):
        _refuse_empty(value, row, mapped.prompt)
        if not mapped.chat:
            return value
        turns: list[Message] = [{"role": "user", "content": value}]
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        turns = [_turn(turn, row, mapped.prompt) for turn in value]
        if turns and turns[-1]["role"] == "assistant":
            raise DataError(
                f"{row.place}: the chat in column {mapped.prompt!r} ends with the assistant's "
                "turn, which is what the model is to write; cut it off"
            )
    else:
        raise DataError(
            f"{row.place}: column {mapped.prompt!r} holds {_shown(value)}; a prompt is text or a "
            "list of {role, content} turns"
        )
    _refuse_empty(tuple(turns), row, mapped.prompt)
    if mapped.system is not None and (not turns or turns[0]["role"] != "system"):
        turns = [{"role": "system", "content": mapped.system}, *turns]
    return tuple(turns)


def _refuse_empty(prompt: Prompt, row: Row, column: str) -> None:
    if is_empty(prompt):
        raise DataError(
            f"{row.place}: column {column!r} holds an empty prompt; write one, or remove the row"
        )


def read_answer(row: Row, column: str) -> str:
    """Return the answer of a row as text."""
    value = _column(
        row, column, way_out="; name the one that holds the answer, as `answer: COLUMN`"
    )
    if value is None:
        raise DataError(f"{row.place}: column {column!r}, the answer, is null; remove the row")
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def read_level(row: Row, column: str) -> Level:
    """Return the level of a row: a whole number, or a name."""
    value = _column(row, column)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise DataError(
        f"{row.place}: column {column!r} holds {_shown(value)}; a level is a whole number or a name"
    )


def check_pass_rate(row: Row) -> None:
    """Raise `DataError` for a row whose column `pass_rate`, which is a prior, holds no share."""
    value = row.columns.get(_PASS_RATE)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value <= 1):
        raise DataError(
            f"{row.place}: column {_PASS_RATE!r} holds {_shown(value)}; it says what is known of "
            "the problem before a run, as a number from 0 to 1 or null: divide percentages by 100, "
            "or give the column another name"
        )


def read_rows(
    path: str, *, split: str, name: str | None = None, texts: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a table, from a file, a folder or by name.

    `texts` are the columns that a .csv file, which has no types, holds as text; what looks like a
    number in the others is one. Raises `ConfigError` for a split or a name of a single file,
    `DataError` for a table that is not there.
    """
    file = Path(path).expanduser()
    if file.suffix in _SUFFIXES:
        if not file.is_file():
            raise DataError(f"there is no file {path!r} (looked from {Path.cwd()})")
        if split != "train":
            raise ConfigError(f"split={split!r}: {path} is one file without splits; leave it out")
        if name is not None:
            raise ConfigError(f"name={name!r}: {path} is one file without names; leave it out")
        if file.suffix == ".jsonl":
            return read_jsonl(file)
        if file.suffix == ".json":
            return read_json(file)
        if file.suffix == ".csv":
            return read_csv(file, texts)
        return load_rows("parquet", split="train", shown=path, data_files=str(file))
    if (file / f"{split}.jsonl").is_file():
        return read_jsonl(file / f"{split}.jsonl")
    return load_rows(str(file) if file.is_dir() else path, name=name, split=split, shown=path)


def read_jsonl(file: Path) -> Iterator[Row]:
    """Yield one row for each line that is not blank.

    Raises `DataError` with the line's number for one that is not UTF-8 or no JSON object.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{file} line {number}"
                yield Row(_parse(line, place=place), place)


def read_json(file: Path) -> Iterator[Row]:
    """Yield one row for each object of the list that a file holds, or one for each line.

    Raises `DataError` for a file that is not UTF-8 or neither of the two.
    """
    content = file.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()
    if not content.startswith(b"["):
        yield from read_jsonl(file)
        return
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}; check that the file is whole") from error
    for number, row in enumerate(rows, start=1):
        place = f"{file} row {number}"
        yield Row(_object(row, place=place), place)


def read_csv(file: Path, texts: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a .csv file. The columns `texts` are text to the letter, but for an empty
    cell, which is None in all columns.

    Raises `DataError` for a row of more cells than the header has, and for a column that stands
    there twice: the reader would put cells under other columns and say nothing.
    """
    header, num_rows = _check_csv(file)
    if num_rows == 0:
        return iter(())
    return load_rows(
        "csv",
        split="train",
        shown=str(file),
        data_files=str(file),
        converters=dict.fromkeys(texts, str),
        keep_default_na=False,
        na_values={column: [""] if column in texts else _NULL_CELLS for column in header},
    )


def _check_csv(file: Path) -> tuple[list[str], int]:
    """Return the header and the number of rows below it."""
    csv.field_size_limit(_MOST_CELL_CHARS)
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.reader(lines)
        header, num_rows = next((row for row in reader if row), []), 0
        if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), "")):
            raise DataError(
                f"{file}: the header {header[0]!r} is one cell; separate cells by commas, not by "
                f"{other!r}"
            )
        if twice := [column for column, count in Counter(header).items() if count > 1]:
            raise DataError(f"{file}: the header names {twice[0]!r} twice; rename one")
        for row in reader:
            num_rows += bool(row)
            if len(row) > len(header):
                raise DataError(
                    f"{file} line {reader.line_num}: {len(row)} cells under a header of "
                    f"{len(header)}; write a cell that holds a comma or a line break in double "
                    "quotes"
                )
    return header, num_rows


def load_rows(
    path: str,
    *,
    split: str,
    shown: str,
    name: str | None = None,
    data_files: str | None = None,
    **options: Any,
) -> Iterator[Row]:
    """Yield the rows of a data set that the `datasets` library loads, `options` being those of its
    reader."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        table = load_dataset(path, name, split=split, data_files=data_files, **options)
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip()
        way_out = (
            "check that the file is whole"
            if data_files
            else ("name a .jsonl, .json, .csv or .parquet file, or what load_dataset can reach")
        )
        raise DataError(
            f"datasets cannot load {shown!r} (split {split!r}): {type(error).__name__}: {reason}; "
            f"{way_out}"
        ) from error
    return (Row(row, f"{shown} row {number}") for number, row in enumerate(table, start=1))


def _parse(line: bytes, *, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start + 1} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON at column {error.colno}: {error.msg}; "
            "a line holds one JSON object"
        ) from error
    except ValueError as error:  # A number of thousands of digits.
        raise DataError(f"{place}: cannot be read: {error}") from error
    return _object(row, place=place)


def _object(row: Any, *, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {_shown(row)} is no JSON object; write {{column: value, ...}}")
    return row


def _column(row: Row, column: str, *, way_out: str = "") -> Any:
    if column not in row.columns:
        known = nearest(column, row.columns)
        raise DataError(f"{row.place}: there is no column {column!r}{known}{way_out}")
    return row.columns[column]


def _turn(turn: Any, row: Row, column: str) -> Message:
    match turn:
        case {"role": str(role), "content": str(content)}:
            return {"role": role, "content": content}
    raise DataError(
        f"{row.place}: column {column!r} holds the turn {_shown(turn)}; "
        "a turn is {role: text, content: text}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
