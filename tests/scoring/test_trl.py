"""Reward functions written for TRL work as they are; `trl_call` is how TRL calls them."""

from dataclasses import replace

import pytest

from rl_llm.errors import PluginError
from rl_llm.plugins import resolve
from rl_llm.scoring import build_rubric, read_examples, run_example

CHAT = ({"role": "user", "content": "3+4?"},)
RECORDS_ITS_ARGUMENTS = """
seen = {}

def r(prompts, completions, **kwargs):
    seen.update(kwargs, prompts=prompts, completions=completions)
    kwargs["log_metric"]("length", 1.0)
    kwargs["log_extra"]("column", ["x"])
    if seen["completion_ids"] != [[0, 1, 2], [0, 1, 2]] or seen["answer"] != ["7", "7"]:
        raise AssertionError(seen)
    if seen["solution"] != ["seven", "seven"]:
        raise AssertionError(seen)
    plain = prompts == ["3+4=", "3+4="] and completions == ["7", "8"]
    chat = prompts == [[{"role": "user", "content": "3+4?"}]] * 2 and completions == [
        [{"role": "assistant", "content": "7"}],
        [{"role": "assistant", "content": "8"}],
    ]
    return [float(plain), float(chat)]
"""


def parts(use, group, columns=()):
    (scored,) = build_rubric([use], columns=columns).score([group])
    assert [score.error for score in scored.scores] == [None] * len(scored.scores)
    return [score.parts["r"] for score in scored.scores]


def test_a_plain_prompt_is_passed_as_text_and_columns_as_lists(use_reward, make_group):
    group = make_group("7", "8", solution="seven")
    assert parts(use_reward(RECORDS_ITS_ARGUMENTS), group, ["solution"]) == [1.0, 0.0]


def test_a_chat_prompt_is_passed_as_lists_of_messages(use_reward, make_group):
    group = make_group("7", "8", solution="seven", prompt=CHAT)
    assert parts(use_reward(RECORDS_ITS_ARGUMENTS), group, ["solution"]) == [0.0, 1.0]


@pytest.fixture
def from_trl(use_reward):
    """Write a file whose reward `r` is what TRL gives for an expression."""
    pytest.importorskip("trl.rewards", reason="TRL is not installed", exc_type=ImportError)
    return lambda expression: use_reward(f"from trl import rewards\n\nr = rewards.{expression}\n")


def test_trls_think_format_reward_works_on_chats(from_trl, make_group):
    group = make_group("<think>a</think>b", "b", "<think>a<think>b</think>c", prompt=CHAT)
    assert parts(from_trl("think_format_reward"), group) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("num_tokens", "expected"), [(4, 0.0), (6, -0.5), (8, -1.0), (9, -1.0)])
def test_trls_soft_overlong_punishment_counts_tokens(from_trl, make_group, num_tokens, expected):
    use = from_trl("get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=4)")
    assert parts(use, make_group("7", num_tokens=num_tokens)) == [expected]


def test_trls_repetition_penalty_is_given_token_ids(from_trl, make_group):
    group = make_group("7", "8")
    twice = replace(group.completions[1], token_ids=(5, 5, 5), text="8")
    group = replace(group, completions=(group.completions[0], twice))
    use = from_trl("get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0)")
    assert parts(use, group) == [0.0, -0.5]  # 55 55: 1 of 2 differs.


@pytest.mark.slow
def test_trls_accuracy_reward_solves_mathematics_in_a_worker(from_trl, make_group):
    pytest.importorskip("math_verify", reason="TRL's accuracy_reward needs math-verify")
    use = from_trl("accuracy_reward")
    group = make_group(r"\boxed{\frac{1}{3}}", r"\boxed{0.5}", prompt=CHAT, solution="$1/3$")
    assert parts(use, group, ["solution"]) == [1.0, 0.0]
    unread = make_group(r"\boxed{7}", prompt=CHAT, solution="?")
    (scored,) = build_rubric([use], columns=["solution"]).score([unread])
    assert scored.scores[0].parts == {}


def test_a_column_is_a_list_over_the_completions(use_reward, make_group):
    source = """
def r(completions, solution, log_extra=None, **kwargs):
    return [float(text == s) for text, s in zip(completions, solution, strict=True)]
"""
    group = make_group("7", "8", solution="8")
    assert parts(use_reward(source), group, ["solution"]) == [0.0, 1.0]


def test_an_async_function_is_awaited(use_reward, make_group):
    source = "async def r(prompts, completions, **kwargs):\n    return [1.0 for _ in prompts]\n"
    assert parts(use_reward(source), make_group("7", "8")) == [1.0, 1.0]


def test_none_leaves_the_reward_out(use_reward, make_group):
    source = "def r(completions, **kwargs):\n    return [None, 1.0]\n"
    (scored,) = build_rubric([use_reward(source)], columns=()).score([make_group("7", "8")])
    assert [score.parts for score in scored.scores] == [{}, {"r": 1.0}]


def test_a_list_in_the_place_of_a_number_has_one_for_each_token(use_reward, make_group):
    source = (
        "def r(completion_ids, **kwargs):\n    return [[float(i) for i in completion_ids[0]], 1]\n"
    )
    (scored,) = build_rubric([use_reward(source)], columns=()).score([make_group("7", "8")])
    assert [score.token_rewards for score in scored.scores] == [(0.0, 1.0, 2.0), ()]
    assert [score.total for score in scored.scores] == [3.0, 1.0]


def test_an_object_that_asks_for_token_ids_alone_is_called(use_reward, make_group):
    source = """
class Penalty:
    def __init__(self, size):
        self.size = size

    def __call__(self, completion_ids, **kwargs):
        return [float(len(ids) > self.size) for ids in completion_ids]

r = Penalty(2)
"""
    assert parts(use_reward(source), make_group("7", "8", num_tokens=3)) == [1.0, 1.0]


def test_a_parameter_with_a_default_that_nothing_fills_keeps_it(use_reward, make_group):
    source = "def r(completions, scale=3.0, **kwargs):\n    return [scale for _ in completions]\n"
    assert parts(use_reward(source), make_group("7")) == [3.0]


def test_a_missing_column_is_refused_at_build(use_reward):
    source = "def r(completions, solution, **kwargs):\n    return [1.0]\n"
    with pytest.raises(PluginError, match="asks for 'solution', which is neither"):
        build_rubric([use_reward(source)], columns=["solutions"])


def test_columns_named_problem_and_prompt_are_the_datas_own(use_reward, make_group):
    source = """
def r(completions, problem, prompt, **columns):
    return [float((p, q) == ("add", "as written")) for p, q in zip(problem, prompt, strict=True)]
"""
    group = make_group("7", "8")
    group.problem.meta.update(problem="add", prompt="as written")
    assert parts(use_reward(source), group, ["problem", "prompt"]) == [1.0, 1.0]


def test_an_example_gives_columns_named_problem_and_prompt(use_reward):
    source = """
EXAMPLES = [({"completions": ["7"], "problem": "add", "prompt": "as written"}, [1.0])]

def r(completions, problem, prompt, **columns):
    return [float((problem, prompt) == (["add"], ["as written"]))]
"""
    plugin = resolve(use_reward(source).use, kind="rewards")
    (example,) = read_examples(plugin)
    assert run_example(plugin, example) == example.expected


@pytest.mark.parametrize("name", ["limit", "completion_ids"])
def test_an_option_of_the_name_of_a_column_or_an_input_is_refused_at_build(use_reward, name):
    source = f"def r(completions, *, {name}=3, **columns):\n    return [1.0]\n"
    with pytest.raises(PluginError, match=f"'{name}' cannot be keyword-only.* another name"):
        build_rubric([use_reward(source)], columns=["limit"])


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_problem_without_the_column_that_others_have_fails_alone(use_reward, make_group, kind):
    source = f"{kind} r(completions, solution, **columns):\n    return [1.0]\n"
    rubric = build_rubric([use_reward(source)], columns=["solution"])
    lacks, whole = rubric.score([make_group("7"), make_group("7", solution="8")])
    assert "reward 'r' failed on problem k1" in lacks.scores[0].error
    assert "the problem has no column 'solution'" in lacks.scores[0].error
    assert (whole.scores[0].error, whole.scores[0].total) == (None, 1.0)
