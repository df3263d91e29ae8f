"""From a run's folder to frozen records: the recipe, the metrics over steps, the sample
completions.

A run that is still going, or that never evaluated, is as welcome as a finished one: what was
written is read, and a last line that is cut off is left out and noted.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl_llm.config import parse_yaml
from rl_llm.errors import InputError
from rl_llm.pass_rates import ProblemResult, read_result
from rl_llm.records import level_order

RECIPE_FILE = "resolved.yaml"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
SAMPLES_FOLDER = "completions"

_LARGEST = sys.float_info.max


@dataclass(frozen=True, kw_only=True)
class Series:
    """One number over steps, only at the steps where it was written and is finite.

    A series without points is falsy.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        """Whether the series has a point."""
        return bool(self.steps)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return math.fsum(self.values)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion as it was written beside the metrics.

    `prompt` holds `(role, content)` pairs; a plain prompt is one pair with an empty role.
    `advantage` and `belief` (the mean pass rate believed before the step) are None for held-out
    problems, `advantage` also with a critic.
    """

    split: str
    step: int
    key: str
    source: str
    level: str
    prompt: tuple[tuple[str, str], ...]
    answer: str
    text: str
    token_count: int | None
    finish_reason: str
    total: float | None
    parts: tuple[tuple[str, float], ...]
    correct: bool
    error: str
    advantage: float | None
    belief: float | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run's folder says: `rows` are the lines of the metrics file, in its order."""

    name: str
    recipe: Mapping[str, Any]
    recipe_text: str
    rows: tuple[Mapping[str, Any], ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]

    def series(self, key: str) -> Series:
        """Return the metric `key` over steps; without points when no row has it."""
        points = [(row["step"], row[key]) for row in self.rows if is_finite(row.get(key))]
        return Series(
            steps=tuple(step for step, _ in points),
            values=tuple(float(value) for _, value in points),
        )

    def histograms(self, key: str) -> tuple[tuple[int, tuple[float, ...]], ...]:
        """Return `(step, counts)` for a metric that is a list of numbers."""
        found = [(row["step"], row[key]) for row in self.rows if isinstance(row.get(key), list)]
        return tuple(
            (step, tuple(float(count) for count in counts))
            for step, counts in found
            if counts and all(map(is_finite, counts)) and len(counts) == len(found[0][1])
        )

    def names_between(self, prefix: str, suffix: str = "") -> tuple[str, ...]:
        """Return X for every key `prefix + X + suffix`, numbers in their order and before words."""
        names = {
            key[len(prefix) : len(key) - len(suffix)]
            for row in self.rows
            for key in row
            if key.startswith(prefix) and key.endswith(suffix)
        }
        return tuple(sorted(names - {""}, key=level_order))

    def setting(self, path: str) -> Any:
        """Return the recipe's value at a dotted path, or None where there is none."""
        node: Any = self.recipe
        for part in path.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    @property
    def last_step(self) -> int:
        """The step of the newest row."""
        return max(int(row["step"]) for row in self.rows)


def read_run(run_dir: Path, *, with_samples: bool = True) -> RunRecord:
    """Read a run's folder, with or without its sample completions.

    Raises `InputError` when the folder, its resolved recipe or its metrics are missing, when a file
    is not what it should be (with the line), or when no row has been written yet.
    """
    _require_run(run_dir)
    run = read_started(run_dir)
    if not run.rows:
        raise InputError(
            f"{run_dir / METRICS_FILE} holds no complete row, so there is nothing to report; "
            "a run writes its first row behind its first evaluation or step; one that ended before "
            "it starts over by the same command"
        )
    if not with_samples:
        return run
    notes = [*run.notes]
    files = sorted((run_dir / SAMPLES_FOLDER).glob("step-*.jsonl"))
    samples = tuple(_read_sample(row) for file in files for row in _read_rows(file, notes))
    return replace(run, samples=samples, notes=tuple(notes))


def read_started(run_dir: Path) -> RunRecord:
    """Read the recipe and the metrics of a run that may have none yet; samples are left out.

    Raises `InputError` when a file is not what it should be (with the line).
    """
    text = _read_text(run_dir / RECIPE_FILE)
    recipe = _parse_recipe(text, run_dir / RECIPE_FILE)
    notes: list[str] = []
    metrics = run_dir / METRICS_FILE
    run = recipe.get("run")
    named = run.get("name") if isinstance(run, Mapping) else None
    return RunRecord(
        name=str(named or run_dir.resolve().name),
        recipe=recipe,
        recipe_text=text,
        rows=tuple(_read_rows(metrics, notes)) if metrics.is_file() else (),
        samples=(),
        notes=tuple(notes),
    )


def read_evaluation(run_dir: Path, step: int) -> tuple[ProblemResult, ...]:
    """Return the result of each held-out problem behind a step; none from a run that keeps none.

    Raises `InputError` when a line is not what it should be.
    """
    file = run_dir / EVALUATIONS_FILE
    rows = _read_rows(file, []) if file.is_file() else ()
    return read_results((row for row in rows if row["step"] == step), file)


def read_results(rows: Iterable[Mapping[str, Any]], file: Path) -> tuple[ProblemResult, ...]:
    """Return the results that the rows of a file hold; raises `InputError` for one that holds
    none."""
    try:
        return tuple(read_result(row) for row in rows)
    except InputError:  # The file cannot be read that far.
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} holds a row that is no problem's result ({type(error).__name__}: {error}); "
            "take the file from the run again, or evaluate anew"
        ) from None


def _require_run(run_dir: Path) -> None:
    if not run_dir.is_dir():
        raise InputError(
            f"there is no folder {str(run_dir)!r} (looked in {Path.cwd()}); "
            "give the folder of a run, as in runs/quickstart"
        )
    missing = [name for name in (RECIPE_FILE, METRICS_FILE) if not (run_dir / name).is_file()]
    if missing:
        raise InputError(
            f"{str(run_dir)!r} is no run's folder: {' and '.join(missing)} missing; "
            f"a run writes {RECIPE_FILE} when it starts and {METRICS_FILE} from its first row on"
        )


def _read_text(file: Path) -> str:
    """Read a file that may hold broken bytes; they become U+FFFD."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}; make it readable, or put it back from a copy"
        ) from None


def _parse_recipe(text: str, file: Path) -> Mapping[str, Any]:
    way_out = "; take it from the run again, or start the run anew"
    tree = parse_yaml(text, where=str(file), way_out=way_out)
    if not isinstance(tree, dict):
        raise InputError(
            f"{file} is a mapping of sections in a run's folder, here it is {type(tree).__name__}"
        )
    return tree


def _read_rows(file: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the file's rows; a last line that does not parse is noted, not an error."""
    lines = [
        (number, line)
        for number, line in enumerate(_read_text(file).split("\n"), 1)
        if line.strip()
    ]
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == lines[-1][0]:
                notes.append(f"the last line of {file.name} is cut off and left out")
                return
            raise InputError(
                f"{file}, line {number}: not valid JSON: {error}; remove or mend that line"
            ) from None
        if not isinstance(row, dict) or not _is_step(row.get("step")):
            raise InputError(
                f"{file}, line {number}: a row is a JSON object with a whole number `step`, "
                f"this is {line[:80]!r}; remove or mend that line"
            )
        yield row


def _read_sample(row: Mapping[str, Any]) -> Sample:
    parts = row.get("parts")
    return Sample(
        split=_text(row.get("split")),
        step=row["step"],
        key=_text(row.get("key")),
        source=_text(row.get("source")),
        level=_text(row.get("level")),
        prompt=_read_prompt(row.get("prompt")),
        answer=_text(row.get("answer")),
        text=_text(row.get("text")),
        token_count=_whole(row.get("token_count")),
        finish_reason=_text(row.get("finish_reason")),
        total=_number(row.get("total")),
        parts=tuple(
            (_text(name), float(value))
            for name, value in (parts.items() if isinstance(parts, Mapping) else ())
            if is_finite(value)
        ),
        correct=row.get("correct") is True,
        error=_text(row.get("error")),
        advantage=_number(row.get("advantage")),
        belief=_number(row.get("belief")),
    )


def _read_prompt(prompt: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(prompt, list):
        return (("", _text(prompt)),)
    turns = [turn if isinstance(turn, Mapping) else {"content": turn} for turn in prompt]
    return tuple((_text(turn.get("role")), _text(turn.get("content"))) for turn in turns)


def _text(value: Any) -> str:
    """Return the value as text that UTF-8 can hold: a lone surrogate becomes a question mark."""
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> float | None:
    return float(value) if is_finite(value) else None


def _whole(value: Any) -> int | None:
    return int(value) if is_finite(value) else None


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Say whether a value that was read is a number that can be drawn."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST  # A whole number may be larger than any other.
