"""Compare difficulty-aware scheduling with its peers: rollouts until a held-out pass rate.

python scripts/bench_curriculum.py --stage measure [--task pool|stream|all] [--arms A B] [--cores N]
python scripts/bench_curriculum.py --quick          # posterior against uniform, one seed
python scripts/bench_curriculum.py --table          # summarise the runs that there are

Stages: `lr` tries learning rates for `uniform`, `freeze` tries all arms on seeds of its own, and
`measure` makes the runs that count. Each run is a process on a core of its own and leaves one file
under --runs as it ends; a call makes the runs that are missing, seed by seed over all arms, so it
goes on where an earlier one was stopped. What is run is in `bench_curriculum_arms.py`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_curriculum_arms import (
    ALL_ARMS,
    ARMS_OF_TASK,
    BINS,
    BUDGET,
    EVALUATE_EVERY,
    FREEZE_SEEDS,
    LEARNING_RATE,
    LEARNING_RATES,
    MEASURED_SEEDS,
    QUICK_BUDGET,
    ROOT,
    TASKS,
    VARIANTS,
    Spec,
)
from bench_curriculum_docs import (
    RESULT,
    markdown,
    merge_result,
    provenance,
    read_result,
    write_between,
)
from bench_curriculum_table import (
    arm_figures,
    check_settings,
    learning_rates,
    rows_of,
    summarise,
    targets,
)

from rl_llm.errors import InputError, RlLlmError

CHILD = ROOT / "scripts" / "bench_curriculum_run.py"
STAGES = ("lr", "freeze", "measure")

RUNS = (
    ROOT / "docs" / "benchmarks" / "curriculum-runs"
)  # Committed, so that work goes on elsewhere.

Tree = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, summarise, and return 1 if any failed."""
    given = _parser().parse_args(arguments)
    if given.quick:
        given.stage = "quick"
    if given.runs is None:
        is_kept = not (given.quick or given.check_oracle)
        given.runs = RUNS if is_kept else ROOT / "runs" / "bench-curriculum"
    try:
        if given.check_oracle:
            return _check_oracle(given)
        specs = [] if given.table else list(planned(given))
        failed = run_all(_missing(specs, given), given)
        show(given)
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stage", choices=STAGES, default="measure")
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--arms", choices=list(ALL_ARMS), nargs="+", help="(default: the task's)")
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: the stage's)")
    parser.add_argument("--cores", type=int, help="runs at once, each on its core (default all)")
    parser.add_argument("--runs", type=Path, help=f"(default: {RUNS.relative_to(ROOT)})")
    parser.add_argument("--quick", action="store_true", help="one short pair; nothing is kept")
    parser.add_argument("--table", action="store_true", help="make no run")
    parser.add_argument("--check-oracle", action="store_true", help="compare it with sampling")
    parser.add_argument("--fresh", action="store_true", help="replace runs of other settings")
    return parser


def planned(given: argparse.Namespace) -> Iterator[Spec]:
    """Yield the runs of a call, seed by seed over all arms."""
    if given.stage == "quick":
        for arm in given.arms or ("uniform", "posterior"):
            yield Spec(stage="quick", task="pool", arm=arm, seed=0, budget=QUICK_BUDGET)
        return
    tasks = list(TASKS) if given.task == "all" else [given.task]
    seeds = given.seeds or (MEASURED_SEEDS if given.stage == "measure" else FREEZE_SEEDS)
    if given.stage == "lr":
        tasks = ["pool"]
    for task in tasks:
        arms = [*ARMS_OF_TASK[task], *(VARIANTS if given.stage == "freeze" else ())]
        arms = [arm for arm in arms if not given.arms or arm in given.arms]
        for seed in seeds:
            if given.stage == "lr":
                for lr in LEARNING_RATES:
                    yield Spec(stage="lr", task=task, arm="uniform", seed=seed, lr=lr)
                continue
            for arm in arms:
                yield Spec(stage=given.stage, task=task, arm=arm, seed=seed)


def _missing(specs: Sequence[Spec], given: argparse.Namespace) -> list[Spec]:
    """Return the runs that are not there; refuse to replace those of other settings unasked."""
    missing, stale = [], []
    for spec in specs:
        file = spec.file(given.runs)
        if given.stage == "quick" or not file.is_file():
            missing.append(spec)
        elif _read(file)["settings"] != spec.settings:
            stale.append(spec)
    if stale and not given.fresh:
        raise InputError(
            f"{given.runs} holds {len(stale)} runs of other settings, the first "
            f"{stale[0].file(given.runs)}; add --fresh to replace them, or name another --runs"
        )
    wanted = {id(spec) for spec in (*missing, *stale)}
    return [spec for spec in specs if id(spec) in wanted]


def run_all(specs: Sequence[Spec], given: argparse.Namespace) -> list[Spec]:
    """Run each in a process of its own, one on every core at a time; return those that failed."""
    waiting, failed = list(specs), []
    free = sorted(os.sched_getaffinity(0))[: given.cores]
    running: dict[int, tuple[Spec, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            while free and waiting:
                core, spec = free.pop(0), waiting.pop(0)
                running[core] = (spec, _start("run", spec, spec.file(given.runs), core))
            time.sleep(0.2)
            for core, (spec, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[core]
                free.append(core)
                ended = process.returncode == 0
                failed += [] if ended else [spec]
                _say(spec, given, ended=ended, left=len(waiting) + len(running))
    finally:
        for _, process in running.values():
            process.terminate()
            process.wait()
    return failed


def _start(mode: str, spec: Spec, out: Path, core: int) -> "subprocess.Popen[bytes]":
    """Start a child that writes `out` when it has ended well, and its log beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(CHILD), mode, json.dumps(asdict(spec)), str(out)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--core", str(core)],
            env=_environment(),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _environment() -> Mapping[str, str]:
    """Return an environment of one thread, in which this checkout's code is what is imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": path,
    }


def _say(spec: Spec, given: argparse.Namespace, *, ended: bool, left: int) -> None:
    """Print one line on a run that is over, or the end of its log."""
    name = f"{spec.stage}/{spec.task}/{spec.name}"
    if not ended:
        log = spec.file(given.runs).with_suffix(".log").read_text(encoding="utf-8")
        print(f"{name} failed:\n{log[-2000:]}", file=sys.stderr, flush=True)
        return
    run = _read(spec.file(given.runs))
    rates = run["curve"]["pass_rate"]
    print(
        f"{name}: {rates[0]:.3f} to {rates[-1]:.3f} in {run['steps']} steps, "
        f"{run['wall_s']:.0f} s; {left} to go",
        flush=True,
    )


def _check_oracle(given: argparse.Namespace) -> int:
    """Run the check, and put what it found into the result file."""
    spec = Spec(stage="oracle", task="pool", arm="uniform", seed=FREEZE_SEEDS[0])
    out = spec.file(given.runs)
    process = _start("check-oracle", spec, out, min(os.sched_getaffinity(0)))
    if process.wait():
        print(out.with_suffix(".log").read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        return 1
    checks = _read(out)["checks"]
    print(json.dumps(checks, indent=1))
    merge_result({"oracle_check": checks})
    return 0


def show(given: argparse.Namespace) -> None:
    """Print the tables of a stage; those of `measure` go into the result file and the document."""
    runs = [_read(file) for file in sorted((given.runs / given.stage).glob("*/*.json"))]
    check_settings(runs)
    if given.stage == "lr":
        found = learning_rates(runs)
        print(json.dumps(found, indent=1))
        merge_result({"learning_rates": found})
        return
    tree = read_result() if given.stage == "measure" else {}
    if runs:
        try:
            tree |= summary_of(runs) | provenance(_command(given))
        except InputError as error:
            if given.stage != "quick":
                raise
            print(f"a run this short tells too little: {error}")
            return
    if "rows" not in tree:
        raise InputError(f"no runs of stage {given.stage} under {given.runs}; make some first")
    if given.stage == "measure":
        from bench_curriculum_plots import draw  # Matplotlib takes a second to import.

        tree = merge_result(tree)
        pictures = [f"![{file.stem}](benchmarks/{file.name})" for file in draw(tree, RESULT.parent)]
        write_between("curriculum", "\n\n".join([markdown(tree), *pictures]))
    print(markdown(tree))


def summary_of(runs: Sequence[Mapping[str, Any]]) -> Tree:
    """Return everything that follows from the runs of one stage."""
    order = {arm: place for place, arm in enumerate(ALL_ARMS)}
    ordered = sorted(runs, key=lambda run: (run["task"], order[run["arm"]], run["seed"]))
    levels = targets(ordered)
    rows = rows_of(ordered, levels)
    return {
        "settings": {"evaluate_every": EVALUATE_EVERY, "budget": BUDGET, "lr": LEARNING_RATE},
        "bins": BINS,
        "targets": levels,
        "arms": arm_figures(rows),
        "summary": summarise(rows),
        "rows": rows,
    }


def _command(given: argparse.Namespace) -> str:
    return f"python scripts/bench_curriculum.py --stage {given.stage}"


def _read(file: Path) -> Tree:
    tree: Tree = json.loads(file.read_text(encoding="utf-8"))
    return tree


if __name__ == "__main__":
    raise SystemExit(main())
