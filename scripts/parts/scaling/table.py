"""The tables of `bench_scaling.py`, and its proof that all arms do the same work."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from parts.shared.docs import table
from rl_llm.errors import RunError

ALONE = "1 process, 1 core"
# How far the first steps of two arms may be apart. A draw at the edge between two tokens may fall
# to either side, by the rounding of the rows that share its batch, and a completion end otherwise.
TOLERANCES = {"tokens": 0.02, "trained_tokens": 0.0, "pass_rate": 0.0, "grad_norm": 1e-3}
# What `parts/scaling/host.py` measures: by name, what it is, and its unit.
HOST_PARTS = {
    "send_us": ("packing a scored completion for the other processes", "us"),
    "sent_bytes": ("its size on the way", "bytes"),
    "receive_us": ("unpacking it, on every process", "us"),
    "rows_us": ("a group's share of metrics, draws and samples, on rank 0", "us"),
    "score_us": ("scoring a completion: a number, and its length", "us"),
    "learn_us": ("a completion's share of advantages and of balancing, on every process", "us"),
    "pack_us": ("a completion's share of packing into micro-batches", "us"),
    "write_mb_per_s": ("writing a checkpoint, flushed to the disk", "MB/s"),
}
Row = Mapping[str, Any]


def check_same_work(rows: Iterable[Row]) -> None:
    """Raise `RunError` where the first step of two arms of a repeat is not the same: later ones
    differ in the rounding of what was learnt."""
    firsts: dict[tuple[Any, ...], Row] = {}
    for row in (row for row in rows if row["part"] == "processes"):
        first = row["first"]
        other = firsts.setdefault((row["work"], row["repeat"]), first)
        if not all(
            math.isclose(first[name], other[name], rel_tol=tolerance)
            for name, tolerance in TOLERANCES.items()
        ):
            raise RunError(
                f"{row['work']}, repeat {row['repeat']}: the first step of {row['arm']!r} was "
                f"{first}, that of another arm {other}; they do not do the same work"
            )


def processes_markdown(rows: Iterable[Row]) -> str:
    """Return the arms of every work: seconds by stage, the speed-up to one core, and the share of
    a step in which a process waits in collectives, the mean over processes."""
    mine = [row for row in rows if row["part"] == "processes"]
    names = list(dict.fromkeys((row["work"], row["arm"]) for row in mine))
    lines = ["work | arm | step, s | generate | update | publish | speed-up | in collectives"]
    for work, arm in names:
        rows_of_arm = [r for r in mine if (r["work"], r["arm"]) == (work, arm)]
        figures, repeats = arm_figures(rows_of_arm), {r["repeat"] for r in rows_of_arm}
        alone = [
            r for r in mine if (r["work"], r["arm"]) == (work, ALONE) and r["repeat"] in repeats
        ]
        ratio = arm_figures(alone)["step_s"] / figures["step_s"] if alone else math.nan
        lines.append(
            f"{work} | {arm} | {figures['step_s']:.2f} | {figures['generate_s']:.2f} | "
            f"{figures['update_s']:.2f} | {figures['publish_s']:.2f} | {ratio:.2f} | "
            f"{figures['collective_share']:.1%}"
        )
    return table(lines) if mine else ""


def arm_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return medians over all measured steps of all repeats, of rank 0 unless it is a share."""
    steps = [step for row in rows for step in row["ranks"][0]]
    shares = [
        sum(rank[i]["collective_s"] / rank[i]["call_s"] for rank in row["ranks"])
        / len(row["ranks"])
        for row in rows
        for i in range(len(row["ranks"][0]))
    ]
    names = ("step_s", "generate_s", "update_s", "publish_s")
    return {name: median(step[name] for step in steps) for name in names} | {
        "collective_share": median(shares)
    }


def host_markdown(rows: Iterable[Row]) -> str:
    """Return what each part costs on a core."""
    found = host_figures(rows)
    if not found:
        return ""
    lines = ["on one core | costs"]
    lines += [f"{what} | {found[name]:,.3g} {unit}" for name, (what, unit) in HOST_PARTS.items()]
    return table(lines)


def host_figures(rows: Iterable[Row]) -> dict[str, float]:
    """Return the median over repeats of every part; empty where none was measured."""
    mine = [row for row in rows if row["part"] == "host"]
    return {name: median(row[name] for row in mine) for name in HOST_PARTS} if mine else {}
