"""What SmolLM2-135M-Instruct learns of sums on two cores, with vLLM: the held-out curve.

python scripts/measure_chain_sum.py [--seeds 0] [--cores 2] [--table]

Trains recipes/smollm2-135m/grpo-chain-sum.yaml, at most 45 minutes a seed, pinned to its cores.
SmolLM2 is made by `scripts/smollm2_from_pypi.py`. Writes docs/benchmarks/chain-sum.json with every
evaluation, the curve beside it, and the section of docs/benchmarks.md. Exits with 1 when a seed
gains less than 0.15 in the held-out pass rate, or takes longer. A run that was stopped goes on
where it was.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure_quickstart import measure
from parts.shared.checkout import ROOT
from parts.shared.docs import (
    BENCHMARKS,
    DOCUMENT,
    merge_result,
    origin,
    provenance,
    read_result,
    table,
    write_between,
)
from parts.shared.pictures import links, mark_target
from rl_llm.report.canvas import BLUE, GREY, PALETTE, canvas, legend_above, percent_axis
from rl_llm.trainer.metrics import read_rows

RECIPE = ROOT / "recipes" / "smollm2-135m" / "grpo-chain-sum.yaml"
RESULT = BENCHMARKS / "chain-sum.json"
CURVE = BENCHMARKS / "chain-sum-curve.png"
LEAST_GAIN, MOST_S = 0.15, 45 * 60

Row = dict[str, Any]


def main() -> int:
    """Train every seed, write what is known after each, and judge all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cores", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "measure-chain-sum")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    rows: list[Row] = read_result(RESULT).get("rows", [])
    for seed in [] if given.table else given.seeds:
        rows = [row for row in rows if row["seed"] != seed]
        rows.append({"seed": seed, **summary(train(seed, given.runs, cores=given.cores))})
        write(rows)
    print(write(rows))
    found = [f"seed {row['seed']}: {fault}" for row in rows for fault in faults(row)]
    for fault in found:
        print(f"missed: {fault}", file=sys.stderr)
    return 1 if found else 0


def train(seed: int, runs: Path, *, cores: int) -> list[Row]:
    """Return the rows of a seed's run, after running it to its end unless it has come there."""
    folder = runs / f"seed-{seed}"
    if not (folder / "adapter").is_dir():
        pinned = sorted(os.sched_getaffinity(0))[:cores]
        names = ",".join(map(str, pinned))
        overrides = [f"run.seed={seed}", f"run.name={folder.name}", f"run.output_dir={runs}"]
        command = ["taskset", "--cpu-list", names, sys.executable, "-m", "rl_llm", "train"]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(cores),
            "VLLM_CPU_OMP_THREADS_BIND": names,
        }
        subprocess.run([*command, str(RECIPE), *overrides], env=environment, check=True)
    return read_rows(folder / "metrics.jsonl")


def summary(rows: Sequence[Row]) -> Row:
    """Return what a run gained, what that took, and its curve."""
    spent = ("step_s", "time/eval_s", "time/checkpoint_s")
    seconds, curve = 0.0, []
    for row in rows:
        seconds += sum(row.get(key) or 0.0 for key in spent)
        if "eval/pass_rate" in row:
            levels = {k.rpartition("=")[2]: v for k, v in row.items() if "pass_rate/level=" in k}
            curve.append(
                {
                    "step": row["step"],
                    "minutes": round(seconds / 60, 2),
                    "completions": row.get("rollout/completions", 0),
                    "pass_rate": row["eval/pass_rate"],
                    "se": row["eval/pass_rate_se"],
                    "levels": levels,
                }
            )
    stages = ("generate", "score", "update", "publish")
    shares = {
        f"{stage}_share": round(_sum(rows, f"time/{stage}_s") / max(seconds, 1e-9), 3)
        for stage in stages
    }
    speed = _sum(rows, "rollout/tokens_per_s") / max(len(rows) - 1, 1)
    return {**measure(rows), **shares, "tokens_per_s": round(speed, 1), "curve": curve}


def _sum(rows: Sequence[Row], key: str) -> float:
    return float(sum(row.get(key) or 0.0 for row in rows))


def faults(row: Mapping[str, Any]) -> list[str]:
    """Return in words where a run falls short of its targets."""
    found = []
    if row["gain"] < LEAST_GAIN:
        found.append(f"the pass rate gained {row['gain']:.3f}, less than {LEAST_GAIN}")
    if row["training_s"] > MOST_S:
        found.append(f"it took {row['training_s'] / 60:.0f} minutes, more than {MOST_S // 60}")
    return found


def write(rows: Sequence[Row]) -> str:
    """Write rows, curve and section, and return the section."""
    tree = merge_result(RESULT, {**provenance("python scripts/measure_chain_sum.py"), "rows": rows})
    draw(rows, CURVE)
    text = "\n\n".join([origin(tree), markdown(rows), *links([CURVE])])
    write_between(DOCUMENT, "chain-sum", text)
    return text


def markdown(rows: Sequence[Row]) -> str:
    """Return a table with a line for each seed."""
    lines = [
        "seed | before | after | gain | minutes | completions | tokens/s | generating | learning"
    ]
    lines += [
        f"{row['seed']} | {row['before']:.3f} | {row['after']:.3f} | {row['gain']:+.3f} | "
        f"{row['training_s'] / 60:.0f} | {row['completions']:,} | {row['tokens_per_s']:.0f} | "
        f"{row['generate_share']:.0%} | {row['update_share']:.0%}"
        for row in rows
    ]
    return table(lines)


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the held-out pass rate over minutes, of all problems and of each level."""
    with canvas(file.stem, size=(6.4, 3.2)) as drawn:
        panel = drawn.panels[0]
        for row in rows:
            curve = row["curve"]
            minutes = [point["minutes"] for point in curve]
            for colour, level in zip(PALETTE[1:], curve[0]["levels"], strict=False):
                rates = [point["levels"][level] for point in curve]
                panel.plot(minutes, rates, color=colour, lw=1, label=f"{int(level) + 2} terms")
            rates = [point["pass_rate"] for point in curve]
            panel.plot(minutes, rates, color=BLUE, lw=2.4, label="all")
            low, high = ([p["pass_rate"] + s * p["se"] for p in curve] for s in (-1, 1))
            panel.fill_between(minutes, low, high, color=GREY, alpha=0.2, lw=0)
        mark_target(panel, rows[0]["before"] + LEAST_GAIN)
        panel.set_xlabel("minutes")
        percent_axis(panel, "held-out pass rate", full=True)
        legend_above(panel)
        drawn.figure.savefig(file, facecolor="white", dpi=130)


if __name__ == "__main__":
    sys.exit(main())
