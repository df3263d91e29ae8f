"""The tables of `bench_kl.py`, and what they say in words. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from parts.kl.arms import CONTROL_NATS, MATCHED, SCHEDULES, TOLERANCE
from parts.kl.table import FIGURES, verdict
from parts.shared.docs import origin, table

Tree = Mapping[str, Any]


def markdown(tree: Tree) -> str:
    """Return everything that is known, as tables."""
    parts = []
    if "arms" in tree:
        parts += [origin(tree["arms_from"]), table(_arm_lines(tree)), table(_pair_lines(tree))]
        parts += ["\n".join(_verdict_lines(tree))]
    if "control" in tree:
        parts += [
            "#### Control",
            origin(tree["control_from"]),
            table(_control_lines(tree)),
            _control_verdict(tree),
        ]
    return "\n\n".join(part for part in parts if part)


def _arm_lines(tree: Tree) -> Iterator[str]:
    yield (
        "arm | seeds | mean beta | pool | trained, before to after | untrained, before to after | "
        "KL to ref, nats per token | on untrained | a run, s"
    )
    for arm, entry in tree["arms"].items():
        yield (
            f"`{arm}` | {entry['seeds']} | {entry['beta']:.4g} | {entry['pool']:.3f} | "
            f"{entry['trained_before']:.3f} to {_with_error(entry, 'trained')} | "
            f"{entry['untrained_before']:.3f} to {_with_error(entry, 'untrained')} | "
            f"{_with_error(entry, 'ref_nats')} | {_with_error(entry, 'untrained_ref_nats')} | "
            f"{entry['wall_s']:.0f}"
        )


def _pair_lines(tree: Tree) -> Iterator[str]:
    yield "pair | seeds | trained (95 %) | untrained (95 %) | KL to ref, nats per token (95 %)"
    for pair, entry in tree["summary"].items():
        seeds = entry[FIGURES[0]]["pairs"]
        cells = " | ".join(_interval(entry[name]) for name in FIGURES)
        yield f"{pair} | {seeds} | {cells}"


def _verdict_lines(tree: Tree) -> Iterator[str]:
    """Say of every controller that moves beta whether it beats the matched constant."""
    for pair, entry in tree["summary"].items():
        own, _, other = pair.partition(" vs ")
        if other == MATCHED and not own.startswith("constant"):
            matched = ", its time average" if own in SCHEDULES else ""
            beta, matched_beta = (tree["arms"][arm]["beta"] for arm in (own, other))
            yield (
                f"- Against `{MATCHED}`{matched}, `{own}` (mean beta {beta:.3g} against "
                f"{matched_beta:.3g}) is {verdict(entry['trained'])} on the trained task and "
                f"{verdict(entry['untrained'])} on the untrained one."
            )


def _control_lines(tree: Tree) -> Iterator[str]:
    percent = f"{TOLERANCE:.0%}".replace("%", " %")
    yield (
        "start | seed | beta at the start | settles at | start / settled | mean KL / target | "
        f"updates within {percent} | running means within {percent} | holds"
    )
    for row in tree["control"]:
        yield (
            f"`{row['arm']}` | {row['seed']} | {row['beta_start']:.3g} | "
            f"{row['beta_settled']:.3g} | {row['start_over_settled']:.3g} | "
            f"{row['mean_over_target']:.2f} | {row['near']:.0%} | {row['near_smoothed']:.0%} | "
            f"{'yes' if row['holds'] else 'no'}"
        )


def _control_verdict(tree: Tree) -> str:
    holding = sum(row["holds"] for row in tree["control"])
    least = min(row["updates"] for row in tree["control"])
    near = [row["near_smoothed"] for row in tree["control"]]
    percent = f"{TOLERANCE:.0%}".replace("%", " %")
    return (
        f"In {holding} of {len(tree['control'])} runs the mean KL of the last half ({least} "
        f"updates or more) is within {percent} of the target of {CONTROL_NATS} nats per token; of "
        f"its running means, {min(near):.0%} to {max(near):.0%} of a run are."
    )


def _with_error(entry: Mapping[str, Any], name: str) -> str:
    return f"{entry[name]:.3f} ± {entry[f'{name}_se']:.3f}"


def _interval(entry: Mapping[str, Any]) -> str:
    if entry["ci_low"] is None:
        return f"{entry['difference']:+.3f}"
    return f"{entry['difference']:+.3f} ({entry['ci_low']:+.3f} to {entry['ci_high']:+.3f})"
