"""Pass rates and their standard errors by hand."""

import numpy as np
import pytest

from rl_llm.trainer.evaluate import pass_rate


def test_the_standard_error_is_that_of_the_mean_over_problems():
    # rates 0 .5 1: mean .5, squares .25 + 0 + .25 over 2: .25, deviation .5
    found = pass_rate(np.array([0.0, 0.5, 1.0]))
    assert found.mean == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(0.5 / 3**0.5)
    assert found.num_problems == 3


def test_one_problem_has_no_standard_error():
    assert pass_rate(np.array([0.25])).standard_error == 0.0
