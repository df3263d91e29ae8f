"""`rl-llm evaluate`: the pass rate of an adapter, or of a model, on held-out problems."""

import argparse
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from rl_llm.cli.adapter_files import base_of, find_adapter
from rl_llm.cli.engines import build_engine, settle_engine_together
from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_evaluator
from rl_llm.cli.progress import unscored
from rl_llm.config import Recipe, load_recipe
from rl_llm.errors import DataError, InputError
from rl_llm.policy import Ranks
from rl_llm.trainer import Evaluation, Generation, PassRate, RunFolder
from rl_llm.trainer.checkpoint import newest_whole

NAME = "evaluate"
HELP = "measure the pass rate of an adapter, or of a model, on a recipe's held-out problems"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
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
        help="set a value, as in eval.samples_per_problem=8",
    )
    parser.add_argument(
        "--recipe",
        help="the recipe with the held-out problems and rewards; a run has its own. The model is "
        "that of RUN_OR_MODEL",
    )
    parser.add_argument(
        "--base", action="store_true", help="of a run or an adapter: the model without the adapter"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table."""
    target = Path(args.target)
    run = _run_of(target)
    adapter = _adapter(target, run, without=args.base)
    recipe = _recipe(args, run, adapter)
    if not recipe.data.eval:
        raise DataError("data.eval is empty, so there is nothing to evaluate on; add a source")
    transformers_logging.disable_progress_bar()
    ranks = Ranks()
    console = Console(quiet=not ranks.is_main)
    try:
        recipe, choice = settle_engine_together(recipe, ranks)
        console.print(choice.line, highlight=False, markup=False, soft_wrap=True)
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        with (
            closing(build_engine(recipe, model, ranks, folder=RunFolder(target))) as engine,
            closing(data.rubric),
        ):
            if adapter is not None and not args.base:
                console.print(f"adapter {adapter}", highlight=False, soft_wrap=True)
                engine.load_weights(adapter, version=0)
            generation = Generation(engine, data.rubric, ranks)
            evaluation = build_evaluator(recipe, data, generation)()
            for message in generation.take_messages():
                console.print(message, highlight=False, markup=False, soft_wrap=True)
        if ranks.is_main:
            console.print(_table(evaluation, samples=recipe.eval.samples_per_problem))
            if evaluation.num_masked:
                said = unscored(evaluation.num_masked, evaluation.num_completions)
                console.print(said, highlight=False, markup=False, soft_wrap=True)
    finally:
        ranks.close()
    return 0


def _run_of(target: Path) -> RunFolder | None:
    """Return the run that a folder is, or that a checkpoint or an adapter lies in."""
    places = [target, *target.absolute().parents[:3]] if find_adapter(target) else [target]
    return next((RunFolder(each) for each in places if RunFolder(each).resolved.is_file()), None)


def _adapter(target: Path, run: RunFolder | None, *, without: bool) -> Path | None:
    """Return the adapter that a target stands for; None for a model."""
    if run is None or run.path != target or (target / "adapter_config.json").is_file():
        return find_adapter(target)
    return None if without else _newest_adapter(run)


def _recipe(args: argparse.Namespace, run: RunFolder | None, adapter: Path | None) -> Recipe:
    """Return the recipe with the held-out problems, and with the model of the target."""
    base = None if adapter is None else base_of(adapter)
    if args.recipe is None and run is not None:
        return load_recipe(run.resolved, args.overrides)
    if args.recipe is None:
        raise InputError(
            f"{args.target!r} is not a run's folder, nor inside of one (there is no "
            "resolved.yaml); name the recipe with the held-out problems by --recipe, or give a "
            "run's folder"
        )
    if run is not None:
        base = load_recipe(run.resolved).model.path
    elif adapter is None:
        base = args.target
    own = [] if base is None else [f"model.path={base}"]
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


def _table(evaluation: Evaluation, *, samples: int) -> Table:
    table = Table(title=f"held-out pass rate, {samples} sample{'s' * (samples > 1)} a problem")
    for heading in ("level", "problems", "pass rate", "standard error"):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for level, rate in evaluation.by_level.items():
        table.add_row(str(level), *_cells(rate))
    table.add_section()
    table.add_row("all", *_cells(evaluation.overall))
    return table


def _cells(rate: PassRate) -> tuple[str, str, str]:
    return str(rate.num_problems), f"{rate.mean:.3f}", f"{rate.standard_error:.3f}"
