"""`rl-llm validate`: everything that can be found out about a recipe without running it."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from rl_llm.cli.engines import settle_engine
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
from rl_llm.config.rollout import EngineName
from rl_llm.policy import Ranks
from rl_llm.problems import summary_lines
from rl_llm.trainer import Parts, RunFolder, Trainer

NAME = "validate"
HELP = "check a recipe: plugins load, data load, the model fits; --dry-run also takes one real step"

_TRANSFORMERS_SIZES = ("merged copy for rollouts, at most", "key-value cache, at most")
_ENGINE_SIZES: dict[EngineName, tuple[str, str]] = {
    "auto": _TRANSFORMERS_SIZES,
    "transformers": _TRANSFORMERS_SIZES,
    "vllm": ("vLLM's copy of the model, and one that is published", "what vLLM is given to fill"),
    "vllm_server": _TRANSFORMERS_SIZES,
}


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
        recipe, engine = settle_engine(recipe, device=ranks.device)
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
            with closing(parts.engine):
                _print_data(console, data)
                _print_lines(console, [engine.line, *parts.engine.take_messages()])
                check_warmup(recipe, parts.algorithm)
                notes = algorithm_notes(recipe, parts.algorithm)
                told = [*parts.scheduler.take_messages(), *_critic_lines(parts), *notes]
                _print_lines(console, told)
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
    ranks = parts.ranks
    found = estimate(recipe, config, parts.policy, num_ranks=ranks.num_ranks, device=ranks.device)
    table = Table(title=f"one step of {recipe.run.name}", show_header=False)
    included = "refills" if recipe.curriculum.probe is None else "probes"
    table.add_row(f"completions, {included} included, at most", f"{found.most_completions:,}")
    table.add_row("sampled tokens, at most", f"{found.most_new_tokens:,}")
    table.add_section()
    for label, size in _sizes(found, recipe.rollout.engine):
        table.add_row(label, f"{size / 2**20:,.1f} MiB")
    return table


def _sizes(found: Estimate, engine: EngineName) -> list[tuple[str, int]]:
    """Return what memory holds; a critic, a reference and what an engine takes only where the run
    has its own."""
    copy, cache = _ENGINE_SIZES[engine]
    beside = [
        ("critic's adapter and head, and their gradient", found.critic_bytes),
        ("reference's adapter", found.reference_bytes),
    ]
    return [
        ("base model", found.base_bytes),
        *([(copy, found.rollout_copy_bytes)] if found.rollout_copy_bytes else []),
        ("adapter and its gradient", found.adapter_bytes),
        *((label, size) for label, size in beside if size),
        ("optimiser", found.optimiser_bytes),
        *([(cache, found.cache_bytes)] if found.cache_bytes else []),
        ("activations of a micro-batch, about", found.activation_bytes),
        ("memory a process needs, about", found.total_bytes),
    ]


def _dry_run(console: Console, parts: Parts) -> None:
    """Take one step with the real engine, rewards and optimiser; nothing of it is kept."""
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
