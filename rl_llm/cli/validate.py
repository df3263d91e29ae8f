"""`rl-llm validate`: everything that can be found out about a recipe without running it."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from rl_llm.cli.estimate import Estimate, estimate
from rl_llm.cli.parts import (
    Data,
    algorithm_notes,
    build_parts,
    check_warmup,
    load_data,
    load_model,
)
from rl_llm.cli.progress import SilentWatcher, share
from rl_llm.config import Recipe, load_recipe
from rl_llm.policy import Ranks
from rl_llm.problems import summary_lines
from rl_llm.trainer import Parts, RunFolder, Trainer

NAME = "validate"
HELP = "check a recipe: plugins load, data load, the model fits; --dry-run also takes one real step"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe's YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="set a value, as in run.steps=10"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="take one real step in a folder that is deleted"
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print what was found."""
    recipe = load_recipe(args.recipe, args.overrides)
    transformers_logging.disable_progress_bar()
    console = Console()
    ranks = Ranks()
    try:
        with tempfile.TemporaryDirectory(prefix="rl-llm-validate-") as scratch:
            model = load_model(recipe, ranks)
            data = load_data(recipe, model.encoder)
            parts = build_parts(
                recipe,
                model,
                data,
                ranks,
                folder=RunFolder(Path(scratch)),
                watcher=SilentWatcher(),
            )
            _print_data(console, data)
            check_warmup(recipe, parts.algorithm)
            notes = algorithm_notes(recipe, parts.algorithm)
            _print_lines(console, [*parts.scheduler.take_messages(), *_critic_lines(parts), *notes])
            console.print(_table(recipe, parts, model.base.config))
            if args.dry_run:
                _dry_run(console, parts)
    finally:
        ranks.close()
    valid = f"{args.recipe}: valid"
    console.print(valid, style="green", highlight=False, markup=False, soft_wrap=True)
    return 0


def _print_data(console: Console, data: Data) -> None:
    _print_lines(console, [*summary_lines(data.train), *summary_lines(data.held_out)])
    console.print(f"longest prompt: {data.longest_prompt_tokens} tokens", highlight=False)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _critic_lines(parts: Parts) -> list[str]:
    """Say what is trained beside the policy."""
    rules = parts.algorithm.critic
    if rules is None:
        return []
    alone = f", alone up to step {rules.warmup_steps}" if rules.warmup_steps else ""
    return [f"critic: an adapter and a head on the same base, learning rate {rules.lr:g}{alone}"]


def _table(recipe: Recipe, parts: Parts, config: Any) -> Table:
    found = estimate(recipe, config, parts.policy, num_ranks=parts.ranks.num_ranks)
    table = Table(title=f"one step of {recipe.run.name}", show_header=False)
    included = "refills" if recipe.curriculum.probe is None else "probes"
    table.add_row(f"completions, {included} included, at most", f"{found.most_completions:,}")
    table.add_row("sampled tokens, at most", f"{found.most_new_tokens:,}")
    table.add_section()
    for label, size in _sizes(found):
        table.add_row(label, f"{size / 2**20:,.1f} MiB")
    return table


def _sizes(found: Estimate) -> list[tuple[str, int]]:
    """Return what memory holds; a critic and a reference only where the run has one of its own."""
    beside = [
        ("critic's adapter and head, and their gradient", found.critic_bytes),
        ("reference's adapter", found.reference_bytes),
    ]
    return [
        ("base model", found.base_bytes),
        ("merged copy for rollouts, at most", found.rollout_copy_bytes),
        ("adapter and its gradient", found.adapter_bytes),
        *((label, size) for label, size in beside if size),
        ("optimiser", found.optimiser_bytes),
        ("key-value cache, at most", found.cache_bytes),
        ("activations of a micro-batch, about", found.activation_bytes),
        ("memory a process needs, about", found.total_bytes),
    ]


def _dry_run(console: Console, parts: Parts) -> None:
    """Take one step with the real engine, rewards and optimiser; nothing of it is kept."""
    row = Trainer(parts).take_one_step()
    critic = f", critic's {row['critic/grad_norm']:.3g}" if "critic/grad_norm" in row else ""
    console.print(
        f"one step: {row['step_s']:.1f} s, {row['rollout/completions']} completions, "
        f"pass rate {share(row['train/pass_rate'])}, "
        f"{row['train/groups_admitted']} groups to learn from, "
        f"gradient norm {row['optim/grad_norm']:.3g}{critic}, "
        f"engine mismatch {row['rollout/mismatch_max_nats']:.2g} nats at most",
        highlight=False,
        soft_wrap=True,
    )
