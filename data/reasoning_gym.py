"""The procedural task families of reasoning-gym (https://arxiv.org/abs/2505.24760), graded by
their curricula, for the reward `reasoning_gym_verifier`."""

import dataclasses
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from rl_llm.errors import ConfigError, DataError, nearest
from rl_llm.records import Level, Message, Problem, Prompt, content_key
from rl_llm.seeds import derive_seed

Split = Literal["train", "eval"]

EVAL_SHARE = 0.3
DEFAULT_LEVEL = "default"  # The level of problems drawn without a curriculum.
INSTRUCTION = "Give the final answer between <answer> and </answer>."

_CHUNK = 500  # Draws from one seed of the library, whose draw i of seed s is draw 0 of seed s + i.
_SLOW_S = 30.0
# What the library raises when a configuration cannot be used or a draw fails.
_LIBRARY_ERRORS = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """All problems of one family and level, as draws from a seeded generator.

    `config` is the library's own, complete but for seed and size.
    """

    family: str
    level: Level
    config: Any

    def draws(self, seed: int) -> Iterator[dict[str, Any] | Exception]:
        """Yield entries of the library without end, or the error of a draw that failed."""
        dataset_class, _ = _library().DATASETS[self.family]
        for chunk in count():
            chunk_seed = derive_seed("reasoning_gym", self.family, self.level, seed, chunk) % 2**32
            config = dataclasses.replace(self.config, seed=chunk_seed, size=_CHUNK)
            dataset = dataset_class(config=config)
            for index in range(_CHUNK):
                try:
                    yield dataset[index]
                except _LIBRARY_ERRORS as error:
                    yield error


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a question becomes a prompt."""

    instruction: str
    system: str | None
    chat: bool

    def prompt(self, question: str) -> Prompt:
        """Return the question with the instruction, as a chat or as plain text."""
        text = f"{question}\n\n{self.instruction}" if self.instruction else question
        if not self.chat:
            return text
        user: Message = {"role": "user", "content": text}
        return (
            (user,) if self.system is None else ({"role": "system", "content": self.system}, user)
        )


def reasoning_gym(  # noqa: PLR0913  A source's options are a flat list in the recipe.
    *,
    family: str,
    size: int,
    split: Split,
    seed: int = 0,
    levels: list[int] | None = None,
    cumulative: bool = False,
    params: dict[str, Any] | None = None,
    instruction: str = INSTRUCTION,
    system: str | None = None,
    chat: bool = True,
) -> Iterator[Problem]:
    """Yield `size` different problems of a family, spread evenly over `levels`, level by level.

    Level 0 is the easiest of the family's curriculum; without `levels` problems come from the
    family's default configuration. A level draws from its own ranges; with `cumulative` also from
    those below. `params` sets fields of the family's configuration, also over what the level says.
    A problem belongs to `eval` (30 %) or to `train` by the hash of its question, so no seed, size
    or instruction moves one from training to evaluation.

    A level that holds fewer problems than its part of `size` gives all it has and a warning is
    logged: the search ends when no new question comes up in 100 draws and 10 more for each question
    seen. `meta` holds what `reasoning_gym_verifier` needs, as plain JSON values. Raises
    `ConfigError` at the call, `DataError` when reasoning-gym is not installed or a level gives
    nothing.
    """
    shape = Shape(instruction=instruction, system=system, chat=chat)
    graded = [DEFAULT_LEVEL] if levels is None else levels
    _check_options(family, size, graded, shape)
    streams = [
        Stream(
            family=family,
            level=level,
            config=configure(family, level, params=params or {}, cumulative=cumulative),
        )
        for level in graded
    ]
    return _draw_all(streams, size=size, split=split, seed=seed, shape=shape)


def configure(family: str, level: Level, *, params: Mapping[str, Any], cumulative: bool) -> Any:
    """Return the library's configuration of a family at a level, checked by building it once."""
    library = _library()
    dataset_class, config_class = library.DATASETS[family]
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in params:
        if name not in known or name in ("seed", "size"):
            known_params = [field for field in known if field not in ("seed", "size")]
            raise ConfigError(f"params.{name}: unknown to {family}{nearest(name, known_params)}")
    try:
        config = config_class() if level == DEFAULT_LEVEL else _graded(family, level, cumulative)
        config = dataclasses.replace(config, **params)
        dataset_class(config=dataclasses.replace(config, seed=0, size=_CHUNK))
    except _LIBRARY_ERRORS as error:
        raise ConfigError(
            f"{family} cannot be set up at level {level} with params={dict(params)!r}: "
            f"{type(error).__name__}: {error}; leave this level out, or set params"
        ) from error
    return config


def num_levels(family: str) -> int:
    """Return how many levels a family's curriculum has; 0 without one."""
    library = _library()
    if not library.has_curriculum(family):
        return 0
    attributes = library.create_curriculum(family).attributes.values()
    return max(len(attribute.levels) for attribute in attributes)


def split_of(question: str) -> Split:
    """Return the split that a question belongs to, whatever the seed."""
    position = derive_seed("reasoning_gym", "split", question) / 2**63
    return "eval" if position < EVAL_SHARE else "train"


def to_json(value: Any) -> Any:
    """Return plain JSON values that `from_json` of the reward reads back to an equal value.

    A tuple becomes `{"tuple": [...]}`, and a mapping with keys that are no strings, or that looks
    like one of these two, `{"items": [[key, value], ...]}`.
    """
    if isinstance(value, tuple):
        return {"tuple": [to_json(item) for item in value]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and set(value) not in ({"tuple"}, {"items"}):
            return {key: to_json(item) for key, item in value.items()}
        return {"items": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"an entry of reasoning-gym holds a {type(value).__name__}, which is not kept")


def _check_options(family: str, size: int, levels: list[Any], shape: Shape) -> None:
    library = _library()
    usable = set(library.DATASETS) - {"composite"}
    if family == "composite":
        raise ConfigError(
            "family='composite' mixes other families; list each as a source of its own"
        )
    if family not in usable:
        raise ConfigError(f"family={family!r}: unknown to reasoning-gym{nearest(family, usable)}")
    highest = num_levels(family) - 1
    for level in levels:
        if level != DEFAULT_LEVEL and not 0 <= level <= highest:
            rule = f"are 0 to {highest}" if highest >= 0 else "do not exist: leave levels out"
            raise ConfigError(f"levels: there is no level {level}; those of {family} {rule}")
    if not levels or len(set(levels)) < len(levels):
        raise ConfigError(f"levels={levels!r}: name at least one level, and each once")
    if size < len(levels):
        raise ConfigError(
            f"size={size} is less than one problem a level; use at least {len(levels)}"
        )
    if shape.system is not None and not shape.chat:
        raise ConfigError("system: a plain prompt has no system message; drop it or set chat: true")


def _graded(family: str, level: Level, cumulative: bool) -> Any:
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode

    mode = RangeAttributeMode.INCLUSIVE if cumulative else RangeAttributeMode.UPPER_BOUND
    curriculum = _library().create_curriculum(family)
    curriculum.set_global_level(level)
    return curriculum.generate_configuration(context=DefaultCurriculumContext(mode=mode))


def _draw_all(
    streams: list[Stream], *, size: int, split: Split, seed: int, shape: Shape
) -> Iterator[Problem]:
    taken: set[str] = set()
    for index, stream in enumerate(streams):
        num_asked = size // len(streams) + (index < size % len(streams))
        config = _changed(stream.config)
        with _said_if_slow(stream):
            for entry in _draw(stream, num_asked, split=split, seed=seed, taken=taken):
                answer = "" if entry["answer"] is None else str(entry["answer"])
                prompt = shape.prompt(entry["question"])
                yield Problem(
                    key=content_key(prompt, answer),
                    prompt=prompt,
                    answer=answer,
                    level=stream.level,
                    source=stream.family,
                    meta={"family": stream.family, "config": config, "entry": to_json(entry)},
                )


def _draw(
    stream: Stream, num_asked: int, *, split: Split, seed: int, taken: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield entries of a split with questions that nobody took, and say when there are too few."""
    seen: set[str] = set()
    num_found, num_in_vain, failure = 0, 0, None
    for entry in stream.draws(seed):
        if isinstance(entry, Exception):
            failure, num_in_vain = entry, num_in_vain + 1
        elif entry["question"] in seen:
            num_in_vain += 1
        else:
            question, num_in_vain = entry["question"], 0
            seen.add(question)
            if split_of(question) == split and question not in taken:
                taken.add(question)
                num_found += 1
                yield entry
        if num_found == num_asked:
            return
        if num_in_vain > 100 + 10 * len(seen):
            break
    if not seen and failure is not None:
        raise DataError(
            f"reasoning-gym's {stream.family} gives no problem at level {stream.level}: "
            f"{type(failure).__name__}: {failure}; leave this level out, or set params"
        ) from failure
    _log.warning(
        "%s level %s holds %d %s problems, %d were asked for",
        *(stream.family, stream.level, num_found, split, num_asked),
    )


def _changed(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that differ from the family's defaults, for `meta`."""
    default = type(config)()
    names = {field.name for field in dataclasses.fields(config)} - {"seed", "size"}
    changed = {name: getattr(config, name) for name in sorted(names)}
    return {name: to_json(v) for name, v in changed.items() if v != getattr(default, name)}


@contextmanager
def _said_if_slow(stream: Stream) -> Iterator[None]:
    """Log once when a level takes long: some families search without end at some levels."""
    said = "reasoning-gym has drawn %s level %s for %d s; some families never end at some levels"
    timer = threading.Timer(_SLOW_S, _log.warning, (said, stream.family, stream.level, _SLOW_S))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _library() -> Any:
    try:
        from reasoning_gym import factory
    except ModuleNotFoundError as error:
        raise DataError(
            "the source reasoning_gym needs the package reasoning-gym; "
            "run: pip install -e '.[reasoning-gym]'"
        ) from error
    return factory
