"""What rollouts with vLLM cost, on two cores: generation, publication, a whole step, overlap.

python scripts/bench_rollout.py [--parts generation publish step overlap] [--repeats 3] [--fresh]

`generation`: tokens per second inside training against vLLM alone, which draws for the same prompts
as many tokens, in turns. `publish`: seconds until a new adapter generates, by each mechanism.
`step`: a whole step against TRL's GRPOTrainer, in pairs, as `bench_vs_trl.py` measures it and after
its proof of same work. `overlap`: the engine on one core and the trainer on the other, in turns
(`max_staleness` 0) and at once (1). SmolLM2 is made by `scripts/smollm2_from_pypi.py`. Rows are
written as they end, and a later call goes on behind them: docs/benchmarks/rollout.json, and its
tables in docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parts.rollout.table import markdown, summarise
from parts.shared.checkout import ROOT, environment, program
from parts.shared.docs import (
    BENCHMARKS,
    DOCUMENT,
    merge_result,
    provenance,
    read_result,
    write_between,
)
from rl_llm.errors import RlLlmError, RunError

RESULT = BENCHMARKS / "rollout.json"
SMOLLM2 = ROOT / ".cache" / "smollm2-135m-instruct"
CHAIN_SUM = "recipes/smollm2-135m/grpo-chain-sum.yaml"
PARTS = ("generation", "publish", "step", "overlap")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is measured: a part, its name in the table, and what its child gets."""

    part: str
    name: str
    task: Row = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, print the tables, and write them down; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="of every case (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rows of these parts")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    tree = read_result(RESULT)
    rows: list[Row] = tree.get("rows", [])
    if given.fresh:
        rows = [row for row in rows if row["part"] not in given.parts]
    try:
        with tempfile.TemporaryDirectory(prefix="bench_rollout-") as scratch:
            for case, repeat in [] if given.table else planned(given.parts, given.repeats):
                if not any(_is_of(row, case, repeat) for row in rows):
                    rows.append(measure(case, repeat, Path(scratch)))
                    _write(rows)
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_write(rows))
    return 0


def planned(parts: list[str], repeats: int) -> Iterator[tuple[Case, int]]:
    """Yield every case of the parts, all of them once before any of them again."""
    for repeat in range(repeats):
        for case in cases():
            if case.part in parts:
                yield case, repeat


def cases() -> Iterator[Case]:
    """Yield what is measured, with two cores for everything."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    both = [first, second]
    shared = {"engine_cores": both, "trainer_cores": both}
    apart = {"engine_cores": [first], "trainer_cores": [second]}
    smollm2 = {"recipe": CHAIN_SUM, "model": str(SMOLLM2)}
    long = {**smollm2, **shared, "settings": {"run.steps": 6}}
    yield Case(part="generation", name="smollm2", task=long)
    for mechanism in ("merged", "adapter"):
        settings = {"rollout.vllm.publish": mechanism}
        task = {**shared, "steps": 5, "settings": settings}
        yield Case(part="publish", name=f"smollm2/{mechanism}", task={**smollm2, **task})
    yield Case(part="step", name="smollm2", task=both_sides(both))
    for staleness in (0, 1):
        settings = {"rollout.max_staleness": staleness, "run.steps": 8}
        name = f"max_staleness={staleness}"
        yield Case(part="overlap", name=name, task={**smollm2, **apart, "settings": settings})


def both_sides(cores: list[int]) -> Row:
    """Return the task that both sides of a step get, as `parts.vs_trl.work.Task`."""
    return {"cores": cores, "warm_up": 1, "steps": 3, "threads": len(cores)}


def measure(case: Case, repeat: int, scratch: Path) -> Row:
    """Run a case once and return its row."""
    found = step(case, repeat, scratch) if case.part == "step" else child(case, repeat, scratch)
    row = {"part": case.part, "case": case.name, "repeat": repeat, **found}
    print(f"{case.part}/{case.name} {repeat}: {json.dumps(summarise([row]))}", flush=True)
    return row


def child(case: Case, repeat: int, scratch: Path) -> Row:
    """Measure with rl-llm's own child process."""
    settings = {
        "rollout.engine": "vllm",
        "run.seed": repeat,
        "run.output_dir": str(scratch),
        "tracking": ["jsonl"],
        **case.task.get("settings", {}),
    }
    task = {**case.task, "settings": settings}
    return _call(["parts.rollout.child", case.part], task, scratch)


def step(case: Case, repeat: int, scratch: Path) -> Row:
    """Measure a whole step of both sides, the one and then the other."""
    task = {key: value for key, value in case.task.items() if key != "cores"}
    task |= {"model": "smollm2", "groups": "as-drawn", "pair": repeat, "engine": "vllm"}
    task |= {"rows_per_micro_batch": 32, "scratch": str(scratch)}
    sides = {"trl": ["parts.vs_trl.peer"], "rl_llm": ["parts.vs_trl.own", "run"]}
    order = sides if repeat % 2 == 0 else dict(reversed(sides.items()))
    cores = case.task["cores"]
    return {side: _call(command, task, scratch, cores=cores) for side, command in order.items()}


def _call(command: list[str], task: Row, scratch: Path, cores: list[int] | None = None) -> Row:
    task_file, out_file = scratch / "task.json", scratch / "out.json"
    task_file.write_text(json.dumps(task), encoding="utf-8")
    part, *mode = command
    words = [*program(part), *mode, str(task_file), str(out_file)]
    if cores:
        words = ["taskset", "--cpu-list", ",".join(map(str, cores)), *words]
    done = subprocess.run(
        words,
        env=environment(OMP_WAIT_POLICY="PASSIVE"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{part} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    found: Row = json.loads(out_file.read_text(encoding="utf-8"))
    return found


def _is_of(row: Row, case: Case, repeat: int) -> bool:
    return (row["part"], row["case"], row["repeat"]) == (case.part, case.name, repeat)


def _write(rows: list[Row]) -> str:
    """Write rows, summary and tables, and return the tables."""
    about = provenance("python scripts/bench_rollout.py")
    tree = merge_result(RESULT, {**about, "summary": summarise(rows), "rows": rows})
    text = markdown(tree)
    write_between(DOCUMENT, "rollout", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
