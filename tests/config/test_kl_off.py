"""What a recipe without a penalty may say of one."""

import pytest

from rl_llm.config import load_recipe, parse_recipe
from rl_llm.errors import ConfigError

SMALLEST = {
    "run": {"name": "a", "steps": 1},
    "model": {"path": "m"},
    "data": {"train": [{"use": "arithmetic"}]},
    "rewards": [{"use": "exact_answer"}],
}


def parse(**kl):
    return parse_recipe({**SMALLEST, "kl": kl}, where="test")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"estimator": "k3"}, "kl.estimator='k3'"),
        ({"estimator": "k1", "placement": "reward"}, "kl.estimator='k1' and kl.placement='reward'"),
        ({"ceiling": 0.5}, "kl.ceiling=0.5"),
    ],
)
def test_what_only_a_penalty_reads_is_refused_where_there_is_none(said, named):
    with pytest.raises(ConfigError) as error:
        parse(**said)
    assert f"{named} with kl.controller 'constant' and beta 0: there is no penalty" in str(
        error.value
    )
    assert parse(**said, controller={"name": "constant", "beta": 0.1})


def test_what_holds_by_default_may_stand_there():
    assert parse(estimator="k2", placement="loss", controller={"name": "constant", "beta": 0.0})


def test_a_shipped_recipe_with_a_penalty_runs_without_one_too():
    off = ["kl.controller={name: constant, beta: 0.0}"]
    assert load_recipe("recipes/quickstart.yaml", off).kl.estimator == "k2"
