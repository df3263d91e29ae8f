"""Compare controllers of the KL coefficient: accuracy, forgetting, and the KL that they end at.

python scripts/bench_kl.py --stage measure [--arms A B] [--cores N]
python scripts/bench_kl.py --stage control         # does `target` hold its target, from far off?
python scripts/bench_kl.py --table                 # summarise the runs that there are

`freeze` tries all arms on seeds of its own, `measure` makes the runs that count. Each run is a
process on a core of its own and leaves one file under --runs as it ends; a call makes the runs that
are missing, seed by seed over all arms, so it goes on where an earlier one was stopped. What is run
is in `parts/kl/arms.py`.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from parts.kl.arms import (
    ARMS,
    CONTROL_ARMS,
    CONTROL_SEEDS,
    FREEZE_SEEDS,
    MEASURED_SEEDS,
    STAGES,
    Spec,
    spec_of,
)
from parts.kl.docs import markdown
from parts.kl.table import arm_figures, check_settings, control_rows, rows_of, summarise
from parts.shared import docs as shared_docs
from parts.shared.docs import BENCHMARKS, merge_result, provenance, write_between
from parts.shared.pictures import hang, links
from parts.shared.runs import add_run_options, exit_code, missing_runs, read_rows, run_all
from rl_llm.errors import InputError

CHILD = "parts.kl.run"
RUNS = BENCHMARKS / "kl-runs"  # Committed, so that work goes on elsewhere.
RESULT = BENCHMARKS / "kl.json"
DOCUMENT = shared_docs.DOCUMENT

SEEDS = {"freeze": FREEZE_SEEDS, "measure": MEASURED_SEEDS, "control": CONTROL_SEEDS}

Tree = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, summarise, and return 1 if any failed."""
    given = _parser().parse_args(arguments)
    given.runs = given.runs or RUNS
    return exit_code(lambda: _work(given))


def _work(given: argparse.Namespace) -> int:
    failed: list[Spec] = []
    if not given.table:
        specs = missing_runs(list(planned(given)), given.runs, fresh=given.fresh)
        failed = run_all(
            specs, child=CHILD, runs=given.runs, cores=given.cores, describe=_description
        )
    show(given)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stage", choices=STAGES, default="measure")
    parser.add_argument("--arms", choices=[*ARMS, *CONTROL_ARMS], nargs="+", help="(default: all)")
    add_run_options(parser, runs=RUNS)
    return parser


def planned(given: argparse.Namespace) -> Iterator[Spec]:
    """Yield the runs of a call, seed by seed over all arms."""
    arms = CONTROL_ARMS if given.stage == "control" else ARMS
    for seed in given.seeds or SEEDS[given.stage]:
        for arm in arms:
            if not given.arms or arm in given.arms:
                yield spec_of(given.stage, arm, seed)


def show(given: argparse.Namespace) -> None:
    """Print the tables of a stage; all but those of `freeze` go into the result file and the
    document."""
    runs = read_rows(given.runs / given.stage)
    if not runs:
        raise InputError(f"no runs of stage {given.stage} under {given.runs}; make some first")
    check_settings(runs)
    tree = summary_of(runs, given.stage)
    if given.stage == "freeze":
        print(markdown(tree))
        return
    from parts.kl.plots import draw  # Matplotlib takes a second to import.

    tree = merge_result(RESULT, tree)
    measured, control = read_rows(given.runs / "measure"), read_rows(given.runs / "control")
    files = draw(measured, control, RESULT.parent)
    write_between(DOCUMENT, "kl", "\n\n".join([markdown(tree), *links(files)]))
    hang(files, DOCUMENT.parent)
    print(markdown(tree))


def summary_of(runs: Sequence[Tree], stage: str) -> Tree:
    """Return everything that follows from the runs of one stage."""
    about = provenance(f"python scripts/bench_kl.py --stage {stage}")
    if stage == "control":
        return {"control_from": about, "control": control_rows(runs)}
    rows = rows_of(runs)
    return {
        "arms_from": about,
        "arms": arm_figures(rows),
        "summary": summarise(rows),
        "rows": rows,
    }


def _description(run: Tree) -> str:
    curve = run["curve"]
    trained, untrained, nats = curve["trained"], curve["untrained"], curve["trained_ref_nats"]
    return (
        f"trained {trained[0]:.3f} to {trained[-1]:.3f}, untrained {untrained[0]:.3f} to "
        f"{untrained[-1]:.3f}, {nats[-1]:.3f} nats per token"
    )


if __name__ == "__main__":
    raise SystemExit(main())
