"""What a controller of one's own is not allowed to do to a run."""

import math

import numpy as np
import pytest

from rl_llm.errors import PluginError, RunError
from rl_llm.kl import Guarded


class Mine:
    """A controller whose beta, state and failure a test sets."""

    needs_reference = True

    def __init__(self, beta=0.05, *, state=None):
        self.beta = beta
        self._state = {} if state is None else state

    def observe(self, facts):
        if facts.step == 3:
            raise ValueError("no third step")

    def state_dict(self):
        return self._state

    def load_state_dict(self, state): ...


@pytest.mark.parametrize("beta", [math.nan, -0.1, math.inf, "0.1", None, np.float32(-1)])
def test_a_beta_that_is_no_coefficient_ends_the_run_instead_of_the_penalty(beta):
    with pytest.raises(RunError) as caught:
        Guarded(Mine(beta), floor=0.01, ceiling=0.2)
    assert str(caught.value) == (
        f"kl.controller Mine gave beta={beta!r}; a coefficient is a finite number of 0 or more: "
        "mend the controller's beta"
    )


def test_a_beta_that_goes_wrong_later_is_found_when_it_is_read():
    controller = Mine(np.float32(0.5))
    guarded = Guarded(controller)
    assert guarded.beta == 0.5
    controller.beta = math.nan
    with pytest.raises(RunError, match=r"kl\.controller Mine gave beta=nan"):
        _ = guarded.beta


@pytest.mark.parametrize("state", [{"seen": {1, 2}}, {(1, 2): 3}, {"beta": np.float32(1)}])
def test_a_state_that_no_checkpoint_can_hold_is_refused_before_the_run(state):
    with pytest.raises(PluginError, match=r"Mine: state_dict\(\) returned .*a checkpoint cannot"):
        Guarded(Mine(state=state))
    Guarded(Mine(state={"seen": [1, 2], "beta": 0.1}))


def test_what_a_controller_raises_keeps_its_kind_and_says_whose_it_is(facts):
    guarded = Guarded(Mine())
    guarded.observe(facts(2))
    with pytest.raises(ValueError, match="no third step") as caught:
        guarded.observe(facts(3))
    assert caught.value.__notes__ == ["raised in observe() of kl.controller Mine"]
