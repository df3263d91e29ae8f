"""`rl-llm evaluate`: the pass rate of an adapter, or of a model, on held-out problems."""

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm.cli.adapter_files import base_of, find_adapter
from rl_llm.cli.arguments import positive, writable_file
from rl_llm.cli.engines import build_engine, settle_engine_together
from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_evaluator
from rl_llm.cli.progress import PatientConsole, print_lines, tally
from rl_llm.cli.tables import bucket_table, unscored, with_error
from rl_llm.config import Recipe, load_recipe
from rl_llm.errors import DataError, InputError, PluginError
from rl_llm.pass_rates import PassRate, ProblemResult, buckets, estimates
from rl_llm.policy import Ranks
from rl_llm.scoring import Rubric, answer_reader
from rl_llm.trainer import Evaluation, Generation, RunFolder
from rl_llm.trainer.checkpoint import newest_whole
from rl_llm.trainer.metrics import evaluation_row
from rl_llm.trainer.storage import write_text

NAME = "evaluate"
HELP = "measure the pass rate of an adapter, or of a model, on a recipe's held-out problems"

_NO_READER = (
    "no reward on channel 'correctness' says what an answer is (a function read_answer in its file "
    "does)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm evaluate runs/quickstart --samples 16 --out quickstart.json"
    parser.add_argument(
        "target",
        metavar="RUN_OR_MODEL",
        help="the folder of a run, a checkpoint or a PEFT adapter, or a model's folder or hub name",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="a.b=c",
        help="set a value, as in rollout.temperature=0.6",
    )
    parser.add_argument(
        "--recipe",
        help="the recipe with the held-out problems and rewards; a run has its own. The model is "
        "that of RUN_OR_MODEL",
    )
    parser.add_argument(
        "--base", action="store_true", help="of a run or an adapter: the model without the adapter"
    )
    parser.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help="completions of each problem, in place of eval.samples_per_problem; with 2 or more "
        "also pass@k and maj@k",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="write all figures there, and the result of each problem, for rl-llm compare",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print tables, and write what is asked for."""
    target = Path(args.target)
    run = _run_of(target)
    adapter = _adapter(target, run, without=args.base)
    if args.samples is not None:
        args.overrides = [*args.overrides, f"eval.samples_per_problem={args.samples}"]
    recipe = _recipe(args, run, adapter)
    if not recipe.data.eval:
        raise DataError("data.eval is empty, so there is nothing to evaluate on; add a source")
    out = None if args.out is None else writable_file(args.out, example="results.json")
    transformers_logging.disable_progress_bar()
    ranks = Ranks()
    # What is to be written is, though nobody reads on.
    console = (Console if out is None else PatientConsole)(quiet=not ranks.is_main)
    try:
        recipe, choice = settle_engine_together(recipe, ranks)
        print_lines(console, [choice.line, *_notes(recipe)])
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        with (
            closing(build_engine(recipe, model, ranks, folder=RunFolder(target))) as engine,
            closing(data.rubric),
        ):
            if adapter is not None and not args.base:
                print_lines(console, [f"adapter {adapter}"])
                engine.load_weights(adapter, version=0)
            with tally(console, total=len(data.held_out.problems)) as add:
                # Every rank has as many to do, but for one.
                generation = Generation(
                    engine, data.rubric, ranks, tell=lambda group: add(ranks.num_ranks)
                )
                evaluation = build_evaluator(recipe, data, generation)()
            print_lines(console, generation.take_messages())
        results, note = _results(evaluation, data.rubric)
        _show(console, evaluation, results)
        print_lines(console, [note] if note else [])
        if out is not None:
            about = {"target": args.target, "adapter": None if args.base else _text(adapter)}
            written = {**about, **_figures(recipe, evaluation, results)}
            text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
            ranks.on_main(lambda: write_text(out, text))
            print_lines(console, [f"written: {out}"])
    finally:
        ranks.close()
    return 0


def _notes(recipe: Recipe) -> list[str]:
    """Return what a person should know before samples are drawn."""
    samples = recipe.eval.samples_per_problem
    if samples == 1 or recipe.rollout.temperature > 0:
        return []
    return [
        f"note: rollout.temperature=0 draws the same completion {samples} times; pass@k and maj@k "
        "need a temperature above 0"
    ]


def _results(evaluation: Evaluation, rubric: Rubric) -> tuple[list[ProblemResult], str]:
    """Return the results, with votes where answers can be told apart, and why there are none."""
    reader, fault = answer_reader(rubric.rewards), _NO_READER
    if reader is not None:
        try:
            return evaluation.results(reader), ""
        except PluginError as error:  # What was generated must not be lost for it.
            fault = str(error)
    results = evaluation.results()
    asks = evaluation.num_completions > len(results)
    return results, f"maj@k is left out: {fault}" if asks else ""


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _run_of(target: Path) -> RunFolder | None:
    """Return the run that a folder is, or that a checkpoint or an adapter lies in."""
    places = [target, *target.absolute().parents[:3]] if find_adapter(target) else [target]
    return next((RunFolder(each) for each in places if RunFolder(each).resolved.is_file()), None)


def _adapter(target: Path, run: RunFolder | None, *, without: bool) -> Path | None:
    """Return the adapter that a target stands for; None for a model."""
    if run is None or run.path != target or (target / "adapter_config.json").is_file():
        return find_adapter(target)
    return None if without else _newest_adapter(run)


def _what_it_lacks(target: Path) -> str:
    if target.exists():
        return "is not a run's folder, nor inside of one (there is no resolved.yaml)"
    return "is no folder here, so it may be a model of a hub"


def _recipe(args: argparse.Namespace, run: RunFolder | None, adapter: Path | None) -> Recipe:
    """Return the recipe with the held-out problems, and with the model of the target."""
    base = None if adapter is None else base_of(adapter)
    if args.recipe is None and run is not None:
        return load_recipe(run.resolved, args.overrides)
    if args.recipe is None:
        raise InputError(
            f"{args.target!r} {_what_it_lacks(Path(args.target))}; name the recipe with the "
            "held-out problems by --recipe, or give a run's folder"
        )
    if run is not None:
        base = load_recipe(run.resolved).model.path
    elif adapter is None:
        base = args.target
    # In quotes, or a folder such as `2024` would be read as a number.
    own = [] if base is None else [f"model.path={json.dumps(base, ensure_ascii=False)}"]
    return load_recipe(args.recipe, [*own, *args.overrides])


def _newest_adapter(folder: RunFolder) -> Path:
    """Return the final adapter, or that of the newest whole checkpoint of a run that has not
    ended."""
    if (folder.adapter / "adapter_config.json").is_file():
        return folder.adapter
    saved, _ = newest_whole(folder.checkpoints)
    if saved is None:
        raise InputError(
            f"{folder.path} has neither a final adapter nor a checkpoint; train it to its first "
            "checkpoint, or evaluate the model without an adapter by --base"
        )
    return saved / "adapter"


def _show(console: Console, evaluation: Evaluation, results: Sequence[ProblemResult]) -> None:
    """Print the pass rate, then pass@k and maj@k where there is more than one sample."""
    parts = [(bucket, estimates(bucket.results)) for bucket in buckets(results)]
    samples = evaluation.num_completions // len(results)
    title = f"held-out pass rate, {samples} sample{'s' * (samples > 1)} a problem"
    rates = [(each, found["pass@1"]) for each, found in parts]
    headings = ("problems", "pass rate", "standard error")
    console.print(bucket_table(title, headings, [(each, _cells(rate)) for each, rate in rates]))
    names = [name for name in parts[-1][1] if name != "pass@1"]
    for kind in ("pass", "maj"):
        own = [name for name in names if name.startswith(kind)]
        if own:
            rows = [(each, [with_error(found[name]) for name in own]) for each, found in parts]
            console.print(bucket_table(f"{kind}@k, with its standard error", own, rows))
    if evaluation.num_masked:
        print_lines(console, [unscored(evaluation.num_masked, evaluation.num_completions)])


def _figures(
    recipe: Recipe, evaluation: Evaluation, results: Sequence[ProblemResult]
) -> dict[str, Any]:
    """Return all that was measured, and of what, as it is written."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "metrics": evaluation_row(evaluation),
        "estimates": [
            {
                "source": bucket.source,
                "level": bucket.level,
                "problems": len(bucket.results),
                **{
                    name: {"mean": rate.mean, "standard_error": rate.standard_error}
                    for name, rate in estimates(bucket.results).items()
                },
            }
            for bucket in buckets(results)
        ],
        "problems": [result.row for result in results],
    }


def _cells(rate: PassRate) -> tuple[str, str, str]:
    return str(rate.num_problems), f"{rate.mean:.3f}", f"{rate.standard_error:.3f}"
