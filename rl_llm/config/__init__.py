"""Recipes: the schema, and reading and writing them."""

from rl_llm.config.load import describe_invalid, dump_yaml, load_recipe, parse_recipe
from rl_llm.config.schema import (
    NamedPart,
    OptimSection,
    Recipe,
    RewardUse,
    RolloutSection,
    SourceUse,
)

__all__ = [
    "NamedPart",
    "OptimSection",
    "Recipe",
    "RewardUse",
    "RolloutSection",
    "SourceUse",
    "describe_invalid",
    "dump_yaml",
    "load_recipe",
    "parse_recipe",
]
