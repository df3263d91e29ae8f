"""What the quickstart teaches: held-out pass rates before and after, for several seeds.

Command:   python scripts/measure_quickstart.py [--seeds 0 1 2]
Hardware:  2 CPU cores; about 2 minutes a seed
Writes:    docs/benchmarks/quickstart.json, and the runs themselves under --runs

Exits with 1 when a seed gains less than 0.25 on average, or has no level that starts below 0.1 and
ends above 0.5. A seed whose run has ended is not run again: delete its folder to measure anew.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEAST_GAIN = 0.25
UNSOLVED, SOLVED = 0.1, 0.5
PACKAGES = ("rl-llm", "torch", "transformers", "peft", "accelerate", "numpy")

_LEVEL = "eval/pass_rate/level="

Row = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Measure every seed, write what is known after each, and judge all of them."""
    args = _parser().parse_args(arguments)
    results = []
    for seed in args.seeds:
        metrics = train(args.recipe, seed=seed, runs=args.runs)
        results.append({"seed": seed, **measure(metrics)})
        write(args.out, args.seeds, results)
        print(table_line(results[-1]), flush=True)
    found = [f"seed {result['seed']}: {fault}" for result in results for fault in faults(result)]
    for fault in found:
        print(f"failed: {fault}", file=sys.stderr)
    return 1 if found else 0


def train(recipe: Path, *, seed: int, runs: Path) -> list[Row]:
    """Return the rows of a seed's run, after running it unless it has ended already."""
    name = f"{recipe.stem}-seed-{seed}"
    folder = runs / name
    if not (folder / "adapter").is_dir():
        overrides = [f"run.seed={seed}", f"run.name={name}", f"run.output_dir={runs}"]
        command = [sys.executable, "-m", "rl_llm", "train", str(recipe), *overrides]
        subprocess.run(command, check=True, stdout=sys.stderr)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def measure(rows: Sequence[Row]) -> Row:
    """Return what a run gained, from its first evaluation to its last, and what that took.

    `training_s` is everything that the loop did: steps, evaluations and checkpoints.
    """
    evaluated = [row for row in rows if "eval/pass_rate" in row]
    before, after = evaluated[0], evaluated[-1]
    spent = ("step_s", "time/eval_s", "time/checkpoint_s")
    return {
        "before": before["eval/pass_rate"],
        "after": after["eval/pass_rate"],
        "gain": after["eval/pass_rate"] - before["eval/pass_rate"],
        "levels_before": _levels(before),
        "levels_after": _levels(after),
        "training_s": sum(row.get(key, 0.0) for row in rows for key in spent),
        "completions": rows[-1]["rollout/completions"],
    }


def faults(result: Mapping[str, Any]) -> list[str]:
    """Return in words where a run falls short of what the quickstart promises."""
    found = []
    if result["gain"] < LEAST_GAIN:
        found.append(f"the pass rate gained {result['gain']:.3f}, less than {LEAST_GAIN}")
    after = result["levels_after"]
    learnt = [
        level
        for level, rate in result["levels_before"].items()
        if rate < UNSOLVED and after[level] > SOLVED
    ]
    if not learnt:
        found.append(f"no level that starts below {UNSOLVED} ends above {SOLVED}")
    return found


def write(path: Path, seeds: Sequence[int], results: Sequence[Row]) -> None:
    """Write the measurements with the command, the versions and the machine."""
    named = " ".join(map(str, seeds))
    record = {
        "command": f"python scripts/measure_quickstart.py --seeds {named}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "one a core"),
        },
        "rows": list(results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table_line(result: Mapping[str, Any]) -> str:
    """Return one line on a seed: pass rates of all problems and of the levels that it learnt."""
    levels = "  ".join(
        f"{level}: {before:.2f} to {result['levels_after'][level]:.2f}"
        for level, before in result["levels_before"].items()
    )
    return (
        f"seed {result['seed']}  {result['before']:.3f} to {result['after']:.3f}  "
        f"gain {result['gain']:+.3f}  {result['training_s']:.0f} s  "
        f"{result['completions']} completions  levels {levels}"
    )


def _levels(row: Row) -> dict[str, float]:
    return {key.removeprefix(_LEVEL): rate for key, rate in row.items() if key.startswith(_LEVEL)}


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "measure-quickstart")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "quickstart.json"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
