"""Completions in, scores out; helpers for reward authors."""

from rl_llm.scoring.answers import (
    Number,
    after_hashes,
    answer_text,
    between_tags,
    boxed,
    code_block,
    final_answer,
    last_number,
    numbers_equal,
    parse_number,
)
from rl_llm.scoring.examples import Example, read_examples, run_example
from rl_llm.scoring.reader import answer_reader
from rl_llm.scoring.reward import Failure, Outcome, Reward, call_reward
from rl_llm.scoring.rubric import Rubric, build_rubric, common_columns, find_reward
from rl_llm.scoring.signature import RewardSignature, read_signature
from rl_llm.scoring.values import Value

__all__ = [
    "Example",
    "Failure",
    "Number",
    "Outcome",
    "Reward",
    "RewardSignature",
    "Rubric",
    "Value",
    "after_hashes",
    "answer_reader",
    "answer_text",
    "between_tags",
    "boxed",
    "build_rubric",
    "call_reward",
    "code_block",
    "common_columns",
    "final_answer",
    "find_reward",
    "last_number",
    "numbers_equal",
    "parse_number",
    "read_examples",
    "read_signature",
    "run_example",
]
