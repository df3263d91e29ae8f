"""GSM8K: grade-school word problems with worked solutions (https://arxiv.org/abs/2110.14168).

The answer is the number after `####` at the end of the solution, without thousands separators. The
level is the number of reasoning steps, the lines of the solution before it.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Literal

from rl_llm.errors import ConfigError, DataError
from rl_llm.plugins import resolve
from rl_llm.records import Message, Problem, Prompt, content_key
from rl_llm.seeds import derive_rng

INSTRUCTION = "Reason step by step. Then give the final number after ####."

_log = logging.getLogger(__name__)


def gsm8k(
    *,
    path: str = "openai/gsm8k",
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    instruction: str = INSTRUCTION,
    system: str | None = None,
    chat: bool = True,
) -> Iterator[Problem]:
    """Yield the problems of a split in their order, or `size` of them drawn without replacement.

    `path` is a hub name, a folder that holds `train.jsonl` and `test.jsonl`, or a .jsonl file
    (which has no splits: leave `split` out). `instruction` follows the question after a blank line;
    empty leaves it out. With `chat: false` the prompt is plain text, for a base model. When fewer
    than `size` problems are there, all are given and a warning is logged. `meta` holds the worked
    `solution`. Raises `ConfigError` at the call, `DataError` for a row without question or `####`.
    """
    if size is not None and size < 1:
        raise ConfigError(f"size={size}: use at least 1, or null for all problems")
    if system is not None and not chat:
        raise ConfigError("system: a plain prompt has no system message; drop it or set chat: true")
    read = resolve("jsonl", kind="data").target
    name = "main" if path == "openai/gsm8k" else None
    rows = read(path=path, split=split, name=name, prompt="question", source="gsm8k")
    problems = _shape(rows, path=path, instruction=instruction, system=system, chat=chat)
    return problems if size is None else _sample(problems, size=size, split=split, seed=seed)


def final_number(solution: str) -> str | None:
    """Return what follows the last `####`, without commas; None when nothing does."""
    _, hashes, rest = solution.rpartition("####")
    return rest.strip().replace(",", "") or None if hashes else None


def num_steps(solution: str) -> int:
    """Return the number of lines before the last `####`, blank ones aside."""
    steps, _, _ = solution.rpartition("####")
    return sum(1 for line in steps.splitlines() if line.strip())


def _shape(
    rows: Iterable[Problem], *, path: str, instruction: str, system: str | None, chat: bool
) -> Iterator[Problem]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.prompt, str):
            raise DataError(f"{path}: question {number} is no text but {row.prompt!r}")
        answer = final_number(row.answer)
        if answer is None:
            raise DataError(
                f"{path}: the solution of question {number} does not end with '#### NUMBER': "
                f"{row.answer[-60:]!r}"
            )
        text = (
            f"{row.prompt}\n\n{instruction}" if instruction and row.prompt.strip() else row.prompt
        )
        prompt = _as_chat(text, system) if chat else text
        yield Problem(
            key=content_key(prompt, answer),
            prompt=prompt,
            answer=answer,
            level=num_steps(row.answer),
            source="gsm8k",
            meta={**row.meta, "solution": row.answer},
        )


def _as_chat(text: str, system: str | None) -> Prompt:
    user: Message = {"role": "user", "content": text}
    return (user,) if system is None else ({"role": "system", "content": system}, user)


def _sample(problems: Iterable[Problem], *, size: int, split: str, seed: int) -> Iterator[Problem]:
    """Yield `size` problems, in their order in the data."""
    everything = list(problems)
    if len(everything) < size:
        _log.warning("gsm8k holds %d problems, size=%d were asked for", len(everything), size)
    order = derive_rng(seed, "gsm8k", split).permutation(len(everything))
    yield from (everything[index] for index in sorted(order[:size]))
