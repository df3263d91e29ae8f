"""`rl-llm train`: run a recipe to its end, from its newest checkpoint if there is one."""

import argparse
from pathlib import Path

from rl_llm.cli.interrupt import Interrupt
from rl_llm.config import load_recipe

NAME = "train"
HELP = "train a model on a recipe; goes on from the newest checkpoint in the run's folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm train recipes/quickstart.yaml optim.lr=5e-4"
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe's YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="set a value, as in run.steps=10"
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: from the run's newest checkpoint, if there is one (default); never: refuse a "
        "folder that holds a run; PATH: from this checkpoint",
    )


def run(args: argparse.Namespace) -> int:
    """Train; a recipe with a fault is refused before anything heavy loads."""
    with Interrupt() as interrupt:
        recipe = load_recipe(args.recipe, args.overrides)
        from rl_llm.cli.session import train

        return train(
            recipe,
            source=Path(args.recipe),
            overrides=args.overrides,
            resume=args.resume,
            interrupt=interrupt,
        )
