"""Levels that wait, by hand: under Beta(a, 1), P(p > .5) is 1 - .5^a."""

import json
import math

import numpy as np
import pytest

from rl_llm.curriculum.belief import PoolBelief
from rl_llm.curriculum.pool import Outcomes, PoolIndex
from rl_llm.curriculum.prerequisites import Prerequisites
from rl_llm.errors import ConfigError


def pool(*levels, source="s"):
    """One problem a level, and one of another source at the end."""
    levels = (*levels, 1)
    sources = (source,) * (len(levels) - 1) + ("other",)
    return PoolIndex(
        bucket_ids=np.arange(len(levels), dtype=np.int32),
        bucket_names=tuple(f"{s}/level={k}" for s, k in zip(sources, levels, strict=True)),
        bucket_sources=sources,
        bucket_levels=levels,
        endless_K=np.zeros(len(levels), np.bool_),
    )


def make(levels, parents):
    index = pool(*levels)
    belief = PoolBelief(index)
    return Prerequisites(index, belief, {"s": parents}), belief


DESIGN_EFFECT = (
    11 / 4
)  # (3 + 8) / (3 + 1): groups of 8, pass rates spread like a Beta of strength 3


def believe(belief, **a_of):
    """`believe(belief, level_2=3)`: the belief about level 2 of the source is Beta(3, 1)."""
    state = belief.state_dict()
    for name, a in a_of.items():
        bucket = f"s/level={name.removeprefix('level_')}"
        state["rest"]["buckets"][bucket] = (math.log(a), DESIGN_EFFECT * a, 1)
    belief.load_state_dict(state)


def locked(prerequisites):
    return prerequisites.locked().tolist()


def test_a_level_opens_when_its_parent_is_solved_with_certainty():
    prerequisites, belief = make([1, 2], {2: [1]})
    assert locked(prerequisites) == [False, True, False]
    believe(belief, level_1=2)  # 1 - .5^2 = .75
    prerequisites.observe(4)
    assert locked(prerequisites) == [False, True, False]
    assert prerequisites.metrics() == {"curriculum/locked_buckets": 1}
    believe(belief, level_1=3)  # .875
    prerequisites.observe(5)
    assert locked(prerequisites) == [False, False, False]
    assert prerequisites.metrics() == {"curriculum/locked_buckets": 0}


def test_a_level_whose_parent_is_solved_by_its_priors_is_open_from_the_start():
    index = pool(1, 2, 3)
    belief = PoolBelief(index)
    belief.set_priors(np.array([32.0, 0, 0, 0]), np.zeros(4))
    prerequisites = Prerequisites(index, belief, {"s": "in_order"})
    assert locked(prerequisites) == [False, False, True, False]
    assert prerequisites.status(1) == "open"
    again = Prerequisites(index, PoolBelief(index), {"s": "in_order"})
    again.load_state_dict(prerequisites.state_dict())
    assert locked(again) == [False, False, True, False]


def test_a_level_opens_only_when_all_its_parents_are_solved():
    prerequisites, belief = make([1, 2, 3], {3: [1, 2]})
    believe(belief, level_1=9)
    prerequisites.observe(1)
    assert locked(prerequisites) == [False, False, True, False]
    believe(belief, level_2=9)
    prerequisites.observe(2)
    assert not prerequisites.locked().any()


def test_an_open_level_stays_open_when_its_parent_is_lost():
    prerequisites, belief = make([1, 2], {2: [1]})
    believe(belief, level_1=9)
    prerequisites.observe(1)
    believe(belief, level_1=0.1)
    prerequisites.observe(2)
    assert not prerequisites.locked().any()
    believe(belief, level_1=9)
    prerequisites.observe(3)
    assert prerequisites.status(1) == "open since step 1"


def test_beliefs_open_levels_from_outcomes():
    prerequisites, belief = make([1, 2], "in_order")
    for step in (1, 2):
        eight = np.array([8])
        belief.observe(
            Outcomes(indices=np.array([0]), num_correct=eight, num_counted=eight, step=step)
        )
    prerequisites.observe(2)
    assert prerequisites.status(1) == "open since step 2"


def test_a_level_that_nobody_has_seen_opens_none_however_well_its_neighbours_do():
    levels, size = (1, 2, 3), 40
    index = PoolIndex(
        bucket_ids=np.repeat(np.arange(3, dtype=np.int32), size),
        bucket_names=tuple(f"s/level={level}" for level in levels),
        bucket_sources=("s",) * 3,
        bucket_levels=levels,
        endless_K=np.zeros(3, np.bool_),
    )
    belief = PoolBelief(index, coupling=10.0, max_gain=2.0)
    prerequisites = Prerequisites(index, belief, {"s": "in_order"})
    for step, correct in enumerate([0, 2, 8, 8, 8], start=1):
        outcomes = Outcomes(
            indices=np.arange(8),
            num_correct=np.full(8, correct),
            num_counted=np.full(8, 8),
            step=step,
        )
        belief.observe(outcomes)
        prerequisites.observe(step)
    assert belief.bucket_rates()[1] > 0.85
    np.testing.assert_array_equal(prerequisites.locked(), np.repeat([False, False, True], size))


def test_completions_that_share_their_problem_count_for_fewer_than_they_are():
    """19 of 32 correct. As 32 independent ones that is Beta(19.5, 13.5) and a certainty of .86; as
    32 * 4/11 = 11.6 of them it is Beta(7.5, 5.2), and .75, without a prior of neighbours."""
    index = PoolIndex(
        bucket_ids=np.array([0, 0, 0, 0, 1], np.int32),
        bucket_names=("s/level=1", "s/level=2"),
        bucket_sources=("s", "s"),
        bucket_levels=(1, 2),
        endless_K=np.zeros(2, np.bool_),
    )
    belief = PoolBelief(index, coupling=0.0)
    prerequisites = Prerequisites(index, belief, {"s": "in_order"})
    shown = Outcomes(
        indices=np.arange(4),
        num_correct=np.array([8, 7, 4, 0]),
        num_counted=np.full(4, 8),
        step=1,
    )
    belief.observe(shown)
    prerequisites.observe(1)
    assert prerequisites.status(1).endswith("s/level=1 (now 0.75)")


def num_opened(*, rate, strength, num_runs=400, num_problems=50):
    """Count the runs in which 50 steps with a group of 8 each open a level whose parent's problems
    have pass rates spread like a Beta of this mean and strength. Each run is a source."""
    num_K = 2 * num_runs
    sources = tuple(f"s{bucket // 2}" for bucket in range(num_K))
    index = PoolIndex(
        bucket_ids=np.concatenate([np.repeat(np.arange(0, num_K, 2), num_problems), [1]]),
        bucket_names=tuple(f"{source}/level={k % 2}" for k, source in enumerate(sources)),
        bucket_sources=sources,
        bucket_levels=(0, 1) * num_runs,
        endless_K=np.zeros(num_K, np.bool_),
    )
    rng = np.random.default_rng(0)
    rates_N = rng.beta(strength * rate, strength * (1 - rate), index.num_problems)
    belief = PoolBelief(index)
    prerequisites = Prerequisites(index, belief, dict.fromkeys(sources, "in_order"))
    for step in range(1, 51):
        drawn = num_problems * np.arange(num_runs) + rng.integers(num_problems, size=num_runs)
        correct = rng.binomial(8, rates_N[drawn])
        groups = np.full(num_runs, 8)
        belief.observe(Outcomes(indices=drawn, num_correct=correct, num_counted=groups, step=step))
        prerequisites.observe(step)
    return num_runs - prerequisites.metrics()["curriculum/locked_buckets"]


def test_problems_that_differ_in_rate_seldom_open_a_level_whose_parent_is_not_solved():
    """Taken for independent, completions open it in 91 and in 273 of the 400 runs."""
    assert num_opened(rate=0.3, strength=3.0) < 68
    assert num_opened(rate=0.4, strength=3.0) < 170
    assert num_opened(rate=0.7, strength=3.0) == 400


def test_in_order_goes_by_value_for_numbers_and_then_by_appearance_for_names():
    prerequisites, _ = make(["hard", 10, 9, "final"], "in_order")  # 9, 10, hard, final
    assert locked(prerequisites) == [True, True, False, True, False]
    assert "s/level=9 " in prerequisites.status(1)
    assert "s/level=10 " in prerequisites.status(0)
    assert "s/level=hard " in prerequisites.status(3)


def test_an_order_of_names_is_said_and_one_of_numbers_is_not():
    named, _ = make(["hard", 10, 9, "final"], "in_order")
    assert named.orders == [
        "curriculum.prerequisites.s='in_order': levels open in this order: 9, 10, hard, final "
        "(names as they appear)"
    ]
    assert make([3, "1"], "in_order")[0].orders == []
    assert make(["b", "a"], {"a": ["b"]})[0].orders == []


def test_in_order_goes_by_value_for_numbers_that_are_written_as_text():
    prerequisites, _ = make(["6", "2", "10"], "in_order")
    assert locked(prerequisites) == [True, False, True, False]
    assert "s/level=2 " in prerequisites.status(0)
    assert "s/level=6 " in prerequisites.status(2)


def test_in_order_opens_one_level_after_the_other():
    prerequisites, belief = make([1, 2, 3], "in_order")
    believe(belief, level_1=9)
    prerequisites.observe(1)
    assert locked(prerequisites) == [False, False, True, False]


def test_all_problems_of_a_locked_level_are_locked():
    index = PoolIndex(
        bucket_ids=np.array([1, 0, 1], np.int32),
        bucket_names=("s/level=1", "s/level=2"),
        bucket_sources=("s", "s"),
        bucket_levels=(1, 2),
        endless_K=np.array([False, True]),
    )
    prerequisites = Prerequisites(index, PoolBelief(index), {"s": "in_order"})
    assert locked(prerequisites) == [True, False, True]


def test_numbers_and_strings_that_are_written_alike_name_the_same_level():
    prerequisites, _ = make([1, "2", "hard"], {2: ["1"], "hard": [2]})
    assert locked(prerequisites) == [False, True, True, False]


def test_an_empty_list_of_parents_leaves_a_level_open():
    prerequisites, _ = make([1, 2], {2: []})
    assert not prerequisites.locked().any()
    assert prerequisites.status(1) == "open"


def test_status_names_the_rule_and_how_far_each_parent_is():
    prerequisites, belief = make([1, 2, 3], {3: [1, 2]})
    believe(belief, level_1=2)
    assert prerequisites.status(2) == (
        "locked: opens when P(p > 0.5) > 0.8 for s/level=1 (now 0.75), s/level=2 (now 0.50)"
    )


def test_state_is_restored_equal_and_an_unknown_level_starts_locked():
    before, belief = make([1, 2, 3, 4], {3: [1], 4: [2]})
    believe(belief, level_1=9)
    before.observe(7)
    state = json.loads(json.dumps(before.state_dict()))
    assert state == {"columns": {}, "rest": {"opened_step": {"s/level=3": 7}}}
    after, _ = make([1, 2, 3, 4], {3: [1], 4: [2]})
    after.load_state_dict(state)
    assert after.state_dict() == before.state_dict()
    assert locked(after) == [False, False, False, True, False]
    assert after.status(2) == "open since step 7"


def test_loading_locks_again_what_the_state_had_not_opened():
    prerequisites, belief = make([1, 2], "in_order")
    fresh = prerequisites.state_dict()
    believe(belief, level_1=9)
    prerequisites.observe(1)
    prerequisites.load_state_dict(fresh)
    assert locked(prerequisites) == [False, True, False]


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({2: [1], 9: [1]}, r"curriculum\.prerequisites\.s: s has no level 9; known: 1, 2, 3"),
        ({2: ["one"]}, "s has no level 'one'"),
        ({2: [2]}, r"curriculum\.prerequisites\.s\.2: level 2 is its own parent"),
        ({2: ["2"]}, "level 2 is its own parent"),
        ({1: [2], 2: [3], 3: [1]}, "so none would open: 1 waits for 2 waits for 3 waits for 1; "),
        ({1: [2], 2: [3], 3: [2]}, "so none would open: 2 waits for 3 waits for 2; "),
    ],
)
def test_parents_that_make_no_sense_are_refused(parents, message):
    with pytest.raises(ConfigError, match=message):
        make([1, 2, 3], parents)


def test_an_order_of_one_level_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"curriculum\.prerequisites\.s='in_order': data\.train has level 3 alone of s, .* "
        r"leave s out of curriculum\.prerequisites",
    ):
        make([3], "in_order")


def test_an_unknown_source_is_refused_with_the_list():
    index = pool(1)
    with pytest.raises(ConfigError, match=r"prerequisites\.t: .* no source 't'; known: other, s"):
        Prerequisites(index, PoolBelief(index), {"t": "in_order"})
