"""Compare difficulty-aware scheduling with its peers: rollouts until a held-out pass rate.

python scripts/bench_curriculum.py --stage measure [--task pool|stream|all] [--arms A B] [--cores N]
python scripts/bench_curriculum.py --quick          # posterior against uniform, one seed
python scripts/bench_curriculum.py --table          # summarise the runs that there are

Stages: `lr` tries learning rates for `uniform`, `freeze` tries all arms on seeds of its own,
`measure` makes the runs that count, and `confirm` the main ones on seeds of no other run.
Each run is a process on a core of its own and leaves one file under --runs as it ends; a call makes
the runs that are missing, seed by seed over all arms, so it goes on where an earlier one was
stopped. What is run is in `parts/curriculum/arms.py`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from parts.curriculum.arms import (
    ARMS,
    ARMS_OF_TASK,
    BINS,
    BUDGET,
    CONFIRMED_ARMS,
    CONFIRMED_SEEDS,
    EVALUATE_EVERY,
    FREEZE_SEEDS,
    LEARNING_RATE,
    LEARNING_RATES,
    MEASURED_SEEDS,
    QUICK_BUDGET,
    ROOT,
    TASKS,
    Spec,
)
from parts.curriculum.docs import (
    RESULT,
    markdown,
    merge_result,
    provenance,
    read_result,
    write_between,
)
from parts.curriculum.table import (
    arm_figures,
    check_settings,
    learning_rates,
    rows_of,
    summarise,
    targets,
)
from parts.shared.runs import (
    add_run_options,
    exit_code,
    missing_runs,
    read_row,
    read_rows,
    run_all,
    start,
)
from rl_llm.errors import InputError

CHILD = "parts.curriculum.run"
STAGES = ("lr", "freeze", "measure", "confirm")
SEEDS = {"freeze": FREEZE_SEEDS, "measure": MEASURED_SEEDS, "confirm": CONFIRMED_SEEDS}

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
    return exit_code(lambda: _work(given))


def _work(given: argparse.Namespace) -> int:
    if given.check_oracle:
        return _check_oracle(given)
    specs = [] if given.table else list(planned(given))
    if given.stage != "quick":  # A quick pair is made again at every call.
        specs = missing_runs(specs, given.runs, fresh=given.fresh)
    failed = run_all(specs, child=CHILD, runs=given.runs, cores=given.cores, describe=_description)
    show(given)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stage", choices=STAGES, default="measure")
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--arms", choices=list(ARMS), nargs="+", help="(default: the task's)")
    parser.add_argument("--quick", action="store_true", help="one short pair; nothing is kept")
    parser.add_argument("--check-oracle", action="store_true", help="compare it with sampling")
    add_run_options(parser, runs=RUNS)
    return parser


def planned(given: argparse.Namespace) -> Iterator[Spec]:
    """Yield the runs of a call, seed by seed over all arms."""
    if given.stage == "quick":
        for arm in given.arms or ("uniform", "posterior"):
            yield Spec(stage="quick", task="pool", arm=arm, seed=0, budget=QUICK_BUDGET)
    elif given.stage == "lr":
        for seed, lr in product(given.seeds or FREEZE_SEEDS, LEARNING_RATES):
            yield Spec(stage="lr", task="pool", arm="uniform", seed=seed, lr=lr)
    else:
        yield from _comparison(given)


def _comparison(given: argparse.Namespace) -> Iterator[Spec]:
    arms_of_task: Mapping[str, Sequence[str]] = ARMS_OF_TASK
    if given.stage == "confirm":
        arms_of_task = {"pool": CONFIRMED_ARMS}
    for task, all_arms in arms_of_task.items():
        if given.task not in (task, "all"):
            continue
        arms = [arm for arm in all_arms if not given.arms or arm in given.arms]
        for seed, arm in product(given.seeds or SEEDS[given.stage], arms):
            yield Spec(stage=given.stage, task=task, arm=arm, seed=seed)


def _description(run: Tree) -> str:
    rates = run["curve"]["pass_rate"]
    return f"{rates[0]:.3f} to {rates[-1]:.3f} in {run['steps']} steps"


def _check_oracle(given: argparse.Namespace) -> int:
    """Run the check, and put what it found into the result file."""
    spec = Spec(stage="oracle", task="pool", arm="uniform", seed=FREEZE_SEEDS[0])
    out = spec.file(given.runs)
    process = start(CHILD, "check-oracle", spec, out, min(os.sched_getaffinity(0)))
    if process.wait():
        print(out.with_suffix(".log").read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        return 1
    checks = read_row(out)["checks"]
    print(json.dumps(checks, indent=1))
    merge_result({"oracle_check": checks})
    return 0


def show(given: argparse.Namespace) -> None:
    """Print the tables of a stage; those of `measure` and `confirm` go into the result file and the
    document."""
    runs = read_rows(given.runs / given.stage, "*/*.json")
    check_settings(runs)
    if given.stage == "lr":
        found = learning_rates(runs)
        print(json.dumps(found, indent=1))
        merge_result({"learning_rates": found})
        return
    is_measured = given.stage == "measure"
    tree = read_result() if is_measured else {}
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
    if given.stage == "confirm":
        merge_result({"confirmed": {key: tree[key] for key in ("targets", "arms", "summary")}})
        write_between("curriculum-confirmed", markdown(tree | {"rows": []}))
    if is_measured:
        from parts.curriculum.plots import draw  # Matplotlib takes a second to import.

        tree = merge_result(tree)
        pictures = [f"![{file.stem}](benchmarks/{file.name})" for file in draw(tree, RESULT.parent)]
        write_between("curriculum", "\n\n".join([markdown(tree), *pictures]))
    print(markdown(tree))


def summary_of(runs: Sequence[Mapping[str, Any]]) -> Tree:
    """Return everything that follows from the runs of one stage."""
    order = {arm: place for place, arm in enumerate(ARMS)}
    if gone := {run["arm"] for run in runs} - order.keys():
        raise InputError(f"there are runs of {', '.join(sorted(gone))}, which are not compared")
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


if __name__ == "__main__":
    raise SystemExit(main())
