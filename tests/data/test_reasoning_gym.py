"""Procedural families: levels, splits, exhaustion, and an entry that the verifier can use."""

import builtins
import json
import logging
import re
import signal
import time
from contextlib import contextmanager

import pytest

from rl_llm.errors import ConfigError, DataError
from rl_llm.plugins import build, resolve
from rl_llm.records import content_key

SOURCE = resolve("reasoning_gym", kind="data")
VERIFIER = resolve("reasoning_gym_verifier", kind="rewards").target


def draw(family, **options):
    options = {"size": 20, "split": "train", **options}
    return list(build(SOURCE.target, {"family": family, **options}, path="data.train.0"))


def score(problem, answer):
    """Score an answer after the problem's columns went through JSON."""
    return VERIFIER(f"<answer>{answer}</answer>", **json.loads(json.dumps(problem.meta)))


def question(problem):
    return problem.meta["entry"]["question"]


def test_a_level_of_chain_sum_has_its_own_number_of_terms_and_digits():
    problems = draw("chain_sum", levels=[0, 3], size=40)
    assert [problem.level for problem in problems] == [0] * 20 + [3] * 20
    for problem in problems:
        numbers = re.findall(r"\d+", question(problem))
        assert len(numbers) == 2 + problem.level
        assert {len(number) for number in numbers} == {1 + problem.level}


def test_a_cumulative_level_also_draws_from_the_levels_below():
    problems = draw("chain_sum", levels=[2], cumulative=True, size=60)
    lengths = {len(re.findall(r"\d+", question(problem))) for problem in problems}
    assert lengths == {2, 3, 4}


def test_the_prompt_is_a_chat_with_the_instruction_unless_plain_is_asked():
    problem = draw("chain_sum", size=1, system="Be brief.", instruction="Use tags.")[0]
    assert problem.prompt == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{question(problem)}\n\nUse tags."},
    )
    assert problem.key == content_key(problem.prompt, problem.answer)
    plain = draw("chain_sum", size=1, chat=False, instruction="")[0]
    assert plain.prompt == question(plain)


def test_train_and_eval_together_are_all_200_sums_of_two_digits_and_share_none(caplog):
    with caplog.at_level(logging.WARNING):
        train = draw("chain_sum", levels=[0], size=190, seed=1)
        held_out = draw("chain_sum", levels=[0], size=190, seed=2, split="eval", instruction="!")
    train_questions, eval_questions = map(set, ([*map(question, p)] for p in (train, held_out)))
    assert len(train_questions | eval_questions) == 200  # 10 x 10 operands, + and -
    assert not train_questions & eval_questions
    assert 0.2 < len(held_out) / 200 < 0.4
    assert caplog.messages == [
        f"chain_sum level 0 holds {len(train)} train problems, 190 were asked for",
        f"chain_sum level 0 holds {len(held_out)} eval problems, 190 were asked for",
    ]


def test_the_draw_depends_on_the_seed_alone():
    first, again, other = (draw("gcd", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {p.key for p in first} != {p.key for p in other}


def test_neighbouring_seeds_do_not_repeat_each_other():
    # The library's draw i of seed s is draw 0 of seed s + i.
    first, other = ({p.key for p in draw("caesar_cipher", seed=seed)} for seed in (1, 2))
    assert not first & other


def test_a_size_is_spread_over_the_levels_and_the_first_take_the_rest():
    levels = [problem.level for problem in draw("gcd", levels=[2, 0, 1], size=8)]
    assert levels == [2, 2, 2, 0, 0, 0, 1, 1]


def test_params_set_the_family_over_its_default_and_its_level():
    assert {p.level for p in draw("chain_sum", params={"min_terms": 6})} == {"default"}
    for options in ({}, {"levels": [0]}):
        problems = draw("chain_sum", params={"min_terms": 6, "max_terms": 6}, **options)
        assert {len(re.findall(r"\d+", question(p))) for p in problems} == {6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "chain_sun"}, "unknown to reasoning-gym (did you mean 'chain_sum'?)"),
        ({"family": "composite"}, "list each as a source of its own"),
        ({"levels": [11]}, "there is no level 11; those of chain_sum are 0 to 10"),
        ({"family": "acre", "levels": [0]}, "those of acre do not exist: leave levels out"),
        ({"levels": [1, 1]}, "levels=[1, 1]: name at least one level, and each once"),
        ({"levels": []}, "levels=[]: name at least one level"),
        ({"levels": [1, 2], "size": 1}, "size=1 is less than one problem a level; use at least 2"),
        ({"params": {"min_term": 3}}, "params.min_term: unknown to chain_sum (did you mean 'min_t"),
        ({"params": {"seed": 3}}, "params.seed: unknown to chain_sum"),
        ({"params": {"min_terms": 0}}, "AssertionError: min_terms must be positive"),
        ({"chat": False, "system": "x"}, "a plain prompt has no system message"),
        ({"split": "test"}, "split='test': input should be 'train' or 'eval'"),
    ],
)
def test_wrong_options_are_refused_at_the_call(options, message):
    options = {"family": "chain_sum", "size": 20, "split": "train", **options}
    with pytest.raises(ConfigError, match=r"^data\.train\.0.*" + re.escape(message)):
        build(SOURCE.target, options, path="data.train.0")


def test_a_level_that_the_library_cannot_fill_is_one_error():
    with pytest.raises(DataError, match="letter_jumble gives no problem at level 4: ValueError"):
        draw("letter_jumble", levels=[4])


def test_a_level_that_takes_long_is_said(monkeypatch, caplog):
    monkeypatch.setattr(SOURCE.module, "_SLOW_S", 0.01)
    with caplog.at_level(logging.WARNING):
        problems = SOURCE.target(family="gcd", size=2, split="train")
        next(problems)
        time.sleep(0.2)
        next(problems)
    assert "has drawn gcd level default for" in caplog.messages[0]


def test_without_reasoning_gym_the_error_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("reasoning_gym"):
            raise ModuleNotFoundError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=re.escape("pip install -e '.[reasoning-gym]'")):
        draw("chain_sum")


@pytest.mark.parametrize("value", [(1, (2, 3)), {1: "a", (0, 1): [2]}, {"tuple": 1}, {"items": []}])
def test_entries_survive_json(value):
    from_json = resolve("reasoning_gym_verifier", kind="rewards").module.from_json
    assert from_json(json.loads(json.dumps(SOURCE.module.to_json(value)))) == value


@pytest.mark.parametrize(
    "family", ["chain_sum", "gcd", "maze", "rearc", "word_ladder", "syllogism"]
)
def test_the_verifier_gives_the_answer_1_and_another_less(family):
    for problem in draw(family, size=5):
        assert score(problem, problem.answer) == 1.0
        assert score(problem, "no idea") < 1.0


def test_the_verifier_knows_the_configuration_that_a_problem_was_drawn_with():
    # By default word_ladder knows words of 4 letters only.
    problem = draw("word_ladder", params={"min_word_length": 5, "max_word_length": 5}, size=1)[0]
    assert problem.meta["config"] == {"max_word_length": 5, "min_word_length": 5}
    assert score(problem, problem.answer) == 1.0
    assert VERIFIER(problem.answer, **{**problem.meta, "config": {}}) < 1.0


# What the library itself cannot set up or never stops searching for, by family and level.
TOO_SLOW = {
    "countdown": {2, 3, 4},
    "jugs": {2, 3},
    "knight_swap": {1, 2, 3, 4},
    "n_queens": {4},
    "number_sequence": {3},
    "puzzle24": {2, 3, 4, 5, 6},
    "sokoban": {0},
    "zebra_puzzles": {4, 5},
}
REFUSED = {
    "caesar_cipher": {2, 3},
    "knight_swap": {0},
    "letter_jumble": {2, 3, 4},
    "modulo_grid": {1},
    "rubiks_cube": {4},
    "spell_backward": {4},
}
EMPTY = {"game_of_life_halting": {3}}
# The library gives no reference answer; its verifier computes from the entry.
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}


@contextmanager
def within(seconds, what):
    def stop(*_):
        raise AssertionError(f"{what} took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # The library's own, of many kinds.
def test_every_family_and_level_gives_problems_that_its_verifier_accepts():
    families = sorted(set(SOURCE.module._library().DATASETS) - {"composite"})
    assert len(families) >= 105
    refused, empty = {}, {}
    for family in families:
        for level in [None, *range(SOURCE.module.num_levels(family))]:
            if level in TOO_SLOW.get(family, ()):
                continue
            with within(120, f"{family} level {level}"):
                try:
                    problems = draw(family, size=2, levels=None if level is None else [level])
                except (ConfigError, DataError):
                    refused.setdefault(family, set()).add(level)
                    continue
            if not problems:
                empty.setdefault(family, set()).add(level)
            for problem in problems:
                # An integral as its own solution is refused: it only repeats the question.
                unanswered = not problem.answer or "Integral(" in problem.answer
                accepted = score(problem, problem.answer)
                assert (accepted == 1.0) != unanswered, (family, level, problem)
                assert (problem.answer == "") == (family in WITHOUT_ANSWER)
    assert refused == REFUSED
    assert empty == EMPTY
