import numpy as np
import pytest

from rl_llm.curriculum.samplers import Greso


def rates(sampler):
    return sampler.state_dict()["rest"]["p"]


def explained(sampler, position, num_problems):
    return sampler.explain(position, exclude=np.zeros(num_problems, np.bool_))


def test_before_anything_is_seen_an_epoch_visits_every_problem_once(make_index):
    sampler = Greso(index=make_index(12), seed=0)
    for epoch in range(2):
        drawn = np.concatenate([sampler.plan(4 * epoch + step, 3) for step in range(4)])
        assert sorted(drawn) == list(range(12))


def test_the_skip_probability_is_one_minus_the_base_to_the_row_of_equal_groups(
    make_index, outcomes
):
    sampler = Greso(index=make_index(4), seed=0, p_easy=0.5, p_hard=0.6)
    for _ in range(3):
        sampler.observe(outcomes([0, 1, 2], [8, 0, 0]))
    sampler.observe(outcomes([2], 1))  # mixed: z is 0 again
    assert "all-correct groups in a row: 3, so a turn is skipped with probability 0.88" in (
        explained(sampler, 0, 4)  # 1 - .5^3 = .875
    )
    assert "all-wrong groups in a row: 3, so a turn is skipped with probability 0.78" in (
        explained(sampler, 1, 4)  # 1 - .6^3 = .784
    )
    assert "it is not skipped" in explained(sampler, 2, 4)
    sampler.observe(outcomes([0], 0))  # from all correct to all wrong: a row of 1
    assert "skipped with probability 0.40" in explained(sampler, 0, 4)


def test_a_long_row_is_still_kept_once_in_a_hundred_turns(make_index, outcomes):
    sampler = Greso(index=make_index(1), seed=0)
    for _ in range(20):
        sampler.observe(outcomes([0], 8))
    assert "skipped with probability 0.99" in explained(sampler, 0, 1)


def test_turns_are_skipped_that_often(make_index, outcomes):
    # Of two problems one is skipped in 3 of 4 turns, so in a draw of one from a fresh epoch it is
    # chosen when it comes first and is kept (1/2 * 1/4), and never when it comes second.
    index = make_index(2)
    num_hard = 0
    for seed in range(2000):
        sampler = Greso(index=index, seed=seed)
        for _ in range(2):
            sampler.observe(outcomes([0], 0))
        num_hard += int(sampler.plan(0, 1)[0] == 0)
    assert num_hard / 2000 == pytest.approx(1 / 8, abs=0.025)


def test_a_skipped_problem_has_its_next_turn_in_the_next_epoch(make_index, outcomes):
    # Problem 0 is kept in 1 of 2 turns and has one turn in an epoch. It is among the first five
    # draws of six problems if it is kept and does not stand last: 1/2 * 5/6.
    index = make_index(6)
    num_drawn = 0
    for seed in range(1500):
        sampler = Greso(index=index, seed=seed)
        sampler.observe(outcomes([0], 0))
        drawn = [int(sampler.plan(step, 1)[0]) for step in range(5)]
        assert len(set(drawn)) == 5
        num_drawn += 0 in drawn
    assert num_drawn / 1500 == pytest.approx(5 / 12, abs=0.04)


def test_when_an_epoch_skips_all_those_likeliest_to_be_kept_are_drawn(make_index, outcomes):
    # Kept with probability .01, .01, .5 and .01; a seed whose two passes skip them all.
    def sampler(seed):
        sampler = Greso(index=make_index(4), seed=seed)
        for _ in range(10):
            sampler.observe(outcomes([0, 1, 3], 0))
        sampler.observe(outcomes([2], 0))
        return sampler

    drawn = [sampler(seed).plan(0, 1).tolist() for seed in range(50)]
    assert [len(chosen) for chosen in drawn] == [1] * 50
    assert sum(chosen == [2] for chosen in drawn) >= 45
    assert sorted(sampler(0).plan(0, 4)) == [0, 1, 2, 3]


def test_the_bases_move_a_hundredth_towards_the_target_shares_of_a_step(make_index, outcomes):
    sampler = Greso(index=make_index(12), seed=0)
    sampler.plan(0, 12)
    sampler.observe(outcomes(range(12), [8] * 6 + [0] * 6))
    sampler.plan(1, 12)
    assert rates(sampler) == [0.5, 0.5]  # the first epoch, in which nothing can be skipped
    # 1 of 12 is all correct, as many as the target; 1 of 12 all wrong, fewer than 1/6.
    sampler.observe(outcomes(range(12), [8, 0] + [4] * 10))
    sampler.plan(2, 12)
    assert rates(sampler) == pytest.approx([0.49, 0.51])


def test_the_rounds_of_a_step_count_together(make_index, outcomes):
    sampler = Greso(index=make_index(12), seed=0)
    sampler.plan(0, 12)
    sampler.plan(1, 6)
    sampler.observe(outcomes(range(6), [8, 0, 4, 4, 4, 4], step=1))
    exclude = np.arange(12) < 6
    sampler.plan(1, 6, round=1, exclude=exclude)
    sampler.observe(outcomes(range(6, 12), [0, 4, 4, 4, 4, 4], step=1))
    assert rates(sampler) == [0.5, 0.5]
    sampler.plan(2, 6)
    assert rates(sampler) == pytest.approx([0.49, 0.49])  # 1 and 2 of 12: the targets


def test_the_bases_stay_within_their_bounds(make_index, outcomes):
    sampler = Greso(index=make_index(4), seed=0, p_easy=0.06, p_hard=0.94)
    sampler.plan(0, 4)
    sampler.plan(1, 4)
    for step in range(2, 6):
        sampler.observe(outcomes(range(4), 8))
        sampler.plan(step, 4)
    assert rates(sampler) == pytest.approx([0.05, 0.95])
