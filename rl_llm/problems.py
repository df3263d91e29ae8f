"""From the sources that a recipe names to pools of problems: read, checked, counted.

Policy: a problem whose prompt is empty is an error; a second problem with the same key is dropped
and counted; a prompt over the length limit is dropped and counted, or an error, as the recipe says.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from rl_llm import plugins
from rl_llm.config import SourceUse
from rl_llm.errors import ConfigError, DataError, InputError, PluginError
from rl_llm.records import Level, Problem, Prompt, content_key, level_order
from rl_llm.seeds import derive_seed

_log = logging.getLogger(__name__)

_MAX_START_CHARS = 60
_MOST_EMPTY_BATCHES = 16  # In a row, of an endless source, before it counts as exhausted.


NumTokens = Callable[[Problem], int]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An endless source: it has its batch 0 in the pool, and gives further batches on demand.

    `keys` are those of its problems in the pool. `batch(number)`, from 1 on, calls the source again
    with the seed `derive_seed(seed, "stream", number)` in place of its own, `seed`; the same number
    gives the same problems. What the source warns of it has said for batch 0, and is not repeated.
    `place` is where the source stands in the recipe.
    """

    place: str
    seed: int
    keys: frozenset[str]
    batch: Callable[[int], Sequence[Problem]]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All problems of one side of a run, in the order of their sources, each key once.

    `where` is the place in the recipe, for messages. `num_read` counts what the sources gave, so it
    is `len(problems) + num_duplicates + num_too_long`. `streams` are the endless sources among
    them.
    """

    problems: tuple[Problem, ...]
    num_read: int
    num_duplicates: int = 0
    num_too_long: int = 0
    where: str = "data"
    streams: tuple[Stream, ...] = ()

    @property
    def endless_keys(self) -> frozenset[str]:
        """The keys of the problems that are the first of an endless source."""
        return frozenset[str]().union(*(stream.keys for stream in self.streams))

    @property
    def counts(self) -> dict[tuple[str, Level], int]:
        """How many problems there are for each (source, level): sources in the order of the recipe,
        the levels of each in rising order."""
        counted = Counter((problem.source, problem.level) for problem in self.problems)
        sources = {source: rank for rank, (source, _) in enumerate(counted)}
        in_order = sorted(counted, key=lambda pair: (sources[pair[0]], *level_order(pair[1])))
        return {pair: counted[pair] for pair in in_order}


def load_pool(uses: Sequence[SourceUse], *, where: str) -> Pool:
    """Read every problem of the sources that stand at `where` in the recipe (`data.train`).

    Of problems with the same key the first stays. Raises `PluginError` and `ConfigError` for a
    source that cannot be found or given its options, or that is endless and has no option `seed`;
    `DataError` for one that cannot be read, for an empty prompt, and when there is no problem at
    all. A source that gives none beside others that do is warned of.
    """
    unique: dict[str, Problem] = {}
    streams: list[Stream] = []
    empty: list[str] = []
    num_read = 0
    for index, use in enumerate(uses):
        place, num_before, num_read_before = f"{where}.{index}", len(unique), num_read
        seed = _stream_seed(use, path=place) if use.endless else None
        for problem in _read(use, path=place):
            num_read += 1
            unique.setdefault(problem.key, problem)
        if num_read == num_read_before:
            empty.append(f"{place} ({_described(use)})")
        if seed is not None:
            keys, batch = [*unique][num_before:], partial(_read_batch, use, place, seed)
            streams.append(Stream(place=place, seed=seed, keys=frozenset(keys), batch=batch))
    if not unique:
        named = ", ".join(map(_described, uses)) or "no source"
        raise DataError(f"{where} ({named}) holds no problem; a run needs at least one")
    for each in empty:
        _log.warning("%s holds no problem; mend or remove it", each)
    return Pool(
        problems=tuple(unique.values()),
        num_read=num_read,
        num_duplicates=num_read - len(unique),
        where=where,
        streams=tuple(streams),
    )


def check_disjoint(train: Pool, held_out: Pool) -> None:
    """Raise `DataError` when a problem stands in both pools; it names the first, with its places.

    What is trained on cannot be measured as held out. Raises `ConfigError` when the held-out pool
    has an endless source: what is measured stays the same over a run.
    """
    for stream in held_out.streams:
        raise ConfigError(
            f"{stream.place}.endless=true: held-out problems stay the same over a run; remove "
            "endless, and set the number of problems by the source's own options"
        )
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
    num_tokens: NumTokens,
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


def checked_streams(
    train: Pool, held_out: Pool, num_tokens: NumTokens, *, max_prompt_tokens: int
) -> tuple[Stream, ...]:
    """Return the endless sources of the training pool with the rules of a pool on every batch.

    Of a batch, problems that are held out and prompts over the limit are dropped, whatever
    `data.too_long` says: a run is not stopped midway by the luck of a draw. Where nothing is left
    of a batch, and of the ones behind it up to `_MOST_EMPTY_BATCHES` in a row, asking for it raises
    `DataError`. The same number gives the same problems, whatever was asked for before.
    """
    held_out_keys = {problem.key for problem in held_out.problems}

    def is_allowed(problem: Problem) -> bool:
        return problem.key not in held_out_keys and num_tokens(problem) <= max_prompt_tokens

    def checked(stream: Stream, number: int) -> list[Problem]:
        read = stream.batch(number)
        kept = [problem for problem in read if is_allowed(problem)]
        last = number + _MOST_EMPTY_BATCHES - 1
        following = (stream.batch(later) for later in range(number + 1, last + 1))
        if kept or any(is_allowed(problem) for batch in following for problem in batch):
            return kept
        num_held_out = sum(problem.key in held_out_keys for problem in read)
        raise DataError(
            f"{stream.place}: its batches {number} to {last} bring nothing to train on; of the "
            f"{_counted(len(read), 'problem')} of the first of these, {num_held_out} stand in "
            f"{held_out.where}, and the other prompts exceed "
            f"data.max_prompt_tokens={max_prompt_tokens}; take another split or other levels for "
            f"{held_out.where}, or remove {stream.place}.endless"
        )

    return tuple(replace(stream, batch=partial(checked, stream)) for stream in train.streams)


def summary_lines(pool: Pool) -> list[str]:
    """Return what a pool holds in plain text: the totals, then one line a source and level."""
    endless_keys = pool.endless_keys
    endless = {(p.source, p.level) for p in pool.problems if p.key in endless_keys}
    head = f"{pool.where}: {_counted(len(pool.problems), 'problem')}"
    dropped = _dropped(pool)
    lines = [f"{head} ({pool.num_read} read; {dropped})" if dropped else head]
    for bucket, count in pool.counts.items():
        source, level = bucket
        tail = " at a time, endless" if bucket in endless else ""
        lines.append(f"  {source} level {level}: {count}{tail}")
    return lines


def _dropped(pool: Pool) -> str:
    """Say what was dropped; empty when nothing was."""
    duplicates = f"{_counted(pool.num_duplicates, 'duplicate')} dropped"
    too_long = f"{pool.num_too_long} over the length limit dropped"
    said = [duplicates] * (pool.num_duplicates > 0) + [too_long] * (pool.num_too_long > 0)
    return ", ".join(said)


def _read(use: SourceUse, *, path: str) -> Iterator[Problem]:
    """Yield the problems of one source, each checked; errors name the place in the recipe."""
    target = find_source(use, path=path).target
    source: Iterable[Problem] = plugins.build(target, use.options, path=path)
    try:
        for number, problem in enumerate(source, start=1):
            _check(problem, place=f"problem {number} of {use.use}")
            yield problem
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error.__cause__
    except Exception as error:  # A source is somebody else's code: a failure becomes one message.
        raise DataError(f"{path}: {use.use} raised {type(error).__name__}: {error}") from error


def find_source(use: SourceUse, *, path: str) -> plugins.Plugin:
    """Return what a source's name stands for, with its options checked and nothing read; raises
    `PluginError` and `ConfigError`, which name the place in the recipe."""
    found = _resolve(use, path=path)
    plugins.check_options(found.target, use.options, path=path, beside=SourceUse.model_fields)
    return found


def _described(use: SourceUse) -> str:
    """Name a source with its options, which say what it reads."""
    return " ".join([use.use, *(f"{name}={value!s:.300}" for name, value in use.options.items())])


def _resolve(use: SourceUse, *, path: str) -> plugins.Plugin:
    try:
        return plugins.resolve(use.use, kind="data")
    except PluginError as error:
        raise PluginError(f"{path}.use: {error}") from error.__cause__


def _stream_seed(use: SourceUse, *, path: str) -> int:
    """Return the seed that an endless source starts from, its default if the recipe names none."""
    target = _resolve(use, path=path).target
    options = plugins.check_options(target, use.options, path=path, beside=SourceUse.model_fields)
    seed = options.get("seed")
    if not isinstance(seed, int):
        found = f"has seed={seed!r}" if "seed" in options else "has no option `seed`"
        raise ConfigError(
            f"{path}.endless=true: {use.use} {found}, and fresh problems are drawn by giving a "
            "source another whole number as its seed; remove endless, or use a source with a seed"
        )
    return seed


def _read_batch(use: SourceUse, place: str, seed: int, number: int) -> list[Problem]:
    """Read a later batch of an endless source."""
    options = use.options | {"seed": derive_seed(seed, "stream", number)}
    logger = logging.getLogger(_resolve(use, path=place).module.__name__)
    with _without_warnings(logger):
        return [*_read(SourceUse(use=use.use, **options), path=f"{place} (batch {number})")]


@contextmanager
def _without_warnings(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check(problem: Problem, *, place: str) -> None:
    if not isinstance(problem, Problem):
        raise DataError(
            f"{place} is a {type(problem).__name__}; a prompt source yields rl_llm.records.Problem"
        )
    text = problem.prompt if isinstance(problem.prompt, str) else str(problem.prompt)
    if any("\ud800" <= character <= "\udfff" for character in text + problem.answer):
        raise DataError(f"{place} holds half of a surrogate pair, which is no text; mend the data")
    if is_empty(problem.prompt):
        raise DataError(
            f"{place} has an empty prompt (answer {problem.answer!r}); remove it from the data"
        )
    expected_key = content_key(problem.prompt, problem.answer)
    if problem.key != expected_key:
        raise DataError(
            f"{place} has the key {problem.key!r}; a prompt source sets "
            f"key=content_key(prompt, answer), here {expected_key!r}"
        )


def is_empty(prompt: Prompt) -> bool:
    """Tell whether there is nothing to answer: blank text, or a chat whose every turn is blank but
    for the system's."""
    if isinstance(prompt, str):
        return not prompt.strip()
    return not any(turn["content"].strip() for turn in prompt if turn["role"] != "system")


def _start(prompt: Prompt) -> str:
    """Return the first characters of a prompt, of a chat those of its last turn."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return text if len(text) <= _MAX_START_CHARS else text[: _MAX_START_CHARS - 3] + "..."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
