"""What is said of a step beside its numbers."""

from pathlib import Path
from types import SimpleNamespace

from rl_llm.config import load_recipe
from rl_llm.plugins import load_module
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.remarks import Remarks

_shared = load_module(Path(__file__).parents[1] / "curriculum" / "conftest.py")
make_problems, score_group = _shared.make_problems, _shared.score_group

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def test_a_step_that_solves_nothing_behind_one_that_solved_much_is_told_of_once(
    make_problems, score_group
):
    (problem,) = make_problems(1)

    def harvest(correct, *, is_dry):
        groups = (score_group(problem, correct),) * 12
        return Harvest(
            scored=groups,
            draws=(),
            admitted=() if is_dry else groups,
            dropped=groups if is_dry else (),
            num_rounds=1,
            generate_s=1.0,
            score_s=0.0,
        )

    remarks = Remarks(load_recipe(QUICKSTART, []), SimpleNamespace(critic=None))
    good, dry = harvest([1, 1, 1, 0], is_dry=False), harvest([0, 0, 0, 0], is_dry=True)
    assert "fell" not in remarks.of_dry(dry)
    remarks.of_harvest(good)
    assert "The pass rate fell from 0.75 in the step before to 0" in remarks.of_dry(dry)
    remarks.of_harvest(dry)
    assert remarks.of_dry(dry).startswith("again nothing to learn from")
    assert "fell" not in remarks.of_dry(dry)
