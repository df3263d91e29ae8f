"""Two runs, or two evaluations, on the same held-out problems."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_llm.config import differences, with_defaults
from rl_llm.errors import ConfigError, InputError
from rl_llm.pass_rates import Bucket, Difference, ProblemResult, buckets, difference
from rl_llm.report.read import is_finite, read_evaluation, read_results, read_run

SHOWN_METRICS = (
    "step",
    "eval/pass_rate",
    "eval/completion_tokens_mean",
    "eval/truncated_share",
    "train/reward_mean",
    "kl/ref_nats_per_token",
    "entropy_nats_per_token",
    "rollout/completions",
    "rollout/tokens",
)
"""What is set side by side, of all metrics."""

_NAMES = ("run.name", "run.output_dir")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: `problems` are its results by key, `metrics` the last value of each, and
    `source` says where they are from."""

    source: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, float]
    problems: Mapping[str, ProblemResult]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences by source and level, all of it last; `settings` and `metrics` hold both values
    by key, None where one side has none."""

    a: Side
    b: Side
    by_bucket: tuple[tuple[Bucket, Difference], ...]
    settings: Mapping[str, tuple[str, str]]
    metrics: Mapping[str, tuple[float | None, float | None]]

    @property
    def num_common(self) -> int:
        """How many problems both sides have."""
        return self.by_bucket[-1][1].num_problems


def read_side(path: Path) -> Side:
    """Read a run's folder, of which the last evaluation counts, or a file that `rl-llm evaluate
    --out` has written.

    Raises `InputError` where there is neither, or no result of single problems.
    """
    if path.is_file():
        return _of_file(path)
    return _of_run(path)


def compare(a: Side, b: Side) -> Comparison:
    """Compare two sides on the problems that both have; raises `InputError` where there is none."""
    common = [result for key, result in a.problems.items() if key in b.problems]
    if not common:
        raise InputError(
            f"{a.source} ({len(a.problems)} problems) and {b.source} ({len(b.problems)}) have no "
            "held-out problem in common, so there is nothing to compare; measure both on the same "
            "by `rl-llm evaluate RUN --recipe RECIPE --out FILE.json`"
        )
    found = [
        (bucket, difference([(each, b.problems[each.key]) for each in bucket.results]))
        for bucket in buckets(common)
    ]
    keys = [*a.metrics, *(key for key in b.metrics if key not in a.metrics)]
    return Comparison(
        a=a,
        b=b,
        by_bucket=tuple(found),
        settings=settings_apart(a.recipe, b.recipe),
        metrics={key: (a.metrics.get(key), b.metrics.get(key)) for key in keys},
    )


def settings_apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the settings that differ, by their dotted paths, but for a run's name and place.

    A key that an older recipe lacks counts with its default, unless the schema refuses one of the
    two: then both are compared as they are written.
    """
    with suppress(ConfigError):
        a, b = with_defaults(a), with_defaults(b)
    return {path: both for path, both in differences(a, b).items() if path not in _NAMES}


def _of_run(run_dir: Path) -> Side:
    run = read_run(run_dir, with_samples=False)
    evaluated = run.series("eval/pass_rate").steps
    results = read_evaluation(run_dir, evaluated[-1]) if evaluated else ()
    if not results:
        why = "keeps no results of single problems" if evaluated else "has not evaluated yet"
        raise InputError(
            f"{run_dir} {why}; `rl-llm evaluate {run_dir} --out FILE.json` writes some that can be "
            "compared"
        )
    metrics = {key: value for row in run.rows for key, value in row.items() if is_finite(value)}
    return Side(
        source=f"{run_dir} after step {evaluated[-1]}",
        recipe=run.recipe,
        metrics=metrics,
        problems={result.key: result for result in results},
    )


def _of_file(file: Path) -> Side:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        recipe, rows = tree["recipe"], tree["problems"]
        metrics = {key: value for key, value in tree["metrics"].items() if is_finite(value)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{file} holds no evaluation ({type(error).__name__}: {error}); name a run's folder, "
            "or a file that `rl-llm evaluate RUN --out FILE.json` has written"
        ) from None
    return Side(
        source=str(file),
        recipe=recipe,
        metrics=metrics,
        problems={result.key: result for result in read_results(rows, file)},
    )
