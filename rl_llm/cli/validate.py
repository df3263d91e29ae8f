"""`rl-llm validate`: everything that can be found out about a recipe without running it."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm.algorithms import Algorithm
from rl_llm.cli.engines import check_tensor_parallel, plan_engine, settle_engine_together
from rl_llm.cli.estimate import estimate
from rl_llm.cli.inputs import Data, load_data, load_model
from rl_llm.cli.launch import Launch, launch_of, planned_launch
from rl_llm.cli.named import check_named
from rl_llm.cli.parts import (
    algorithm_notes,
    build_algorithm,
    build_controller,
    build_parts,
    check_context,
    check_pool,
    check_warmup,
    make_scheduler,
)
from rl_llm.cli.plan import plan_step, remarks
from rl_llm.cli.plan_table import memory_table, share_lines, step_table
from rl_llm.cli.progress import HearingWatcher, print_lines, share
from rl_llm.cli.pushing import check_hub, hub_lines
from rl_llm.cli.run_files import check_place, why_refused
from rl_llm.cli.tracking import check_tracking
from rl_llm.config import Recipe, load_recipe
from rl_llm.errors import ConfigError
from rl_llm.policy import Ranks, load_tokenizer
from rl_llm.policy.imagined import load_config, shares_prompts
from rl_llm.policy.launched import check_reference
from rl_llm.problems import summary_lines
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.scoring.references import reference_faults
from rl_llm.trainer import Parts, RunFolder, Trainer

NAME = "validate"
HELP = "check a recipe: plugins load, data load, the model fits; --dry-run also takes one real step"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm validate recipes/quickstart.yaml --dry-run"
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe's YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="set a value, as in run.steps=10"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="take one real step in a folder that is deleted"
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="plan a run on N processes; neither they nor the model's weights need be here",
    )
    parser.add_argument(
        "--config_file",
        metavar="FILE",
        help="accelerate's configuration to plan for, such as recipes/accelerate/zero3.yaml; "
        "--processes overrides its number",
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print what was found."""
    recipe = load_recipe(args.recipe, args.overrides)
    check_hub(recipe)
    check_tracking(recipe)
    transformers_logging.disable_progress_bar()
    planned = planned_launch(args.config_file, args.processes, dtype=recipe.model.dtype)
    if planned is None:
        _check_here(args.recipe, recipe, dry_run=args.dry_run)
        return 0
    if args.dry_run:
        raise ConfigError(
            "--dry-run takes a step here, and --processes and --config_file plan one elsewhere; "
            "use one or the other"
        )
    _plan(args.recipe, recipe, planned)
    return 0


def _check_here(source: str, recipe: Recipe, *, dry_run: bool) -> None:
    """Put a run together on the processes that there are."""
    ranks = Ranks()
    console, caveats = Console(quiet=not ranks.is_main), list[str]()
    place = RunFolder(Path(recipe.run.output_dir) / recipe.run.name)
    try:
        ranks.on_main(lambda: check_place(place, recipe))
        check_named(recipe)
        recipe, engine = settle_engine_together(recipe, ranks)
        with tempfile.TemporaryDirectory(prefix="rl-llm-validate-") as scratch:
            model = load_model(recipe, ranks)
            data = load_data(recipe, model.encoder)
            config = model.base.config
            parts = build_parts(
                recipe,
                model,
                data,
                ranks,
                folder=RunFolder(Path(scratch)),
                watcher=HearingWatcher(console),
            )
            with closing(parts.engine), closing(data.rubric):
                caveats += _print_data(console, recipe, data)
                print_lines(console, [engine.line, *parts.engine.take_messages()])
                check_warmup(recipe, parts.algorithm)
                print_lines(console, parts.scheduler.take_messages())
                if refusal := ranks.on_main(partial(why_refused, place, parts.identity)):
                    print_lines(console, [refusal], style="yellow")
                    caveats.append(f"`rl-llm train` does not go on in {place.path}")
                _print_plan(
                    console,
                    _Planned(
                        recipe=recipe,
                        config=config,
                        algorithm=parts.algorithm,
                        data=data,
                        needs_reference=parts.kl.needs_reference,
                        launch=launch_of(ranks),
                        gpu_bytes=_size_of(ranks.device),
                    ),
                )
                if dry_run and not _dry_run(console, parts):
                    caveats.append("the policy would have learnt nothing in its first step")
    finally:
        ranks.close()
    _print_verdict(console, f"{source}: valid", caveats)


def _plan(source: str, recipe: Recipe, launch: Launch) -> None:
    """Check what needs neither weights nor an engine, and plan the rest."""
    check_named(recipe)
    console = Console()
    if recipe.rollout.engine == "auto":
        recipe, choice = plan_engine(recipe, on_gpus=launch.on_gpus)
        print_lines(console, [choice.line])
    check_tensor_parallel(recipe, num_ranks=launch.num_ranks)
    config = load_config(recipe.model.path)
    tokenizer = load_tokenizer(recipe.model.path, chat_template=recipe.model.chat_template)
    data = load_data(recipe, PromptEncoder(tokenizer))
    caveats = _print_data(console, recipe, data)
    check_context(recipe, data, config)
    check_pool(recipe, data)
    algorithm = build_algorithm(recipe)
    check_warmup(recipe, algorithm)
    is_half = recipe.model.dtype == "bfloat16"
    check_reference(launch.zero, mode=recipe.kl.reference.mode, is_half=is_half)
    print_lines(console, make_scheduler(recipe, data).take_messages())
    _print_plan(
        console,
        _Planned(
            recipe=recipe,
            config=config,
            algorithm=algorithm,
            data=data,
            needs_reference=build_controller(recipe).needs_reference,
            launch=launch,
        ),
    )
    line = f"{source}: valid as planned; neither weights nor a rollout engine were tried"
    _print_verdict(console, line, caveats)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """What a plan is made of; `gpu_bytes`: the size of each GPU, where it is known."""

    recipe: Recipe
    config: Any
    algorithm: Algorithm
    data: Data
    needs_reference: bool
    launch: Launch
    gpu_bytes: int | None = None


def _print_plan(console: Console, given: _Planned) -> None:
    """Print what is to be known before a run, what a step asks of a process, and its memory."""
    recipe, launch = given.recipe, given.launch
    plan = plan_step(
        recipe,
        given.algorithm,
        num_ranks=launch.num_ranks,
        longest_prompt_tokens=given.data.longest_prompt_tokens,
        needs_reference=given.needs_reference,
        shares_prompts=shares_prompts(given.config, recomputes=recipe.optim.gradient_checkpointing),
    )
    found = estimate(
        recipe,
        given.config,
        given.algorithm,
        plan,
        launch,
        needs_reference=given.needs_reference,
        gpu_bytes=given.gpu_bytes,
    )
    notes = algorithm_notes(recipe, given.algorithm)
    said = [*_critic_lines(given.algorithm), *notes, *remarks(recipe, plan), *hub_lines(recipe)]
    print_lines(console, said)
    console.print(step_table(recipe, plan))
    console.print(memory_table(recipe, found, launch))
    print_lines(console, share_lines(found))


def _size_of(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def _print_verdict(console: Console, line: str, caveats: Sequence[str] = ()) -> None:
    style = "yellow" if caveats else "green"
    line += f", but {', and '.join(caveats)}" if caveats else ""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _print_data(console: Console, recipe: Recipe, data: Data) -> list[str]:
    """Print what the data are, and return what the verdict is to say of them again."""
    print_lines(console, [*summary_lines(data.train), *summary_lines(data.held_out)])
    print_lines(console, data.unread.lines(recipe.model.path), style="yellow")
    console.print(f"longest prompt: {data.longest_prompt_tokens} tokens", highlight=False)
    if not console.quiet:
        kept = [*data.train.problems, *data.held_out.problems]
        faults = reference_faults(
            data.rubric.rewards,
            kept,
            num_workers=recipe.scoring.workers,
            say=lambda line: print_lines(console, [line]),
        )
        print_lines(console, list(faults))
    return ["the tokenizer cannot read most of the prompts"] if data.unread.is_most else []


def _critic_lines(algorithm: Algorithm) -> list[str]:
    """Say what is trained beside the policy."""
    rules = algorithm.critic
    if rules is None:
        return []
    alone = f", alone up to step {rules.warmup_steps}" if rules.warmup_steps else ""
    return [f"critic: an adapter and a head on the same base, learning rate {rules.lr:g}{alone}"]


def _dry_run(console: Console, parts: Parts) -> bool:
    """Take one step with the real engine, rewards and optimiser, of which nothing is kept; return
    whether the policy learnt, or was to wait for its critic."""
    row = Trainer(parts).take_one_step()
    critic = f", critic's {row['critic/grad_norm']:.3g}" if "critic/grad_norm" in row else ""
    nats = row["rollout/mismatch_max_nats"]
    mismatch = "" if math.isnan(nats) else f", engine mismatch {nats:.2g} nats at most"
    console.print(
        f"one step: {row['step_s']:.1f} s, {row['rollout/completions']} completions, "
        f"pass rate {share(row['train/pass_rate'])}, "
        f"{row['train/groups_admitted']} groups to learn from, "
        f"gradient norm {row['optim/grad_norm']:.3g}{critic}{mismatch}",
        highlight=False,
        soft_wrap=True,
    )
    return bool(row["optim/grad_norm"] or row.get("critic/grad_norm"))
