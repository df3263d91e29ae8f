"""`rl-llm rewards score`: a reward on a file of completions."""

import argparse
import json
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_llm.cli import reward_check
from rl_llm.cli.arguments import writable_file
from rl_llm.errors import DataError, StorageError
from rl_llm.records import Group
from rl_llm.scoring import Failure, Outcome, Reward
from rl_llm.scoring.examples import group_of
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.rubric import bind_reward

_MAX_WAITING = 256
_INPUTS = (
    *("completion", "completions", "text", "prompt", "answer"),
    *("token_ids", "token_count", "truncated", "finish_reason"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm rewards score numeric_answer completions.jsonl"
    parser.add_argument("ref", metavar="REF", help="a name, or path/to/file.py:name")
    parser.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        help="a .jsonl file; each line holds a completion (or text, or a list: completions), the "
        "answer, the prompt, and columns",
    )
    reward_check.add_overrides(parser)
    parser.add_argument(
        "--out", metavar="FILE.jsonl", type=Path, help="write here in place of printing"
    )


def run(args: argparse.Namespace) -> int:
    """Score every line, and return 1 where the reward failed on one."""
    plugin, use = reward_check.named_reward(args)
    reward_check.require_options(plugin, use)
    out = None if args.out is None else writable_file(args.out, example="scores.jsonl")
    rows = list(_read(args.data))
    if not rows:
        raise DataError(f"{args.data} holds no completions; write one JSON object a line")
    columns = frozenset.intersection(*(frozenset(_columns(row.values)) for row in rows))
    reward = bind_reward(use, path=args.ref, columns=columns)
    groups = [_group(row, reward) for row in rows]
    lines, found = [], Counter[str]()
    numbers: list[float] = []
    for row, outcomes in zip(rows, _outcomes(reward, groups), strict=True):
        found.update(each.kind for each in outcomes if isinstance(each, Failure))
        numbers += [_total(each) for each in outcomes if isinstance(each, float | tuple)]
        lines.append(json.dumps({**row.values, **_said(row, outcomes)}) + "\n")
    _write("".join(lines), out)
    mean = f", mean {math.fsum(numbers) / len(numbers):.4g}" if numbers else ""
    failures = "".join(f", {count} {kind}" for kind, count in sorted(found.items()))
    num_completions = sum(len(group.completions) for group in groups)
    print(f"{len(numbers)} of {num_completions} scored{mean}{failures}", file=sys.stderr)
    return 1 if found else 0


@dataclass(frozen=True)
class _Row:
    """A line of the file, and where it stands."""

    place: str
    values: Mapping[str, Any]


def _read(file: Path) -> Iterator[_Row]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; name a .jsonl file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8: {error}; name a .jsonl file") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file} line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place} is no JSON: {error}") from None
        if not isinstance(values, dict) or not _texts(values):
            raise DataError(
                f"{place} is no JSON object with a text under 'completion' (or 'text'), or a list "
                "of texts under 'completions'"
            )
        yield _Row(place, values)


def _texts(values: Mapping[str, Any]) -> list[str]:
    """Return the completions of a line; none where there is something else in their place."""
    texts = values.get("completions", [values.get("completion", values.get("text"))])
    is_right = isinstance(texts, list) and all(isinstance(each, str) for each in texts)
    return texts if is_right else []


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _INPUTS}


def _group(row: _Row, reward: Reward) -> Group:
    given = {name: value for name, value in row.values.items() if name in _INPUTS}
    counts_tokens = {"token_ids", "token_count"} & {*reward.inputs}
    if counts_tokens and reward.style != "trl" and not {"token_ids", "token_count"} & {*given}:
        raise DataError(
            f"{row.place} has neither 'token_ids' nor 'token_count', and reward {reward.name!r} "
            f"asks for {min(counts_tokens)!r}; add one of them"
        )
    if "answer" in reward.inputs:
        given["answer"] = _answer(row, reward)
    given["completions"] = _texts(row.values)
    if "token_ids" in given and "completions" not in row.values:
        given["token_ids"] = [given["token_ids"]]
    if isinstance(given.get("prompt"), list):
        given["prompt"] = tuple(given["prompt"])
    return group_of(given, _columns(row.values))


def _answer(row: _Row, reward: Reward) -> str:
    """Return the reference as text, which a list or an object becomes as JSON."""
    answer = row.values.get("answer")
    if answer is None:
        raise DataError(
            f"{row.place} has no 'answer', and reward {reward.name!r} asks for it; add the "
            "reference"
        )
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _outcomes(reward: Reward, groups: Iterable[Group]) -> Iterator[list[Outcome]]:
    """Yield the outcomes of each group in order; some groups are asked for ahead."""
    waiting: deque[list[Future[list[Outcome]]]] = deque()
    with closing(WorkerPool()) as pool:
        for group in groups:
            waiting.append(pool.submit(reward, group))
            if len(waiting) > _MAX_WAITING:
                yield _waited(waiting.popleft())
        while waiting:
            yield _waited(waiting.popleft())


def _waited(parts: Iterable["Future[list[Outcome]]"]) -> list[Outcome]:
    return [outcome for part in parts for outcome in part.result()]


def _said(row: _Row, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what is added to a line: lists where it holds a list of completions."""
    scores = [None if isinstance(each, Failure) else each for each in outcomes]
    errors = [
        f"{each.kind}: {each.message}" if isinstance(each, Failure) else None for each in outcomes
    ]
    is_list = "completions" in row.values
    said: dict[str, Any] = {"score": scores if is_list else scores[0]}
    if any(errors):
        said["error"] = errors if is_list else errors[0]
    return said


def _total(value: float | tuple[float, ...]) -> float:
    return math.fsum(value) if isinstance(value, tuple) else value


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}; name another") from None
