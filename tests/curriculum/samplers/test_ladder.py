import numpy as np
import pytest

from rl_llm.curriculum.samplers import Ladder
from rl_llm.errors import ConfigError


@pytest.fixture
def levels_drawn():
    """Return `(sampler, index, num=4, exclude=None) -> levels` of one plan."""

    def draw(sampler, index, num=4, exclude=None):
        drawn = sampler.plan(0, num, exclude=exclude)
        return {index.bucket_levels[bucket] for bucket in index.bucket_ids[drawn]}

    return draw


@pytest.fixture
def climb(make_index):
    """Four levels of 10 problems each, windows of one level, judged after 16 completions."""
    index = make_index(10, 10, 10, 10)
    return Ladder(index=index, seed=0, width=1, min_completions=16), index


def test_numbers_stand_by_value_and_names_after_them_as_they_appear(make_index, outcomes):
    index = make_index(1, 1, 1, 1, 1, levels=["b", 10, "a", "2", -1])
    sampler = Ladder(index=index, seed=0, width=1, min_completions=8)
    seen = []
    for _ in range(5):
        (position,) = sampler.plan(0, 1)
        seen.append(index.bucket_levels[position])
        sampler.observe(outcomes([position], 8))
    assert seen == [-1, "2", 10, "b", "a"]


@pytest.mark.parametrize(
    ("levels", "width", "said"),
    [
        ([0], 2, "the ladder's window of width=2 holds every level of s (0): it never moves"),
        ([2, 1], 2, "the ladder's window of width=2 holds every level of s (1, 2): it never moves"),
        (["hard", 1, "easy"], 2, "in this order: s (1, hard, easy); names come as they appear"),
        ([3, 1, "2"], 2, None),
    ],
)
def test_a_window_that_cannot_move_and_an_order_of_names_are_told(make_index, levels, width, said):
    index = make_index(*[1] * len(levels), levels=levels)
    remarks = Ladder(index=index, seed=0, width=width).remarks()
    assert len(remarks) == (said is not None)
    assert all(said in remark for remark in remarks)


def test_a_plan_is_uniform_over_the_window(make_index, first_draw_shares):
    index = make_index(1, 3, 5)
    sampler = Ladder(index=index, seed=0, width=2)
    assert first_draw_shares(sampler, 4000) == pytest.approx([0.25] * 4, abs=0.025)


def test_the_window_moves_up_above_and_down_below_its_bounds(climb, outcomes, levels_drawn):
    sampler, index = climb
    sampler.observe(outcomes([0, 1], [8, 7]))  # 15/16 = .94
    assert levels_drawn(sampler, index) == {1}
    sampler.observe(outcomes([10, 11], [2, 2]))  # 4/16 = .25
    assert levels_drawn(sampler, index) == {0}


def test_a_rate_on_a_bound_moves_nothing(make_index, outcomes, levels_drawn):
    index = make_index(10, 10, 10)
    sampler = Ladder(index=index, seed=0, width=1, min_completions=10)
    sampler.observe(outcomes([0], 9, counted=10))  # .9 is not above .9
    assert levels_drawn(sampler, index) == {0}
    sampler.observe(outcomes([0], 10, counted=10))
    assert levels_drawn(sampler, index) == {1}
    sampler.observe(outcomes([10], 3, counted=10))  # .3 is not below .3
    assert levels_drawn(sampler, index) == {1}


def test_after_a_move_enough_completions_of_the_new_window_are_needed(
    climb, outcomes, levels_drawn
):
    sampler, index = climb
    sampler.observe(outcomes([0, 1], 8))
    sampler.observe(outcomes([10], 0))  # 8 of 16: too few to judge
    assert levels_drawn(sampler, index) == {1}
    sampler.observe(outcomes([11], 0))
    assert levels_drawn(sampler, index) == {0}


def test_what_a_window_has_shown_outlives_a_restart(climb, outcomes, levels_drawn):
    sampler, index = climb
    sampler.observe(outcomes([0], 8))  # 8 of 16: too few to judge
    resumed = Ladder(index=index, seed=0, width=1, min_completions=16)
    resumed.load_state_dict(sampler.state_dict())
    resumed.observe(outcomes([1], 8))
    assert levels_drawn(resumed, index) == {1}


def test_completions_of_other_levels_do_not_count(climb, outcomes, levels_drawn):
    sampler, index = climb
    sampler.observe(outcomes([10, 11, 20, 21], 8))
    assert levels_drawn(sampler, index) == {0}


def test_the_rate_is_a_recent_one(climb, outcomes, levels_drawn):
    sampler, index = climb
    for _ in range(10):
        sampler.observe(outcomes([0, 1], 0))
    # 16 remain of the 160: 0/16, then with 16 right each time 1/2, 3/4, 7/8, 15/16.
    for _ in range(3):
        sampler.observe(outcomes([0, 1], 8))
    assert levels_drawn(sampler, index) == {0}
    sampler.observe(outcomes([0, 1], 8))
    assert levels_drawn(sampler, index) == {1}


def test_the_ends_of_the_ladder_hold(make_index, outcomes, levels_drawn):
    index = make_index(4, 4)
    sampler = Ladder(index=index, seed=0, width=2, min_completions=8)
    sampler.observe(outcomes([0], 0))
    assert levels_drawn(sampler, index, num=8) == {0, 1}
    sampler.observe(outcomes(range(8), 8))
    assert levels_drawn(sampler, index, num=8) == {0, 1}


def test_sources_climb_apart(make_index, outcomes, levels_drawn):
    index = make_index(4, 4, 4, 4, sources=["x", "x", "y", "y"], levels=[1, 2, 10, 20])
    sampler = Ladder(index=index, seed=0, width=1, min_completions=8)
    sampler.observe(outcomes([8], 8))
    assert levels_drawn(sampler, index, num=8) == {1, 20}


def test_a_window_with_nothing_left_is_widened_to_the_nearest_level_of_its_source(make_index):
    index = make_index(4, 4, 4, 4, sources=["x", "x", "x", "y"], levels=[1, 2, 3, 1])
    sampler = Ladder(index=index, seed=0, width=1)
    exclude = np.arange(16) < 4
    drawn = np.concatenate([sampler.plan(step, 1, exclude=exclude) for step in range(2000)])
    # Level 2 of x stands in for its level 1, beside the window of y; level 3 does not.
    shares = np.bincount(index.bucket_ids[drawn], minlength=4) / 2000
    assert shares == pytest.approx([0.0, 0.5, 0.0, 0.5], abs=0.04)


def test_a_plan_larger_than_the_window_takes_the_nearest_levels_next(climb, levels_drawn):
    sampler, index = climb
    assert levels_drawn(sampler, index, num=10) == {0}
    assert levels_drawn(sampler, index, num=20) == {0, 1}
    assert levels_drawn(sampler, index, num=40) == {0, 1, 2, 3}


def test_a_level_that_is_gone_starts_its_source_anew(make_index, outcomes, levels_drawn):
    sampler = Ladder(index=make_index(4, 4), seed=0, width=1, min_completions=8)
    sampler.observe(outcomes([0], 8))
    longer, other = make_index(4, 4, 4, levels=[0, 1, 2]), make_index(4, 4, levels=[5, 6])
    for index, expected in ((longer, 1), (other, 5)):
        resumed = Ladder(index=index, seed=0, width=1)
        resumed.load_state_dict(sampler.state_dict())
        assert levels_drawn(resumed, index) == {expected}


def test_explain_says_where_the_level_is_beside_the_window(climb, outcomes):
    sampler, _ = climb
    sampler.observe(outcomes([0, 1], 8))
    sampler.observe(outcomes([10], 4))
    nothing = np.zeros(40, np.bool_)
    assert sampler.explain(0, exclude=nothing) == (
        "its level 0 is below the window of s, which holds 1 (0.50 of 8 completions correct)"
    )
    assert "level 1 is in the window" in sampler.explain(10, exclude=nothing)
    assert "level 3 is above the window" in sampler.explain(39, exclude=nothing)


def test_bounds_that_contradict_are_refused(make_index):
    with pytest.raises(ConfigError, match=r"down=0\.5 with up=0\.4"):
        Ladder(index=make_index(1), seed=0, up=0.4, down=0.5)
