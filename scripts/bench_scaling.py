"""What a second process brings, what collectives cost, and what a step takes on N GPUs.

python scripts/bench_scaling.py [--parts processes host] [--repeats 3] [--fresh] [--table]

`processes`: the same steps on one process with one core and with two, and on two processes with a
core each, plain and under ZeRO-2 and ZeRO-3, in turns. Before anything counts, the first step of
all arms must have drawn the same tokens and found the same gradient norm. `host`: what a step costs
on CPUs by the number of completions, on GPUs too: passing them between processes, scoring,
arithmetic on rewards, packing, writing adapters. From these, `parts/scaling/model.py` works out a
step on 8, 64 and 512 GPUs. Rows are written as they end, and a later call goes on behind them:
docs/benchmarks/scaling.json, and tables in docs/benchmarks.md and docs/distributed.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.scaling.model import model_markdown
from parts.scaling.table import ALONE, check_same_work, host_markdown, processes_markdown
from parts.shared.checkout import ROOT, environment, program
from parts.shared.docs import (
    BENCHMARKS,
    DOCUMENT,
    merge_result,
    origin,
    provenance,
    read_result,
    write_between,
)
from rl_llm.errors import RlLlmError, RunError

RESULT = BENCHMARKS / "scaling.json"
DISTRIBUTED = ROOT / "docs" / "distributed.md"
PARTS = ("processes", "host")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to run a work: how many processes, on how many cores, under which launch file."""

    name: str
    num_processes: int
    num_cores: int
    file: str | None = None


ARMS = (
    Arm(name=ALONE, num_processes=1, num_cores=1),
    Arm(name="1 process, 2 cores", num_processes=1, num_cores=2),
    Arm(name="2 processes", num_processes=2, num_cores=2, file="cpu"),
    Arm(name="2 processes, ZeRO-2", num_processes=2, num_cores=2, file="zero2"),
    Arm(name="2 processes, ZeRO-3", num_processes=2, num_cores=2, file="zero3"),
)
WORKS: dict[str, Row] = {
    "quickstart": {"recipe": "recipes/quickstart.yaml", "warm_up": 2, "steps": 8, "settings": {}},
    "smollm2": {
        "recipe": "recipes/smollm2-135m/grpo-chain-sum.yaml",
        "warm_up": 1,
        "steps": 3,
        "settings": {"rollout.engine": "transformers", "curriculum.refill.max_rounds": 0},
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, print the tables, and write them down; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="of every arm (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rows of these parts")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    rows: list[Row] = read_result(RESULT).get("rows", [])
    if given.fresh:
        rows = [row for row in rows if row["part"] not in given.parts]
    try:
        with tempfile.TemporaryDirectory(prefix="bench_scaling-") as scratch:
            for row in [] if given.table else missing(given, rows, Path(scratch)):
                rows.append(row)
                _write(rows)
        check_same_work(rows)
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_write(rows))
    return 0


def missing(given: argparse.Namespace, rows: Sequence[Row], scratch: Path) -> Iterator[Row]:
    """Measure and yield what has no row yet: all arms once before any of them again."""
    for repeat in range(given.repeats):
        if "host" in given.parts and not _has(rows, part="host", repeat=repeat):
            yield {"part": "host", "repeat": repeat, **_host(scratch)}
        for work in given.works if "processes" in given.parts else []:
            for arm in ARMS:
                key = {"part": "processes", "work": work, "arm": arm.name, "repeat": repeat}
                if not _has(rows, **key):
                    yield key | processes(arm, WORKS[work], repeat, scratch)


def processes(arm: Arm, work: Row, repeat: int, scratch: Path) -> Row:
    """Take the steps of a work, and return the first of rank 0, and the measured ones of every
    rank."""
    threads = arm.num_cores // arm.num_processes
    settings = {
        **work["settings"],
        "run.seed": repeat,
        "run.output_dir": str(scratch),
        "tracking": ["jsonl"],
    }
    task = {**work, "settings": settings, "threads": threads}
    task_file, stem = scratch / "task.json", scratch / "out"
    task_file.write_text(json.dumps(task), encoding="utf-8")
    command = [*_launched(arm, "parts.scaling.child"), str(task_file), str(stem)]
    _run(command, cores=arm.num_cores, threads=threads)
    found = [json.loads(Path(f"{stem}-{r}.json").read_text()) for r in range(arm.num_processes)]
    steps = [each["steps"] for each in found]
    return {"first": steps[0][0], "ranks": [each[work["warm_up"] :] for each in steps]}


def _launched(arm: Arm, part: str) -> list[str]:
    if arm.file is None:
        return program(part)
    file = ROOT / "recipes" / "accelerate" / f"{arm.file}.yaml"
    return [
        *program("accelerate.commands.launch"),
        f"--config_file={file}",
        f"--num_processes={arm.num_processes}",
        "--num_machines=1",
        "--main_process_port=0",
        "--module",
        part,
    ]


def _host(scratch: Path) -> Row:
    out = scratch / "host.json"
    _run([*program("parts.scaling.host"), str(out)], cores=1, threads=1)
    found: Row = json.loads(out.read_text(encoding="utf-8"))
    return found


def _run(command: Sequence[str], *, cores: int, threads: int) -> None:
    """Run a program on the first cores that this one may use."""
    mine = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, mine)), *command],
        env=environment(
            OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="PASSIVE", DS_ACCELERATOR="cpu"
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _has(rows: Sequence[Row], **key: Any) -> bool:
    return any(all(row.get(name) == value for name, value in key.items()) for row in rows)


def _write(rows: list[Row]) -> str:
    """Write rows and tables, and return the tables."""
    tree = merge_result(RESULT, {**provenance("python scripts/bench_scaling.py"), "rows": rows})
    tables = {"scaling": processes_markdown(rows), "host": host_markdown(rows)}
    text = "\n\n".join([origin(tree), *filter(None, tables.values())])
    write_between(DOCUMENT, "scaling", text)
    modelled = model_markdown(rows)
    if modelled:
        write_between(DISTRIBUTED, "scaling-model", modelled)
    return f"{text}\n\n{modelled}"


if __name__ == "__main__":
    sys.exit(main())
