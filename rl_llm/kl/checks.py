"""What is asked of a controller beyond its protocol, above all of one that a user wrote."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

from rl_llm.errors import PluginError, RunError
from rl_llm.kl.controllers import KLController


def beta_of(controller: KLController) -> float:
    """Return the controller's beta; raises `RunError` unless it is a finite number of 0 or more.

    Bounds would hide the fault: not a number is not below a floor, and a floor lifts what is
    negative.
    """
    beta: object = controller.beta
    if not isinstance(beta, Real) or not 0 <= float(beta) < math.inf:
        raise RunError(
            f"kl.controller {type(controller).__name__} gave beta={beta!r}; a coefficient is a "
            "finite number of 0 or more: mend the controller's beta"
        )
    return float(beta)


def check_state(controller: KLController) -> None:
    """Raise `PluginError` where a checkpoint could not hold the controller's state, before a run
    depends on it."""
    state = controller.state_dict()
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"kl.controller {type(controller).__name__}: state_dict() returned {state!r}, which a "
            f"checkpoint cannot hold ({error}); return what JSON can hold: numbers, strings, lists "
            "and dictionaries"
        ) from None


@contextmanager
def told_apart(controller: KLController) -> Iterator[None]:
    """Let whatever is raised leave with its traceback, and a note that says whose it is."""
    try:
        yield
    except Exception as error:  # Somebody else's code, of which nothing is known.
        error.add_note(f"raised in observe() of kl.controller {type(controller).__name__}")
        raise
