import logging
import re
from collections import Counter

import pytest

from rl_llm.errors import ConfigError
from rl_llm.plugins import build, resolve
from rl_llm.seeds import derive_rng

source = resolve("arithmetic", kind="data").module


def problems(levels, size, split="train", **options):
    return list(source.arithmetic(levels=levels, size=size, split=split, **options))


def test_eleven_problems_over_three_levels_are_four_four_and_three():
    levels = Counter(problem.level for problem in problems([2, 3, 4], 11))
    assert levels == {2: 4, 3: 4, 4: 3}


def test_a_problem_carries_its_answer_level_source_and_content_key():
    problem = source.make_problem(47, 38, level=2)
    assert (problem.prompt, problem.answer) == ("47+38=", "85")
    assert (problem.level, problem.source) == (2, "arithmetic")
    # printf '["47+38=", "85"]' | sha256sum | head -c 32
    assert problem.key == "8f3c6ec3ae67be3c7c995d6ac3967ef7"


@pytest.mark.parametrize("level", [1, 2, 3, 8, 18])
def test_both_operands_have_as_many_digits_as_the_level_says(level):
    drawn = problems([level], 40)
    assert len(drawn) == 40
    for problem in drawn:
        left, right = re.fullmatch(r"(\d+)\+(\d+)=", problem.prompt).groups()
        assert len(left) == len(right) == level
        assert str(int(left)) == left and str(int(right)) == right
        assert problem.answer == str(int(left) + int(right))


def test_level_one_in_both_splits_is_the_hundred_sums_of_two_digits():
    train, held_out = problems([1], 100), problems([1], 100, "eval", seed=5)
    prompts = [problem.prompt for problem in train + held_out]
    assert sorted(prompts) == sorted(f"{a}+{b}=" for a in range(10) for b in range(10))


def test_no_problem_of_any_seed_is_in_both_splits():
    train = {problem.key for seed in range(3) for problem in problems([2], 8100, seed=seed)}
    held_out = {p.key for seed in range(3) for p in problems([2], 8100, "eval", seed=seed)}
    assert len(train) + len(held_out) == 8100
    assert not train & held_out


def test_three_tenths_of_the_problems_are_held_out():
    assert len(problems([2], 8100, "eval")) == pytest.approx(2430, abs=150)
    assert len(problems([2], 8100, "eval", eval_share=0.5)) == pytest.approx(4050, abs=150)


@pytest.mark.parametrize("levels", [[1, 2], [3]])
def test_no_key_is_drawn_twice(levels):
    drawn = problems(levels, 3000)
    assert len({problem.key for problem in drawn}) == len(drawn)


def test_the_same_seed_draws_the_same_and_another_seed_draws_others():
    assert problems([1, 5], 40, seed=3) == problems([1, 5], 40, seed=3)
    assert problems([5], 40, seed=3) != problems([5], 40, seed=4)


def test_a_larger_size_begins_with_the_problems_of_a_smaller_one():
    assert problems([4], 30)[:10] == problems([4], 10)


def test_a_level_with_too_few_problems_gives_all_and_says_how_many(caplog):
    with caplog.at_level(logging.WARNING):
        drawn = problems([1, 2], 300)
    num_level_one = sum(problem.level == 1 for problem in drawn)
    assert len(drawn) - num_level_one == 150
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert f"level 1 holds {num_level_one} problems in split train, 150 were asked for" in message


def test_a_level_with_enough_problems_warns_of_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        problems([2, 8], 100)
    assert not caplog.records


@pytest.mark.parametrize(
    ("left", "right", "solution"),
    [
        (5, 4, "<think>5+4+0=9</think><answer>9</answer>"),
        (47, 38, "<think>7+8+0=15 4+3+1=8</think><answer>85</answer>"),
        (99, 99, "<think>9+9+0=18 9+9+1=19</think><answer>198</answer>"),
        (100, 900, "<think>0+0+0=0 0+0+0=0 1+9+0=10</think><answer>1000</answer>"),
        (555, 445, "<think>5+5+0=10 5+4+1=10 5+4+1=10</think><answer>1000</answer>"),
    ],
)
def test_steps_go_from_the_lowest_digit_up_and_carry(left, right, solution):
    assert source.worked_solution(left, right) == solution


def test_without_noise_the_solution_is_the_worked_one():
    noisy = source.noisy_solution(478, 964, wrong_digit_rate=0.0, rng=derive_rng(0))
    assert noisy == source.worked_solution(478, 964)


def test_a_wrong_step_keeps_its_carry_and_has_any_other_last_digit():
    rng = derive_rng(0)
    noisy = [source.noisy_solution(47, 38, wrong_digit_rate=1.0, rng=rng) for _ in range(500)]
    parts = [re.fullmatch(r"<think>7\+8\+0=(\d+) 4\+3\+1=(\d+)</think>.*", n) for n in noisy]
    assert {p[1] for p in parts} == {"10", "11", "12", "13", "14", "16", "17", "18", "19"}
    assert {p[2] for p in parts} == {"0", "1", "2", "3", "4", "5", "6", "7", "9"}


def test_the_answer_is_read_off_the_wrong_steps():
    rng = derive_rng(0)
    for _ in range(50):
        noisy = source.noisy_solution(97, 38, wrong_digit_rate=1.0, rng=rng)
        low, high, answer = re.fullmatch(
            r"<think>7\+8\+0=1(\d) 9\+3\+1=(\d\d)</think><answer>(\d+)</answer>", noisy
        ).groups()
        assert answer == high + low


def test_each_step_is_wrong_with_the_rate_given():
    rng = derive_rng(0)
    right = sum(
        source.noisy_solution(7, 8, wrong_digit_rate=0.25, rng=rng) == source.worked_solution(7, 8)
        for _ in range(4000)
    )
    assert right == pytest.approx(3000, abs=120)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": []}, r"data\.train\.0: levels=\[\]: name at least one"),
        ({"levels": [2, 2]}, "and each once"),
        ({"levels": [0]}, "0 is not a number of digits from 1 to 18"),
        ({"levels": [19]}, "19 is not a number of digits"),
        ({"size": 1}, "use at least 2"),
        ({"eval_share": 1.0}, "must lie between 0 and 1"),
        ({"split": "test"}, "split='test'"),
        ({"sizes": 5}, "did you mean 'size'"),
    ],
)
def test_options_that_break_a_rule_are_refused_before_the_first_problem(changed, message):
    options = {"levels": [1, 2], "size": 10, "split": "train", **changed}
    with pytest.raises(ConfigError, match=message):
        build(source.arithmetic, options, path="data.train.0")
