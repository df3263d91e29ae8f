"""The learner of digit sums that stands for the benchmark's model, and the table made with it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rl_llm.plugins import load_module
from rl_llm.records import Problem

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    files = {"sums": "parts/curriculum/sums.py", "simulated": "bench_curriculum_simulated.py"}
    return SimpleNamespace(**{name: load_module(SCRIPTS / file) for name, file in files.items()})


def problem(prompt):
    return Problem(key=prompt, prompt=prompt, answer="", level=2, source="arithmetic")


def test_a_sum_needs_its_digit_sums_with_their_carries_and_its_places(scripts):
    # 7+8 without a carry, 4+3 with one: (left * 10 + right) * 2 + carry; then places 0 and 1.
    assert scripts.sums.skills_of(problem("47+38=")).tolist() == [156, 87, 200, 201]


def test_a_pass_rate_is_the_product_of_the_skills(scripts):
    learner = scripts.sums.SumsLearner(seed=0)
    skills = scripts.sums.skills_of(problem("47+38="))
    each = learner.rates([np.array([skill]) for skill in skills])
    assert learner.rates([skills])[0] == pytest.approx(each.prod())
    assert each[2:] == pytest.approx([0.995, 0.98])
    shown = learner.answer(skills, 20_000).all(axis=1).mean()
    assert shown == pytest.approx(each.prod(), abs=0.015)


def test_a_mixed_group_raises_the_skill_that_told_right_from_wrong(scripts):
    learner = scripts.sums.SumsLearner(seed=0, noise=0.0, share=0.0)
    skills = np.array([156, 201])
    before = learner.rates([np.array([156]), np.array([201])])
    learner.learn([(skills, np.array([[True, True], [False, True]] * 4))])
    after = learner.rates([np.array([156]), np.array([201])])
    assert after[0] > before[0]
    assert after[1] == pytest.approx(before[1])  # Right in all, so the advantages cancel.


@pytest.mark.parametrize("right", [True, False])
def test_a_group_with_equal_rewards_teaches_nothing(scripts, right):
    learner = scripts.sums.SumsLearner(seed=0)
    skills = np.arange(200)
    before = learner.rates([skills])
    learner.learn([(np.array([156, 201]), np.full((8, 2), right))])
    assert learner.rates([skills]) == before


def test_what_is_told_replaces_the_belief_and_no_more(scripts):
    belief = SimpleNamespace(
        beta=lambda where: SimpleNamespace(a=np.array([1.0, 2.0]), b=np.array([3.0, 2.0])),
        has_evidence=lambda where: np.array([True, False]),
        prior_strength=4.0,
    )
    world, one_level = SimpleNamespace(rates_N=lambda: np.array([0.9, 0.7])), np.array([0, 0])
    told = {
        knows: scripts.simulated._Told(belief, world, knows, one_level).beta(slice(None))
        for knows in ("all", "drawn", "undrawn", "levels")
    }
    assert {knows: belief.mean.tolist() for knows, belief in told.items()} == {
        "all": pytest.approx([0.9, 0.7]),
        "drawn": pytest.approx([0.9, 0.5]),
        "undrawn": pytest.approx([0.25, 0.7]),
        "levels": pytest.approx([0.25, 0.8]),
    }
    assert told["levels"].a.tolist() == pytest.approx([1.0, 3.2])


def test_the_target_is_crossed_between_two_points_and_shares_weigh_by_completions(scripts):
    curve = scripts.sums.Curve(
        completions=np.array([0.0, 100.0, 400.0]),
        pass_rate=np.array([0.0, 0.69, 0.89]),
        mixed=np.array([0.0, 0.8, 0.4]),
    )
    assert scripts.simulated.crossing(curve) == pytest.approx(250.0)
    assert scripts.simulated.mixed(curve, 400) == pytest.approx(0.5)
    assert scripts.simulated.mixed(curve, 100) == pytest.approx(0.8)


def test_a_run_is_the_same_again_and_who_knows_more_draws_more_mixed_groups(scripts):
    curves = {
        arm: scripts.simulated.simulated(arm, 200, budget=1024)
        for arm in ("posterior", "knows all pass rates", "oracle")
    }
    again = scripts.simulated.simulated("posterior", 200, budget=1024)
    assert again.pass_rate.tolist() == curves["posterior"].pass_rate.tolist()
    posterior, knowing, oracle = (scripts.simulated.mixed(c, 1024) for c in curves.values())
    assert min(knowing, oracle) > posterior + 0.05
    assert curves["posterior"].completions[-1] == 1024


def test_the_table_has_a_line_for_each_arm(scripts, monkeypatch):
    arms = {"posterior": (), "uniform": scripts.simulated.ARMS["uniform"]}
    monkeypatch.setattr(scripts.simulated, "ARMS", arms)
    monkeypatch.setattr(scripts.simulated, "TARGET", 0.2)  # Reached at once.
    found = list(scripts.simulated.lines(1))
    assert [line.split(" | ")[0] for line in found] == ["arm", "posterior", "uniform"]
