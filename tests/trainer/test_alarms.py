"""What raises an alarm and what does not, by hand; and that each speaks once."""

import math
from pathlib import Path

import numpy as np
import pytest

from rl_llm.config import load_recipe
from rl_llm.trainer.alarms import Alarms, build_alarms
from rl_llm.trainer.held_out_alarms import Collapse, Measured, Overfit, SideReward, errors_between
from rl_llm.trainer.rollout_alarms import Duplicates, Length, OneAnswer, Truncation

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def evaluated(step, held_out, tags=None, *, train=None, problems=72, **more):
    """Return a row; each of the three is a mean with its standard error."""
    row = {"step": step, "eval/completions": problems, **more}
    keys = {
        "eval/pass_rate": held_out,
        "eval/reward/tags_mean": tags,
        "eval/train_pass_rate": train,
    }
    for key, given in keys.items():
        if given is not None:
            row[key], row[f"{key}_se"] = given
    return row


def judged(alarm, rows):
    """Return the steps of the rows for which an alarm stands; a test has one name an alarm."""
    verdicts = [(row["step"], alarm(row)) for row in rows]
    return [step for step, named in verdicts if any(why is not None for why in named.values())]


def side_reward(*rows, samples=1):
    return judged(SideReward(["tags"], samples_per_problem=samples), rows)


def overfit(*rows):
    return judged(Overfit(samples_per_problem=1), rows)


def test_a_change_is_counted_in_standard_errors_of_the_difference():
    # 0.2 over the root of 0.03^2 + 0.04^2.
    assert errors_between(Measured(0.5, 0.03), Measured(0.7, 0.04)) == pytest.approx(4.0)
    assert errors_between(Measured(1.0, 0.0), Measured(0.9, 0.0)) == -math.inf
    assert errors_between(Measured(0.1, 0.0), Measured(0.1 + 1e-16, 0.0)) == 0.0


class TestSideReward:
    # Of 72 problems half a standard deviation is 0.5 * root(72 / 2) = 3 standard errors.
    FORMAT = ((0.2, 0.03), (0.6, 0.04), (0.9, 0.02))

    def rows(self, *held_out, tags=FORMAT):
        steps = (0, 8, 16, 24)
        return [evaluated(*each) for each in zip(steps, held_out, tags, strict=False)]

    def test_it_is_raised_where_the_format_rises_and_the_pass_rate_stays_at_0(self):
        assert side_reward(*self.rows((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))) == [16]

    def test_it_is_not_where_the_pass_rate_rises_by_one_standard_error(self):
        # 0.06 over the root of 0.03^2 + 0.04^2 is 1.2, and 0.04 is 0.8.
        level = (0.2, 0.03)
        assert side_reward(*self.rows(level, (0.2, 0.04), (0.26, 0.04))) == []
        assert side_reward(*self.rows(level, (0.2, 0.04), (0.24, 0.04))) == [16]
        assert side_reward(*self.rows(level, (0.26, 0.04), (0.2, 0.04))) == []

    def test_a_reward_that_rises_by_less_than_three_standard_errors_does_not_count(self):
        flat = [(0.0, 0.0)] * 3
        # 0.15 over the root of 0.03^2 + 0.04^2 is 3.0.
        tags = ((0.2, 0.03), (0.36, 0.04), (0.36, 0.04))
        assert side_reward(*self.rows(*flat, tags=tags)) == [16]
        tags = ((0.2, 0.03), (0.36, 0.04), (0.34, 0.04))
        assert side_reward(*self.rows(*flat, tags=tags)) == []

    def test_of_many_problems_what_is_sure_has_to_matter_too(self):
        # 4 standard errors: of 128 problems half a standard deviation, of 200 less than that.
        tags = ((0.2, 0.03), (0.4, 0.04), (0.4, 0.04))
        for problems, raised in ((128, [16]), (200, [])):
            rows = self.rows(*[(0.0, 0.0)] * 3, tags=tags)
            assert side_reward(*[row | {"eval/completions": problems} for row in rows]) == raised

    def test_where_the_pass_rate_falls_whatever_is_sure_counts(self):
        # Of 700 problems half a standard deviation is 9.4 standard errors; this is 4, up and down.
        tags = ((0.2, 0.03), (0.4, 0.04), (0.4, 0.04))
        for fallen, raised in (((0.3, 0.04), [16]), ((0.36, 0.04), [])):  # By 4 and by 2.8.
            rows = self.rows((0.5, 0.03), (0.3, 0.04), fallen, tags=tags)
            assert side_reward(*[row | {"eval/completions": 700} for row in rows]) == raised

    def test_one_evaluation_off_alone_raises_nothing(self):
        flat, dip = (0.5, 0.05), (0.2, 0.04)
        tags = ((0.2, 0.03), (0.2, 0.03), (0.2, 0.03), (0.9, 0.02))
        assert side_reward(*self.rows(flat, flat, flat, dip, tags=tags)) == []

    def test_what_only_wins_back_what_it_had_does_not_rise(self):
        tags = ((0.95, 0.02), (0.5, 0.04), (0.94, 0.02), (0.95, 0.02))
        assert side_reward(*self.rows(*[(0.3, 0.05)] * 4, tags=tags)) == []

    def test_where_nearly_all_is_solved_the_pass_rate_has_to_fall(self):
        # 0.97 lies within 3 * 0.02 of 1. To 0.8: 0.17 over the root of 0.02^2 + 0.03^2, 4.7.
        solved, tags = (0.97, 0.02), self.FORMAT
        assert side_reward(*self.rows(solved, solved, solved, tags=tags)) == []
        assert side_reward(*self.rows(solved, (0.8, 0.03), (0.8, 0.03), tags=tags)) == [16]

    def test_of_fewer_than_eight_problems_nothing_is_said(self):
        for problems, samples, raised in ((8, 1, [16]), (7, 1, []), (8, 2, []), (16, 2, [16])):
            rows = self.rows(*[(0.0, 0.0)] * 3)
            rows = [row | {"eval/completions": problems} for row in rows]
            assert side_reward(*rows, samples=samples) == raised

    def test_it_clears_once_the_pass_rate_follows(self):
        flat, up = (0.1, 0.03), (0.5, 0.05)
        tags = (*self.FORMAT, (0.9, 0.02))
        assert side_reward(*self.rows(flat, flat, flat, up, tags=tags)) == [16]

    def test_the_message_names_the_reward_the_values_and_the_steps(self):
        alarm = SideReward(["tags"], samples_per_problem=1)
        *_, last = (alarm(row) for row in self.rows(*[(0.125, 0.03)] * 3))
        assert last["reward/tags"].startswith(
            "from step 0 to step 16 the held-out mean of reward 'tags' rose from 0.200 +- 0.030 to "
            "0.900 +- 0.020, and the held-out pass rate did not rise: 0.125 +- 0.030 to "
            "0.125 +- 0.030."
        )

    def test_a_reward_on_channel_correctness_is_none_of_its_business(self):
        alarm = SideReward([], samples_per_problem=1)
        assert [alarm(row) for row in self.rows(*[(0.0, 0.0)] * 3)] == [{}] * 3


class TestOverfit:
    HELD_OUT = ((0.6, 0.03), (0.4, 0.04), (0.4, 0.04))
    TRAIN = ((0.3, 0.03), (0.5, 0.04), (0.7, 0.04))

    def rows(self, train=TRAIN, held_out=HELD_OUT):
        pairs = zip(held_out, train, strict=True)
        return [
            evaluated(8 * number, *pair[:1], train=pair[1]) for number, pair in enumerate(pairs)
        ]

    def test_it_is_raised_where_training_rises_and_held_out_falls_twice(self):
        assert overfit(*self.rows()) == [16]

    def test_a_held_out_fall_within_noise_raises_nothing(self):
        # 0.14 over the root of 0.03^2 + 0.04^2 is 2.8.
        held_out = ((0.6, 0.03), (0.4, 0.04), (0.46, 0.04))
        assert overfit(*self.rows(held_out=held_out)) == []

    def test_where_both_fall_it_is_not_overfitting(self):
        assert overfit(*self.rows(train=((0.7, 0.04), (0.5, 0.04), (0.3, 0.03)))) == []

    def test_without_training_problems_in_the_evaluation_the_steps_between_count(self):
        def steps(*rates, after):
            return [{"step": after + n, "train/pass_rate": r} for n, r in enumerate(rates, 1)]

        low, high = (0.30, 0.34, 0.32, 0.36), (0.70, 0.74, 0.72, 0.76)
        first, second, third = (
            evaluated(step, rate)
            for step, rate in ((4, (0.6, 0.03)), (8, (0.4, 0.04)), (12, (0.4, 0.04)))
        )
        rows = [*steps(*low, after=0), first, *steps(*high, after=4), second]
        rows += [*steps(*high, after=8), third]
        assert overfit(*rows) == [12]
        # The spread of three steps is no standard error.
        assert overfit(*[row for row in rows if row["step"] % 4 != 1]) == []


class TestCollapse:
    def rates(self, *rates, problems=72, every=4, side=()):
        """Judge evaluations of problems that are each solved or not, once each."""
        rows = [
            evaluated(every * n, (p, (p * (1 - p) / (problems - 1)) ** 0.5), problems=problems)
            for n, p in enumerate(rates)
        ]
        return judged(Collapse(side, samples_per_problem=1), rows)

    def test_a_fall_from_the_best_is_told_at_the_first_evaluation_that_shows_it(self):
        # .373 over the root of .0587^2 + .0476^2 + .1865^2 / 36 is 4.55; root(16 + 2 ln 3) is 4.27.
        curve = (0.45, 0.53, 0.574, 0.201, 0.009, 0.0)
        assert self.rates(*curve) == [12, 16, 20]
        assert self.rates(*curve, problems=700) == [12, 16, 20]

    def test_it_clears_once_two_thirds_are_back(self):
        assert self.rates(0.6, 0.1, 0.39, 0.41, problems=700) == [4, 8]

    def test_what_keeps_two_thirds_has_not_collapsed_however_sure_the_fall(self):
        assert self.rates(0.6, 0.41, problems=7000) == []
        assert self.rates(0.6, 0.39, problems=7000) == [4]

    def test_of_eight_problems_all_and_then_none_say_too_little(self):
        # 1 over the root of .25 * 2 / 8 is 4, and of 2 / 12 of it 4.9.
        assert self.rates(1.0, 0.0, problems=8) == []
        assert self.rates(1.0, 0.0, problems=12) == [4]

    def test_a_policy_that_learns_nothing_does_not_fall_from_nothing(self):
        assert self.rates(0.0, 0.0, 0.0, problems=700) == []
        assert self.rates(0.01, 0.0, 0.004, problems=700) == []

    @pytest.mark.parametrize("problems", [8, 12, 32, 100, 400])
    @pytest.mark.parametrize("pass_rate", [0.05, 0.3, 0.5, 0.8])
    def test_noise_alone_does_not_raise_it(self, problems, pass_rate):
        """30 runs of 40 evaluations each, independent of one another."""
        rng = np.random.default_rng(problems)
        for _ in range(30):
            solved = rng.binomial(problems, pass_rate, size=40) / problems
            assert self.rates(*solved, problems=problems) == []

    def test_the_message_names_the_rates_the_steps_and_what_is_likely(self):
        alarm = Collapse(["tags"], samples_per_problem=1)
        alarm(evaluated(8, (0.574, 0.06)))
        why = alarm(evaluated(12, (0.201, 0.04), **{"kl/beta": 0.0}))["collapse"]
        assert why == (
            "the held-out pass rate fell from 0.574 +- 0.060 at step 8, the best so far, to 0.201 "
            "+- 0.040 at step 12. Likely: optim.lr is too high (lower it), or a side reward pays "
            "for something else ('tags': lower its weight, or only_if), or nothing holds the "
            "policy near the start (kl/beta is 0: set a beta under kl)"
        )

    def test_only_what_the_run_has_is_named_as_a_cause(self):
        alarm = Collapse([], samples_per_problem=1)
        alarm(evaluated(8, (0.574, 0.06)))
        why = alarm(evaluated(12, (0.201, 0.04), **{"kl/beta": 0.01}))["collapse"]
        assert why.endswith("at step 12. Likely: optim.lr is too high (lower it)")


def lengths(*means, levels=("a/level=1",), start=1):
    return [
        {
            "step": start + number,
            "train/completion_tokens_mean": float(mean),
            **{f"train/completion_tokens_mean/{level}": float(mean) for level in levels},
        }
        for number, mean in enumerate(means)
    ]


class TestLength:
    STEADY = (98, 102) * 4  # A standard deviation of 2.14 over the 8 steps.

    def test_half_as_long_again_raises_it_once_four_steps_say_so(self):
        assert judged(Length(), lengths(*self.STEADY, *[150] * 4)) == [12]
        assert judged(Length(), lengths(*self.STEADY, *[149] * 4)) == []

    def test_seven_steps_before_are_too_few(self):
        assert judged(Length(), lengths(*self.STEADY[:7], *[300] * 4)) == []

    def test_noise_as_large_as_the_growth_raises_nothing(self):
        # A standard deviation of 85.5 %, and 0.612 of it is the standard error: 0.52.
        assert judged(Length(), lengths(*(20, 180) * 4, *[200] * 4)) == []

    def test_harder_levels_with_longer_answers_are_no_growth(self):
        easy = lengths(*self.STEADY)
        hard = lengths(*[400] * 4, levels=("a/level=9",), start=9)
        assert judged(Length(), [*easy, *hard]) == []
        both = [row | {"train/completion_tokens_mean/a/level=1": 160.0} for row in hard]
        assert judged(Length(), [*easy, *both]) == [12]

    def test_a_level_that_was_seen_once_before_says_little(self):
        # As long as before: 4, 1, 2 and 3 times, a geometric mean of 2.2. The logarithm is 0.79,
        # with a standard error of root(1.087 / 10 * 5 / 4) = 0.37.
        before = lengths(*self.STEADY)
        before[0] |= {"train/completion_tokens_mean/a/level=9": 10.0}
        recent = lengths(40, 10, 20, 30, levels=("a/level=9",), start=9)
        assert judged(Length(), [*before, *recent]) == []

    @pytest.mark.parametrize("seed", [0, 1, 3])
    def test_problems_of_unlike_lengths_in_levels_that_come_and_go_are_no_growth(self, seed):
        """Four problems a step; one in six is 1.8 times as long as usual, or longer."""
        rng = np.random.default_rng(seed)

        def step(number, grown):
            found = {}
            for level in rng.integers(6, size=4):
                length = grown * 10 * 1.5**level * np.exp(0.6 * rng.standard_normal())
                found.setdefault(f"train/completion_tokens_mean/a/level={level}", []).append(length)
            means = {level: float(np.mean(own)) for level, own in found.items()}
            return {"step": number, "train/completion_tokens_mean": 1.0} | means

        steady = [step(number, 1.0) for number in range(1, 101)]
        assert judged(Length(), steady) == []
        raised = judged(Length(), [*steady, *(step(number, 6.0) for number in range(101, 105))])
        assert raised and raised[0] > 100

    def test_it_clears_when_the_new_length_is_the_usual_one(self):
        raised = judged(Length(), lengths(*self.STEADY, *[200] * 24))
        # At step 14 two of the ten steps before are long, too: a mean of 120, a deviation of 42.
        # 200 is 1.67 times as long, and four standard errors are 4 * 0.35 * 0.59 = 0.83.
        assert raised == [12, 13]


class TestTruncation:
    def shares(self, *values, problems=100):
        rows = [{"step": n, "train/truncated_share": v} for n, v in enumerate(values, 1)]
        return judged(Truncation(problems_per_step=problems), rows)

    def test_a_tenth_more_than_before_raises_it(self):
        # Overall 0.04: root(0.04 * 0.96 / 100) * root(1/8 + 1/4) is 0.012, four of which are 0.048.
        assert self.shares(*[0.0] * 8, *[0.12] * 4) == [12]
        assert self.shares(*[0.0] * 8, *[0.09] * 4) == []

    def test_of_few_problems_a_tenth_is_noise(self):
        # Overall 0.04 of 8 problems: 0.0424, four of which are 0.17.
        assert self.shares(*[0.0] * 8, *[0.12] * 4, problems=8) == []

    def test_what_was_always_cut_is_not_new(self):
        assert self.shares(*[0.4] * 12) == []


class TestOneAnswer:
    def shares(self, answer, reference, problems=32):
        row = {
            "step": 1,
            "rollout/same_answer_share": answer,
            "rollout/same_reference_share": reference,
        }
        return judged(OneAnswer(problems_per_step=problems), [row])

    def test_most_completions_with_one_answer_raise_it(self):
        assert self.shares(0.51, 1 / 32) == [1]
        assert self.shares(0.5, 1 / 32) == []

    def test_what_reference_answers_explain_does_not(self):
        # Yes or no: 60 % of the answers, with a standard error of 0.087 over 32 problems.
        assert self.shares(0.85, 0.6) == []
        assert self.shares(0.87, 0.6) == [1]

    def test_two_problems_of_a_step_may_agree_by_chance(self):
        assert self.shares(1.0, 0.5, problems=2) == []


class TestDuplicates:
    def shares(self, *values, group_size=8):
        rows = [
            {"step": n, "train/truncated_share": 0.0}
            | ({} if value is None else {"rollout/distinct_share": value})
            for n, value in enumerate(values, 1)
        ]
        return judged(Duplicates(group_size=group_size), rows)

    def test_four_steps_of_groups_that_are_alike_raise_it(self):
        # Half of one further text among 7 further completions is 0.0714.
        assert self.shares(0.07, 0.0, 0.07, 0.07, 0.07) == [4, 5]
        assert self.shares(0.07, 0.07, 0.07, 0.08, 0.07, 0.07, 0.07) == []

    def test_of_pairs_more_than_half_have_to_be_alike(self):
        assert self.shares(*[0.51] * 4, group_size=2) == []
        assert self.shares(*[0.49] * 4, group_size=2) == [4]

    def test_a_step_in_which_all_is_solved_ends_it(self):
        assert self.shares(0.0, 0.0, None, 0.0, 0.0) == []
        assert self.shares(*[0.0] * 4, None, 0.0) == [4]


class Scripted:
    """Stands in the steps that it is told."""

    def __init__(self, *steps):
        self.steps = steps

    def __call__(self, row):
        if "quiet" in row:
            return {}
        return {"scripted": "why" if row["step"] in self.steps else None}


def test_an_alarm_speaks_once_and_again_only_after_it_has_cleared():
    alarms = Alarms([Scripted(2, 3, 6)])
    found = [alarms({"step": step}) for step in range(1, 7)]
    assert [each.keys["alarms/scripted"] for each in found] == [0, 1, 1, 0, 0, 1]
    assert [each.messages for each in found if each.messages] == [("alarm scripted: why",)] * 2
    assert found[1].messages and found[5].messages


def test_a_row_that_it_cannot_judge_has_no_key_and_does_not_clear_it():
    alarms = Alarms([Scripted(1, 3)])
    found = [alarms(row) for row in ({"step": 1}, {"step": 2, "quiet": 1}, {"step": 3})]
    assert [dict(each.keys) for each in found] == [
        {"alarms/scripted": 1},
        {},
        {"alarms/scripted": 1},
    ]
    assert [len(each.messages) for each in found] == [1, 0, 0]


@pytest.mark.parametrize("cut", range(1, 16))
def test_alarms_that_recall_the_rows_before_go_on_as_if_they_had_seen_them(cut):
    """Rows of a file have null where those of a run have NaN."""
    recipe = load_recipe(QUICKSTART, [])
    rows = [
        row
        | {"train/truncated_share": 0.0 if row["step"] < 9 else 0.5, "rollout/distinct_share": x}
        for row, x in zip(
            lengths(*TestLength.STEADY, *[200] * 8),
            [0.5, 0.5, math.nan, *[0.0] * 6, math.nan, *[0.0] * 6],
            strict=True,
        )
    ]
    rows[3] |= evaluated(4, (0.1, 0.02), (0.2, 0.02))
    rows[7] |= evaluated(8, (0.1, 0.02), (0.9, 0.02))
    rows[11] |= evaluated(12, (0.1, 0.02), (0.9, 0.02))
    rows[13] |= evaluated(14, (0.0, 0.0), (0.9, 0.02), problems=700)

    def fresh():
        return build_alarms(recipe, side_rewards=["tags"])

    whole, resumed = fresh(), fresh()
    found = [whole(row) for row in rows]
    assert {key for each in found for key, value in each.keys.items() if value} == {
        *("alarms/reward/tags", "alarms/collapse", "alarms/length"),
        *("alarms/truncation", "alarms/duplicates"),
    }
    as_read = [{k: None if v != v else v for k, v in row.items()} for row in rows[:cut]]
    resumed.recall(as_read)
    assert [resumed(row) for row in rows[cut:]] == found[cut:]


def test_only_the_alarms_that_a_recipe_names_are_on():
    row = evaluated(0, (0.1, 0.02), (0.2, 0.02), **{"train/truncated_share": 0.0})
    every = {"reward/tags", "collapse", "truncation", "duplicates"}
    for watch, names in (("[]", set()), ("[reward]", {"reward/tags"}), (None, every)):
        overrides = [] if watch is None else [f"alarms.watch={watch}"]
        alarms = build_alarms(load_recipe(QUICKSTART, overrides), side_rewards=["tags"])
        assert alarms(row).keys == {f"alarms/{name}": 0 for name in names}
