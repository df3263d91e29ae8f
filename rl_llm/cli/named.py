"""Whether what a recipe names is there: looked for all at once, before anything is loaded."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rl_llm.config import Recipe
from rl_llm.config.describe import LINE_BREAK
from rl_llm.errors import ConfigError, InputError
from rl_llm.policy.model import model_location
from rl_llm.problems import find_source
from rl_llm.scoring import find_reward


def check_named(recipe: Recipe) -> None:
    """Find the model's folder, the prompt sources and the rewards, and check their options.

    Raises the fault that it found, and one `ConfigError` with a line for each where there are more.
    """
    faults = []
    for look in _looks(recipe):
        try:
            look()
        except InputError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ConfigError(LINE_BREAK.join(map(str, faults)))


def _looks(recipe: Recipe) -> Iterator[Callable[[], Any]]:
    yield partial(model_location, recipe.model.path)
    for where, uses in (("data.train", recipe.data.train), ("data.eval", recipe.data.eval)):
        for index, source in enumerate(uses):
            yield partial(find_source, source, path=f"{where}.{index}")
    for index, reward in enumerate(recipe.rewards):
        yield partial(find_reward, reward, path=f"rewards.{index}")
