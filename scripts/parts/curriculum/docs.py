"""What `bench_curriculum.py` and `bench_scale.py` write: docs/benchmarks/curriculum.json, and the
tables of docs/benchmarks.md. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parts.shared import docs as shared_docs
from parts.shared.docs import BENCHMARKS, origin, provenance, table

__all__ = [
    "RESULT",
    "markdown",
    "merge_result",
    "provenance",
    "read_result",
    "scale_markdown",
    "write_between",
]

DOCUMENT = shared_docs.DOCUMENT
RESULT = BENCHMARKS / "curriculum.json"

# What is compared: its target, what the lower end of its interval has to exceed, and what is hoped
# for beyond the target.
GOALS = (
    ("posterior vs uniform", 1.5, 1.2, 2.0),
    ("posterior vs dynamic", 1.3, 1.0, 1.6),
    ("posterior-refill vs dynamic", 1.3, 1.0, 1.6),
    ("posterior vs pools", 1.0, None, None),
)
_GOAL_HEAD = "figure | target | lower end above | goal | found (95 %) | target met | goal met"
LEAST_SHARE = 0.8  # Of informative groups, and of the oracle's gain.

Tree = dict[str, Any]


def read_result() -> Tree:
    """Return what an earlier call wrote; empty before the first."""
    return shared_docs.read_result(RESULT)


def merge_result(part: Mapping[str, Any]) -> Tree:
    """Put `part` over what stands in the file, write it, and return the whole."""
    return shared_docs.merge_result(RESULT, part)


def write_between(name: str, text: str) -> None:
    """Replace what stands between the markers `name:begin` and `name:end` of the document."""
    shared_docs.write_between(DOCUMENT, name, text)


def markdown(tree: Mapping[str, Any]) -> str:
    """Return everything that is known, as tables."""
    parts = [origin(tree)]
    for task in tree["arms"]:
        parts += [f"#### Task `{task}`: target {tree['targets'][task]:.3f}"]
        parts += [table(_arm_lines(tree, task)), table(_pair_lines(tree, task))]
        if task == "pool" and (lines := list(_goal_lines(tree))):
            parts += [table([_GOAL_HEAD, *lines])]
    for title, lines in (
        ("#### The pool at the start", _pool_lines(tree)),
        ("#### The learning rate of `uniform`", _lr_lines(tree)),
        ("#### What the oracle sees", _oracle_lines(tree)),
    ):
        if found := list(lines):
            parts += [title, table(found)]
    return "\n\n".join(parts)


def scale_markdown(scale: Mapping[str, Any]) -> str:
    """Return the table of `bench_scale.py`."""
    sizes = scale["sizes"]
    names = list(next(iter(sizes.values())))
    lines = ["figure | " + " | ".join(f"{int(size):,} problems" for size in sizes) + " | target"]
    for name in names:
        cells = [f"{entry[name]:.4g}" for entry in sizes.values()]
        lines += [f"{name} | " + " | ".join(cells) + f" | {scale['targets'].get(name, '-')}"]
    return f"{scale['machine']}; `{scale['command']}`\n\n{table(lines)}"


def _arm_lines(tree: Mapping[str, Any], task: str) -> Iterator[str]:
    yield (
        "arm | seeds | rollouts to target | never reached | tokens, 1000 | informative | "
        "first, second half | final | level above | share of the oracle's gain | steps | a run, s"
    )
    for arm, entry in tree["arms"][task].items():
        gain = entry.get("oracle_gain")
        yield (
            f"`{arm}` | {entry['seeds']} | {entry['rollouts_to_target']:,.0f} | "
            f"{entry['censored']} | {entry['tokens_to_target'] / 1000:,.0f} | "
            f"{entry['informative_share']:.2f} | "
            f"{', '.join(f'{share:.2f}' for share in entry['informative_by_half'])} | "
            f"{entry['final']:.3f} ± {entry['final_se']:.3f} | "
            f"{entry['above']:.3f} | {_interval(gain, 'share') if gain else '-'} | "
            f"{entry['steps']:.0f} | {entry['wall_s']:.0f}"
        )


def _pair_lines(tree: Mapping[str, Any], task: str) -> Iterator[str]:
    yield (
        "pair | seeds | fewer rollouts by (95 %) | fewer tokens by (95 %) | "
        "fewer rollouts to 90 % of the target | never reached"
    )
    for pair, entry in tree["summary"][task].items():
        yield (
            f"{pair} | {entry['pairs']} | {_interval(entry, 'ratio')} | "
            f"{_interval(entry, 'tokens_ratio')} | {_interval(entry, 'easier_ratio')} | "
            f"{entry['censored']} vs {entry['censored_other']}"
        )


def _goal_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    for pair, least, above, goal in GOALS:
        if entry := tree["summary"]["pool"].get(pair):
            met = entry["ratio"] >= least and (entry["ci_low"] or 0.0) > (above or 0.0)
            yield (
                f"{pair} | {least} | {above or '-'} | {goal or '-'} | {_interval(entry, 'ratio')} "
                f"| {_word(met)} | {_word(entry['ratio'] >= goal) if goal else '-'}"
            )
    if own := tree["arms"]["pool"].get("posterior"):
        share = own["informative_share"]
        yield _share_line("informative share of posterior", share, f"{share:.2f}")
        if gain := own.get("oracle_gain"):
            found = _interval(gain, "share")
            yield _share_line("posterior's share of the oracle's gain", gain["share"], found)


def _share_line(name: str, share: float, found: str) -> str:
    return f"{name} | {LEAST_SHARE} | - | - | {found} | {_word(share >= LEAST_SHARE)} | -"


def _word(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _pool_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    pools = [r["pool"] for r in tree["rows"] if (r["task"], r["arm"]) == ("pool", "uniform")]
    if not pools:
        return
    counts = np.mean([pool["histogram"] for pool in pools], axis=0)
    yield "pass rate | problems"
    for low, high, count in zip(tree["bins"], tree["bins"][1:], counts, strict=False):
        yield f"{low:.2f} to {high:.2f} | {count:.1f}"
    yield f"groups of 8 that are mixed | {np.mean([p['informative'] for p in pools]):.2f} of all"


def _lr_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    if entries := tree.get("learning_rates"):
        yield "learning rate | final level | by seed"
        for lr, entry in entries.items():
            yield f"{lr} | {entry['mean']:.3f} | {', '.join(f'{v:.3f}' for v in entry['finals'])}"


def _oracle_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    if checks := tree.get("oracle_check"):
        yield "after completions | mean difference | mean absolute | of sampling alone | largest"
        for check in checks:
            yield (
                f"{check['completions']:,} | {check['mean_difference']:+.4f} | "
                f"{check['mean_absolute_difference']:.4f} | {check['of_sampling_alone']:.4f} | "
                f"{check['largest']:.3f}"
            )


def _interval(entry: Mapping[str, Any], key: str) -> str:
    prefix = key.removesuffix("ratio") if key.endswith("ratio") else ""
    low, high = entry[f"{prefix}ci_low"], entry[f"{prefix}ci_high"]
    return f"{entry[key]:.2f}" if low is None else f"{entry[key]:.2f} ({low:.2f}-{high:.2f})"
