"""Recipes: the schema, and reading and writing them."""

from rl_llm.config.base import NamedPart
from rl_llm.config.describe import describe_invalid
from rl_llm.config.differences import differences
from rl_llm.config.from_trl import trl_hint
from rl_llm.config.kl import KLSection
from rl_llm.config.load import dump_yaml, load_recipe, parse_recipe, parse_yaml, with_defaults
from rl_llm.config.rollout import RolloutSection, ServersSection, VllmSection
from rl_llm.config.schema import Recipe
from rl_llm.config.sections import HubSection, OptimSection, RewardUse, SourceUse
from rl_llm.config.tracking import TrackerUse

__all__ = [
    "HubSection",
    "KLSection",
    "NamedPart",
    "OptimSection",
    "Recipe",
    "RewardUse",
    "RolloutSection",
    "ServersSection",
    "SourceUse",
    "TrackerUse",
    "VllmSection",
    "describe_invalid",
    "differences",
    "dump_yaml",
    "load_recipe",
    "parse_recipe",
    "parse_yaml",
    "trl_hint",
    "with_defaults",
]
