"""`regex_format` and `json_schema`: what recipes may say, and completions that are hard on them."""

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError
from rl_llm.plugins import resolve
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import Example, build_rubric, run_example

TREE = {"$ref": "#/$defs/tree", "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}}


def score(text, **use):
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0
    )
    problem = Problem(key="k", prompt="?", answer="")
    group = Group(problem=problem, prompt_ids=(), completions=(completion,))
    rubric = build_rubric([RewardUse(**use)], columns=(), num_workers=1)
    try:
        (scored,) = rubric.score([group])
    finally:
        rubric.close()
    return scored.scores[0]


def give(name, **inputs):
    return run_example(resolve(name, kind="rewards"), Example(inputs=inputs, expected=None))


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        (
            {"use": "regex_format", "pattern": "(a"},
            "rewards.0.pattern='(a': not a regular expression of Python's re: missing ), "
            "unterminated subpattern at position 0",
        ),
        ({"use": "regex_format"}, "rewards.0.pattern: required, and missing"),
        (
            {"use": "json_schema", "schema": {"type": "objct"}},
            "rewards.0.schema={'type': 'objct'}: no valid JSON Schema: at type, 'objct' is not",
        ),
        (
            {"use": "json_schema", "schema": {"items": {"pattern": "(a"}}},
            "rewards.0.schema={'items': {'pattern': '(a'}}: no valid JSON Schema: at "
            "items/pattern, '(a' is not a 'regex'",
        ),
        (
            {"use": "json_schema", "schema": {"items": {"$ref": "#/$defs/x"}}},
            "rewards.0.schema={'items': {'$ref': '#/$defs/x'}}: the JSON Schema refers to "
            "'#/$defs/x', which is not in it, and nothing is fetched",
        ),
        (
            {"use": "json_schema", "schema": {"$ref": "https://example.com/x"}},
            "rewards.0.schema={'$ref': 'https://example.com/x'}: the JSON Schema refers to",
        ),
        (
            {"use": "json_schema", "schema": {"items": {"$dynamicRef": "#x"}}},
            "rewards.0.schema={'items': {'$dynamicRef': '#x'}}: the JSON Schema refers to '#x'",
        ),
        (
            {"use": "json_schema", "schema": {"$schema": 5}},
            "rewards.0.schema={'$schema': 5}: $schema 5 is no draft",
        ),
        (
            {"use": "json_schema", "schema": {"$schema": "draft-99"}},
            "rewards.0.schema={'$schema': 'draft-99'}: $schema 'draft-99' is no draft",
        ),
        (
            {"use": "json_schema", "schema": "person.json"},
            "rewards.0.schema='person.json': input should be a valid dictionary",
        ),
    ],
)
def test_a_pattern_or_schema_that_says_nothing_is_an_error_when_the_recipe_is_read(use, fault):
    with pytest.raises(ConfigError) as caught:
        build_rubric([RewardUse(**use)], columns=())
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        {"use": "regex_format", "pattern": "(a+)+b"},
        {"use": "json_schema", "schema": {"pattern": "(a+)+b"}},
    ],
    ids=lambda use: use["use"],
)
def test_a_pattern_that_goes_back_for_ever_costs_its_own_call(use):
    failed = score(f'"{"a" * 40}"'.strip('"' * (use["use"] == "regex_format")), timeout_s=1, **use)
    assert failed.failures == {use["use"]: "timeout"}


@pytest.mark.parametrize("depth", [3, 100_000])
def test_json_deeper_than_python_can_follow_counts_as_none(depth):
    nested = "[" * depth + "]" * depth
    assert give("json_schema", completion=nested, schema=TREE) == float(depth == 3)


@pytest.mark.parametrize(("text", "expected"), [("[1]", 1.0), ("[true]", 0.0), ("[[]]", 0.0)])
def test_a_schema_may_name_an_older_draft(text, expected):
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"count": {"type": "integer"}},
        "items": {"$ref": "#/definitions/count"},
    }
    assert give("json_schema", completion=text, schema=schema) == expected


def test_the_last_block_of_the_answer_counts_and_no_other():
    draft, final = '```json\n["draft"]\n```', "```json\n[1]\n```"
    schema = {"items": {"type": "integer"}}
    texts = [f"{draft}\n{final}", f"<answer>{final}</answer>\n{draft}", f"{final}\n{draft}"]
    assert [give("json_schema", completion=t, schema=schema) for t in texts] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400])
def test_a_number_that_arithmetic_cannot_take_is_not_valid(number):
    assert give("json_schema", completion=number, schema={"multipleOf": 0.5}) == 0.0
    assert give("json_schema", completion="1.5", schema={"multipleOf": 0.5}) == 1.0


def test_a_multiple_is_counted_in_floats_as_the_page_says():
    schema = {"multipleOf": 0.01}
    assert give("json_schema", completion="19.99", schema=schema) == 0.0
    assert give("json_schema", completion="19.5", schema=schema) == 1.0
