"""Train the quickstart's task with every algorithm, and see what each gains in the same budget.

python scripts/bench_algorithms.py [--arms ppo grpo] [--cores N]
python scripts/bench_algorithms.py --table         # summarise the runs that there are

Each run is a process on a core of its own and leaves one file under --runs as it ends; a call makes
the runs that are missing, so it goes on where an earlier one was stopped. What is run is in
`parts/algorithms/arms.py`. Exits with 1 when a run fails or a target is missed.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parts.algorithms.arms import (
    ALGORITHMS,
    LEAST_EXPLAINED,
    LEAST_GAIN,
    SEEDS,
    WITH_CRITIC,
    Spec,
)
from parts.shared import docs as shared_docs
from parts.shared.docs import BENCHMARKS, merge_result, origin, provenance, table, write_between
from parts.shared.pictures import hang, links
from parts.shared.runs import (
    add_run_options,
    check_settings,
    exit_code,
    missing_runs,
    read_rows,
    run_all,
)
from parts.shared.stats import mean, standard_error
from rl_llm.errors import InputError

CHILD = "parts.algorithms.run"
RUNS = BENCHMARKS / "algorithms-runs"  # Committed, so that work goes on elsewhere.
RESULT = BENCHMARKS / "algorithms.json"
DOCUMENT = shared_docs.DOCUMENT

Tree = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, summarise, and return 1 if any failed or missed its
    target."""
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
    missed = show(given)
    return 1 if failed or missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arms", choices=list(ALGORITHMS), nargs="+", help="(default: all)")
    add_run_options(parser, runs=RUNS)
    return parser


def planned(given: argparse.Namespace) -> Iterator[Spec]:
    """Yield the runs of a call, seed by seed over all algorithms."""
    for seed in given.seeds or SEEDS:
        for arm in given.arms or ALGORITHMS:
            yield Spec(arm=arm, seed=seed)


def show(given: argparse.Namespace) -> list[str]:
    """Write what the runs come to, print it, and return the algorithms that missed a target."""
    runs = read_rows(given.runs)
    if not runs:
        raise InputError(f"no runs under {given.runs}; make some first")
    check_settings(runs, lambda run: run["arm"])
    rows = rows_of(runs)
    tree = {
        **provenance("python scripts/bench_algorithms.py"),
        "targets": {"gain": LEAST_GAIN, "critic": LEAST_EXPLAINED},
        "arms": arm_figures(rows),
        "rows": rows,
    }
    from parts.algorithms.plots import draw  # Matplotlib takes a second to import.

    merge_result(RESULT, tree)
    files = draw(rows, RESULT.parent)
    write_between(DOCUMENT, "algorithms", "\n\n".join([markdown(tree), *links(files)]))
    hang(files, DOCUMENT.parent)
    print(markdown(tree))
    return [arm for arm, entry in tree["arms"].items() if not entry["met"]]


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[Tree]:
    """Return one row a run, algorithms in their order."""
    order = {arm: place for place, arm in enumerate(ALGORITHMS)}
    rows = []
    for run in sorted(runs, key=lambda run: (order[run["arm"]], run["seed"])):
        curve = run["curve"]
        before, after = curve["pass_rate"][0], curve["pass_rate"][-1]
        row = {key: run[key] for key in ("arm", "seed", "settings", "completions", "wall_s")}
        row |= {"before": before, "after": after, "gain": round(after - before, 5)}
        rows.append(row | {"curve": curve})
    return rows


def arm_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tree]:
    """Return by algorithm the means over seeds, and whether they meet the targets; a critic is
    judged where it explains most, since a task that is nearly solved leaves little to explain."""
    figures: dict[str, Tree] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        entry: Tree = {
            name: mean([row[name] for row in own]) for name in ("before", "after", "gain", "wall_s")
        }
        entry |= {"seeds": len(own), "gain_se": standard_error([row["gain"] for row in own])}
        met = entry["gain"] >= LEAST_GAIN
        if arm in WITH_CRITIC:
            entry["explained"] = explained(own)
            most = max(point["critic"] for point in entry["explained"])
            met = met and most > LEAST_EXPLAINED.get(arm, float("-inf"))
        figures[arm] = entry | {"met": met}
    return figures


def explained(rows: Sequence[Mapping[str, Any]]) -> list[Tree]:
    """Return by evaluation behind the first what critic and prompt mean explain, means over the
    seeds of one algorithm, and the pass rate there."""
    curves = [row["curve"] for row in rows]
    return [
        {
            "step": step,
            "critic_by_seed": [curve["critic"][place] for curve in curves],
            **{
                name: mean([curve[name][place] for curve in curves])
                for name in ("pass_rate", "critic", "prompt_mean")
            },
        }
        for place, step in enumerate(curves[0]["step"])
        if place > 0
    ]


def markdown(tree: Mapping[str, Any]) -> str:
    """Return the tables of gains, and of what the critics explain."""
    parts = [origin(tree), table(_gain_lines(tree))]
    if any("explained" in entry for entry in tree["arms"].values()):
        parts.append(table(_critic_lines(tree)))
    return "\n\n".join(parts)


def _gain_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    yield "algorithm | seeds | before | after | gain | least | targets met | a run, s"
    for arm, entry in tree["arms"].items():
        yield (
            f"`{arm}` | {entry['seeds']} | {entry['before']:.3f} | {entry['after']:.3f} | "
            f"{entry['gain']:+.3f} ± {entry['gain_se']:.3f} | {LEAST_GAIN} | "
            f"{'yes' if entry['met'] else 'no'} | {entry['wall_s']:.0f}"
        )


def _critic_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "explained variance | after step | pass rate | by seed | mean | "
        "mean reward of the prompt's others | to be reached"
    )
    for arm, entry in tree["arms"].items():
        for point in entry.get("explained", ()):
            by_seed = ", ".join(f"{value:.2f}" for value in point["critic_by_seed"])
            yield (
                f"`{arm}` | {point['step']} | {point['pass_rate']:.3f} | {by_seed} | "
                f"{point['critic']:.2f} | {point['prompt_mean']:.2f} | "
                f"{LEAST_EXPLAINED.get(arm, '-')}"
            )


def _description(run: Tree) -> str:
    curve = run["curve"]
    critic = f", critic explains {curve['critic'][-1]:.2f}" if "critic" in curve else ""
    return f"{curve['pass_rate'][0]:.3f} to {curve['pass_rate'][-1]:.3f}{critic}"


if __name__ == "__main__":
    raise SystemExit(main())
