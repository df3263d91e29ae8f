"""The training problems by position; positions of endless sources hold another one after each draw.

A position of an endless source is a *slot*. Its bucket is the source and level of the problem that
it holds; of one stream, all slots of a bucket share what the stream brings for it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rl_llm.curriculum.pool import StateDict, bucket_name
from rl_llm.errors import CheckpointError, DataError
from rl_llm.records import Problem


class Stream(Protocol):
    """An endless source."""

    @property
    def place(self) -> str:
        """Where it stands in the recipe, which tells it from other streams."""
        ...

    @property
    def seed(self) -> int:
        """The seed of its batch 0."""
        ...

    @property
    def keys(self) -> Set[str]:
        """The keys of its batch 0; those that the pool holds make its slots."""
        ...

    def batch(self, number: int, /) -> Sequence[Problem]:
        """Return batch `number`, 1 or more: the same problems for the same number."""
        ...


@dataclass(slots=True)
class _Cursor:
    """Where a bucket stands in its stream: the next problem is row `row` of its part of batch
    `batch`, and is looked for after `wait` more slots have asked.

    `part` is that part, once it was read: buckets come to a batch at different times.
    """

    bucket: str
    batch: int = 1
    row: int = 0
    wait: int = 0
    num_slots: int = 0
    part: Sequence[Problem] | None = None


@dataclass(eq=False)
class _Source:
    """A stream with its slots; `read` is its last batch by bucket, kept because other buckets often
    come to the same batch soon."""

    stream: Stream
    slots: list[int] = field(default_factory=list)
    cursors: dict[str, _Cursor] = field(default_factory=dict)
    read: tuple[int, Mapping[str, list[Problem]]] = (0, {})

    def part(self, number: int, name: str) -> list[Problem]:
        """Return the problems of a batch that belong to a bucket."""
        if self.read[0] != number:
            by_bucket: dict[str, list[Problem]] = defaultdict(list)
            for problem in self.stream.batch(number):
                by_bucket[bucket_name(problem)].append(problem)
            self.read = (number, dict(by_bucket))
        return self.read[1].get(name, [])


class Supply:
    """The problems of a pool by position, with fresh ones for the slots of endless sources.

    A slot whose problem was drawn is given the next problem of the same bucket that its stream
    brings, batch after batch. What stands in the pool already, in whatever position, is passed
    over. When the rest of a batch and a whole further one bring nothing for a bucket, because a
    level holds few problems and all of them stand in the pool, the slot keeps its problem, and the
    bucket is tried again after as many draws as it has slots: a small level repeats itself.

    The same calls in the same order leave the same problems, on every rank and after a resume.
    """

    def __init__(self, problems: Sequence[Problem], streams: Sequence[Stream] = ()) -> None:
        """Start with the pool as it was read, which holds batch 0 of every stream.

        Raises `DataError` for an empty pool and for a key that stands in it twice.
        """
        self._first = problems
        self._problems = list(problems)
        self._position = _positions(problems)
        self._sources = [_Source(stream) for stream in streams]
        self._source_of: dict[int, _Source] = {}
        self._drawn_from: dict[int, tuple[int, int]] = {}  # Slot -> batch and row, from batch 1 on.
        self._first_slots: dict[str, int] = {}
        for source in self._sources:
            source.slots = sorted(
                self._position[k] for k in source.stream.keys & self._position.keys()
            )
            for position in source.slots:
                key, bucket = problems[position].key, bucket_name(problems[position])
                self._source_of[position] = source
                self._first_slots[key] = position
                source.cursors.setdefault(bucket, _Cursor(bucket)).num_slots += 1

    @property
    def problems(self) -> Sequence[Problem]:
        """The problem that stands at every position now."""
        return self._problems

    @property
    def row_names(self) -> list[str]:
        """What to name every position by in a checkpoint: the content key, and for a slot
        `SOURCE/level=LEVEL#NUMBER@SEED`, the same whatever problem it holds."""
        if not self._source_of:
            return list(self._position)
        counted: dict[str, int] = defaultdict(int)
        names = []
        for position, problem in enumerate(self._first):
            name = problem.key
            if position in self._source_of:
                bucket, seed = bucket_name(problem), self._source_of[position].stream.seed
                name = f"{bucket}#{counted[f'{bucket}@{seed}']}@{seed}"
                counted[f"{bucket}@{seed}"] += 1
            names.append(name)
        return names

    def position_of(self, key: str) -> int:
        """Return where a problem stands now; `KeyError` when it stands nowhere, as one that was
        replaced."""
        return self._position[key]

    def first_position_of(self, key: str) -> int:
        """Return where a problem stood in the pool as it was read, whatever stands there now: the
        place of a problem that is measured over and over, as evaluations do."""
        slot = self._first_slots.get(key)
        return self._position[key] if slot is None else slot

    def replace(self, positions: Iterable[int]) -> None:
        """Give fresh problems to the slots among `positions`, in their order; the others keep
        theirs.

        Raises `DataError` when a stream cannot be read or brings a problem that is held out.
        """
        for position in map(int, positions):
            if (source := self._source_of.get(position)) is None:
                continue
            cursor = source.cursors[bucket_name(self._problems[position])]
            fresh = self._next(source, cursor)
            if fresh is not None:
                self._put(position, fresh)
                self._drawn_from[position] = (cursor.batch, cursor.row - 1)

    def _next(self, source: _Source, cursor: _Cursor) -> Problem | None:
        """Move a bucket on to its next problem that does not stand in the pool, and return it; None
        when there is none for now."""
        if cursor.wait:
            cursor.wait -= 1
            return None
        last = cursor.batch + (cursor.row > 0)
        while cursor.batch <= last:
            if cursor.part is None:
                cursor.part = source.part(cursor.batch, cursor.bucket)
            while cursor.row < len(cursor.part):
                problem = cursor.part[cursor.row]
                cursor.row += 1
                if problem.key not in self._position:
                    return problem
            cursor.batch, cursor.row, cursor.part = cursor.batch + 1, 0, None
        cursor.wait = cursor.num_slots - 1
        return None

    def _put(self, position: int, problem: Problem) -> None:
        before = self._problems[position]
        if self._position.get(before.key) == position:
            del self._position[before.key]
        self._problems[position] = problem
        self._position[problem.key] = position

    def state_dict(self) -> StateDict:
        """Return where every slot's problem came from, and how far every stream was read."""
        batch_N, row_N = np.zeros((2, len(self._problems) if self._sources else 0), np.int32)
        for position, (batch, row) in self._drawn_from.items():
            batch_N[position], row_N[position] = batch, row
        rest: dict[str, Any] = {
            source.stream.place: {
                "digest": self._digest(source),
                "buckets": {name: [c.batch, c.row, c.wait] for name, c in source.cursors.items()},
            }
            for source in self._sources
        }
        columns = {"supply_batch": batch_N, "supply_row": row_N} if self._sources else {}
        return {"columns": columns, "rest": rest}

    def load_state_dict(self, state: StateDict) -> None:
        """Put every slot's problem back, by calling the sources again.

        Raises `CheckpointError` when a source gives other problems than it gave then.
        """
        self._problems = list(self._first)
        self._position = _positions(self._first)
        self._drawn_from = {}
        for source in self._sources:
            saved = state["rest"].get(source.stream.place)
            if saved is None:
                continue
            for name, cursor in source.cursors.items():
                cursor.batch, cursor.row, cursor.wait = saved["buckets"].get(name, (1, 0, 0))
                cursor.part = None
            whole = self._load_slots(source, state)
            if not whole or self._digest(source) != saved["digest"]:
                raise CheckpointError(
                    f"{source.stream.place} no longer gives the problems that it gave when the "
                    "checkpoint was written; resume with the version of the source that it was "
                    "written with, or start again under another run.name"
                )

    def _load_slots(self, source: _Source, state: StateDict) -> bool:
        """Fill the slots of a source, reading each batch once; False when a row is missing."""
        batch_N, row_N = (state["columns"][f"supply_{name}"] for name in ("batch", "row"))
        for position in sorted(source.slots, key=lambda slot: (batch_N[slot], slot)):
            batch, row = int(batch_N[position]), int(row_N[position])
            if batch == 0:
                continue
            part = source.part(batch, bucket_name(self._first[position]))
            if row >= len(part):
                return False
            self._put(position, part[row])
            self._drawn_from[position] = (batch, row)
        return True

    def _digest(self, source: _Source) -> str:
        """Return a hash over what stands in the slots of a source, those still at batch 0 aside."""
        standing = [self._problems[p].key for p in source.slots if p in self._drawn_from]
        return hashlib.sha256(" ".join(standing).encode()).hexdigest()[:32]


def _positions(problems: Sequence[Problem]) -> dict[str, int]:
    """Return the position of every key."""
    if not problems:
        raise DataError("the training pool is empty; give data.train a source that yields problems")
    positions: dict[str, int] = {}
    for position, problem in enumerate(problems):
        first = positions.setdefault(problem.key, position)
        if first != position:
            raise DataError(
                f"problems {first} and {position} of the training pool have the same key "
                f"{problem.key}; keep one"
            )
    return positions
