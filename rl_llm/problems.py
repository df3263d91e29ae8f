"""From the sources that a recipe names to pools of problems: read, checked, counted.

Policy: a problem whose prompt is empty is an error; a second problem with the same key is dropped
and counted; a prompt over the length limit is dropped and counted, or an error, as the recipe says.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rl_llm import plugins
from rl_llm.config import SourceUse
from rl_llm.errors import DataError, InputError, PluginError
from rl_llm.records import Level, Problem, Prompt, content_key

_MAX_START_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All problems of one side of a run, in the order of their sources, each key once.

    `where` is the place in the recipe, for messages. `num_read` counts what the sources gave, so it
    is `len(problems) + num_duplicates + num_too_long`.
    """

    problems: tuple[Problem, ...]
    num_read: int
    num_duplicates: int = 0
    num_too_long: int = 0
    where: str = "data"

    @property
    def counts(self) -> dict[tuple[str, Level], int]:
        """How many problems there are for each (source, level): sources in the order of the recipe,
        the levels of each in rising order."""
        counted = Counter((problem.source, problem.level) for problem in self.problems)
        sources = {source: rank for rank, (source, _) in enumerate(counted)}
        in_order = sorted(counted, key=lambda pair: (sources[pair[0]], *_level_order(pair[1])))
        return {pair: counted[pair] for pair in in_order}


def load_pool(uses: Sequence[SourceUse], *, where: str) -> Pool:
    """Read every problem of the sources that stand at `where` in the recipe (`data.train`).

    Of problems with the same key the first stays. Raises `PluginError` and `ConfigError` for a
    source that cannot be found or given its options, `DataError` for one that cannot be read, for
    an empty prompt, and when there is no problem at all.
    """
    unique: dict[str, Problem] = {}
    num_read = 0
    for index, use in enumerate(uses):
        for problem in _read(use, path=f"{where}.{index}"):
            num_read += 1
            unique.setdefault(problem.key, problem)
    if not unique:
        named = ", ".join(use.use for use in uses) or "no source"
        raise DataError(f"{where} ({named}) holds no problem; a run needs at least one")
    return Pool(
        problems=tuple(unique.values()),
        num_read=num_read,
        num_duplicates=num_read - len(unique),
        where=where,
    )


def check_disjoint(train: Pool, held_out: Pool) -> None:
    """Raise `DataError` when a problem stands in both pools; it names the first, with its places.

    What is trained on cannot be measured as held out.
    """
    held_out_by_key = {problem.key: problem for problem in held_out.problems}
    shared = [problem for problem in train.problems if problem.key in held_out_by_key]
    if shared:
        first = shared[0]
        raise DataError(
            f"{_counted(len(shared), 'problem')} in both {train.where} and {held_out.where}: the "
            f"first is {_start(first.prompt)!r} (key {first.key}), in {train.where} from source "
            f"{first.source!r} and in {held_out.where} from source "
            f"{held_out_by_key[first.key].source!r}; take them out of one of the two"
        )


def drop_too_long(
    pool: Pool,
    num_tokens: Callable[[Problem], int],
    *,
    max_prompt_tokens: int,
    policy: Literal["drop", "error"],
) -> Pool:
    """Return the pool without the prompts that `num_tokens` finds longer than the limit, counted.

    Raises `DataError` under policy `error` when there is one, and when nothing would be left.
    """
    lengths = [num_tokens(problem) for problem in pool.problems]
    kept = tuple(
        problem
        for problem, length in zip(pool.problems, lengths, strict=True)
        if length <= max_prompt_tokens
    )
    num_dropped = len(lengths) - len(kept)
    if num_dropped and (policy == "error" or not kept):
        longest = pool.problems[lengths.index(max(lengths))]
        raise DataError(
            f"{pool.where}: {num_dropped} of {_counted(len(lengths), 'prompt')} exceed "
            f"data.max_prompt_tokens={max_prompt_tokens}; the longest, {_start(longest.prompt)!r} "
            f"from source {longest.source!r}, has {max(lengths)} tokens; raise "
            "data.max_prompt_tokens"
            + (", or set data.too_long=drop to leave them out" if kept else "")
        )
    return replace(pool, problems=kept, num_too_long=pool.num_too_long + num_dropped)


def summary_lines(pool: Pool) -> list[str]:
    """Return what a pool holds in plain text: the totals, then one line a source and level."""
    head = f"{pool.where}: {_counted(len(pool.problems), 'problem')}"
    dropped = _dropped(pool)
    lines = [f"{head} ({pool.num_read} read; {dropped})" if dropped else head]
    lines += [f"  {source} level {level}: {n}" for (source, level), n in pool.counts.items()]
    return lines


def _dropped(pool: Pool) -> str:
    """Say what was dropped; empty when nothing was."""
    duplicates = f"{_counted(pool.num_duplicates, 'duplicate')} dropped"
    too_long = f"{pool.num_too_long} over the length limit dropped"
    said = [duplicates] * (pool.num_duplicates > 0) + [too_long] * (pool.num_too_long > 0)
    return ", ".join(said)


def _read(use: SourceUse, *, path: str) -> Iterator[Problem]:
    """Yield the problems of one source, each checked; errors name the place in the recipe."""
    try:
        plugin = plugins.resolve(use.use, kind="data")
    except PluginError as error:
        raise PluginError(f"{path}.use: {error}") from error.__cause__
    source: Iterable[Problem] = plugins.build(plugin.target, use.options, path=path)
    try:
        for number, problem in enumerate(source, start=1):
            _check(problem, place=f"problem {number} of {use.use}")
            yield problem
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error.__cause__
    except Exception as error:  # A source is somebody else's code: a failure becomes one message.
        raise DataError(f"{path}: {use.use} raised {type(error).__name__}: {error}") from error


def _check(problem: Problem, *, place: str) -> None:
    if not isinstance(problem, Problem):
        raise DataError(
            f"{place} is a {type(problem).__name__}; a prompt source yields rl_llm.records.Problem"
        )
    text = problem.prompt if isinstance(problem.prompt, str) else str(problem.prompt)
    if any("\ud800" <= character <= "\udfff" for character in text + problem.answer):
        raise DataError(f"{place} holds half of a surrogate pair, which is no text; mend the data")
    if _is_empty(problem.prompt):
        raise DataError(
            f"{place} has an empty prompt (answer {problem.answer!r}); remove it from the data"
        )
    expected_key = content_key(problem.prompt, problem.answer)
    if problem.key != expected_key:
        raise DataError(
            f"{place} has the key {problem.key!r}; a prompt source sets "
            f"key=content_key(prompt, answer), here {expected_key!r}"
        )


def _is_empty(prompt: Prompt) -> bool:
    """Tell whether there is nothing to answer: blank text, or a chat whose every turn is blank but
    for the system's."""
    if isinstance(prompt, str):
        return not prompt.strip()
    return not any(turn["content"].strip() for turn in prompt if turn["role"] != "system")


def _start(prompt: Prompt) -> str:
    """Return the first characters of a prompt, of a chat those of its last turn."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return text if len(text) <= _MAX_START_CHARS else text[: _MAX_START_CHARS - 3] + "..."


def _level_order(level: Level) -> tuple[bool, float, str]:
    """Sort numbers by value and before names."""
    return (True, 0.0, level) if isinstance(level, str) else (False, float(level), "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
