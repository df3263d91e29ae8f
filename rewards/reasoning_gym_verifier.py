r"""The verifier of a reasoning-gym family (https://arxiv.org/abs/2505.24760), which grades the
answer to a problem of the prompt source `reasoning_gym`.

The answer is what stands in the last `<answer>...</answer>`, else in the last `\boxed{...}`, else
after the last `####`, else the whole completion.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from rl_llm.scoring import after_hashes, between_tags, boxed

_SUM = {"family": "chain_sum", "config": {}, "entry": {"answer": "12", "metadata": {}}}

EXAMPLES = [
    ({**_SUM, "completion": "7 + 5 is <answer> 12 </answer>"}, 1.0),
    ({**_SUM, "completion": r"7 + 5 is \boxed{12.0}"}, 1.0),
    ({**_SUM, "completion": "7 + 5 is\n#### 12"}, 1.0),
    ({**_SUM, "completion": "12"}, 1.0),
    ({**_SUM, "completion": "<answer>13</answer>"}, 0.0),
    ({**_SUM, "completion": ""}, 0.0),
]

# Families whose verifier runs the answer through Python's or sympy's `eval`.
EVALUATED = {
    *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "puzzle24"),
    *("polynomial_multiplication", "simple_integration", "spiral_matrix", "string_insertion"),
}
# `Integral` is not among them: it would let an answer repeat the question.
_MATHS = "exp|log|ln|sin|cos|tan|cot|sec|csc|asin|acos|atan|sinh|cosh|tanh|sqrt|Abs"
_UNSAFE = re.compile(
    r"[^\w\s+\-*/^().,\[\]{}'\"|=]|__|\.\s*[^\W\d]|[)\]}'\"]\s*\(|\b(?:for|lambda|import)\b"
    rf"|\b(?!(?:{_MATHS})\b)[^\W\d]\w*\s*\("
)
# What verifiers raise on an answer that they cannot read.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError)


def reasoning_gym_verifier(
    completion: str, family: str, config: Mapping[str, Any], entry: Mapping[str, Any]
) -> float:
    """From 0.0 to 1.0 as the family's own verifier says; 1.0 means solved.

    An answer that the verifier cannot read gives 0.0. So does, in the families whose verifier
    evaluates it, an answer that is more than numbers, names, operators and common functions.
    """
    answer = read_answer(completion)
    if family in EVALUATED and _UNSAFE.search(answer):
        return 0.0
    score_answer = _score_answer(family, json.dumps(config, sort_keys=True))
    try:
        return float(score_answer(answer, from_json(entry)))
    except _UNREADABLE:
        return 0.0


def read_answer(completion: str) -> str:
    """Return the part of a completion that is its answer, stripped."""
    for found in (between_tags(completion, "answer"), boxed(completion), after_hashes(completion)):
        if found is not None:
            return found.strip()
    return completion.strip()


def from_json(value: Any) -> Any:
    """Read back what the prompt source wrote with `to_json`: tuples, and keys that are no text."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"tuple"}:
        return tuple(from_json(item) for item in value["tuple"])
    if set(value) == {"items"}:
        return {from_json(key): from_json(item) for key, item in value["items"]}
    return {key: from_json(item) for key, item in value.items()}


@cache
def _score_answer(family: str, config: str) -> Callable[[str, dict[str, Any]], float]:
    from reasoning_gym.factory import DATASETS

    dataset_class, config_class = DATASETS[family]
    changed = from_json(json.loads(config))
    dataset = dataset_class(config=dataclasses.replace(config_class(), **changed, seed=0))
    score: Callable[[str, dict[str, Any]], float] = dataset.score_answer
    return score
