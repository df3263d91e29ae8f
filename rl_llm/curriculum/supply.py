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

from rl_llm.curriculum.key_index import KeyIndex
from rl_llm.curriculum.pool import Indices, StateDict, bucket_name
from rl_llm.errors import CheckpointError, DataError
from rl_llm.records import Problem

_FINITE = -1


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
    slots: Indices
    cursors: dict[str, _Cursor] = field(default_factory=dict)
    read: tuple[int, Mapping[str, list[Problem]]] = (0, {})

    def part(self, number: int, name: str) -> list[Problem]:
        """Return the problems of a batch that belong to a bucket."""
        if self.read[0] != number:
            by_bucket: dict[str, list[Problem]] = defaultdict(list)
            for problem in self.stream.batch(number):
                by_bucket[_bucket_of(problem)].append(problem)
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

    Memory: 12 bytes a problem while nothing is endless.
    """

    def __init__(self, problems: Sequence[Problem], streams: Sequence[Stream] = ()) -> None:
        """Start with the pool as it was read, which holds batch 0 of every stream; it is kept, not
        copied, and must not change.

        Raises `DataError` for an empty pool and for a key that stands in it twice.
        """
        if not problems:
            raise DataError(
                "the training pool is empty; give data.train a source that yields problems"
            )
        self._first = problems
        self._first_index = KeyIndex(problems)
        self._now: dict[str, int] = {}  # Where fresh problems stand.
        # The rest is empty while nothing is endless. Batch 0 is what stood first.
        self._standing = list(problems) if streams else []
        self._batch_N, self._row_N = np.zeros((2, len(self._standing)), np.int32)
        self._source_N = np.full(len(self._standing), _FINITE, np.int16)
        self._sources = [self._source(number, stream) for number, stream in enumerate(streams)]

    def _source(self, number: int, stream: Stream) -> _Source:
        """Return a stream with its slots, which are marked with its number."""
        found = self._first_index.find(list(stream.keys))
        source = _Source(stream, slots=np.sort(found[found >= 0]))
        self._source_N[source.slots] = number
        for position in source.slots.tolist():
            bucket = _bucket_of(self._first[position])
            source.cursors.setdefault(bucket, _Cursor(bucket)).num_slots += 1
        return source

    @property
    def problems(self) -> Sequence[Problem]:
        """The problem that stands at every position now."""
        return self._standing or self._first

    @property
    def is_endless(self) -> bool:
        """Whether any position gets fresh problems."""
        return bool(self._sources)

    @property
    def row_names(self) -> list[str]:
        """What to name every position by in a checkpoint: the content key, and for a slot
        `SOURCE/level=LEVEL#NUMBER@SEED`, the same whatever problem it holds."""
        if not self._sources:
            return [problem.key for problem in self._first]
        counted: dict[str, int] = defaultdict(int)
        names = []
        for problem, number in zip(self._first, self._source_N.tolist(), strict=True):
            name = problem.key
            if number != _FINITE:
                bucket, seed = _bucket_of(problem), self._sources[number].stream.seed
                name = f"{bucket}#{counted[f'{bucket}@{seed}']}@{seed}"
                counted[f"{bucket}@{seed}"] += 1
            names.append(name)
        return names

    def position_of(self, key: str) -> int:
        """Return where a problem stands now; `KeyError` when it stands nowhere, as one that was
        replaced."""
        return int(self.positions_of([key])[0])

    def positions_of(self, keys: Sequence[str]) -> Indices:
        """Return where problems stand now; `KeyError` when one stands nowhere."""
        found = self._first_index.find(keys)
        if self._now:
            found[(found >= 0) & (self._batch_N[found] > 0)] = -1
            places = map(self._now.get, keys, found.tolist())
            found = np.fromiter(places, np.int64, len(keys))
        return _known(keys, found)

    def first_positions_of(self, keys: Sequence[str]) -> Indices:
        """Return where problems stood in the pool as it was read, whatever stands there now: the
        places of problems that are measured over and over, as evaluations do.

        What a stream brought later is where it stands now; `KeyError` when that is nowhere.
        """
        found = self._first_index.find(keys)
        for number in np.flatnonzero(found < 0).tolist():
            found[number] = self._now.get(keys[number], -1)
        return _known(keys, found)

    def _stands(self, key: str) -> bool:
        """Tell whether a problem stands anywhere now."""
        first = self._first_index.get(key)
        return key in self._now or (first >= 0 and not self._batch_N[first])

    def replace(self, positions: Iterable[int]) -> None:
        """Give fresh problems to the slots among `positions`, in their order; the others keep
        theirs.

        Raises `DataError` when a stream cannot be read.
        """
        if not self._sources:
            return
        for position in map(int, positions):
            if (number := self._source_N[position]) == _FINITE:
                continue
            source = self._sources[number]
            cursor = source.cursors[_bucket_of(self._standing[position])]
            fresh = self._next(source, cursor)
            if fresh is not None:
                self._put(position, fresh, batch=cursor.batch, row=cursor.row - 1)

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
                if not self._stands(problem.key):
                    return problem
            cursor.batch, cursor.row, cursor.part = cursor.batch + 1, 0, None
        cursor.wait = cursor.num_slots - 1
        return None

    def _put(self, position: int, problem: Problem, *, batch: int, row: int) -> None:
        before = self._standing[position]
        if self._now.get(before.key) == position:
            del self._now[before.key]
        self._standing[position] = problem
        self._now[problem.key] = position
        self._batch_N[position], self._row_N[position] = batch, row

    def state_dict(self) -> StateDict:
        """Return where every slot's problem came from, and how far every stream was read."""
        rest: dict[str, Any] = {
            source.stream.place: {
                "digest": self._digest(source),
                "buckets": {name: [c.batch, c.row, c.wait] for name, c in source.cursors.items()},
            }
            for source in self._sources
        }
        columns = {"supply_batch": self._batch_N.copy(), "supply_row": self._row_N.copy()}
        return {"columns": columns if self._sources else {}, "rest": rest}

    def load_state_dict(self, state: StateDict) -> None:
        """Put every slot's problem back, by calling the sources again.

        Raises `CheckpointError` when a source gives other problems than it gave then.
        """
        self._standing[:] = self._first if self._sources else []
        self._now.clear()
        self._batch_N[:] = self._row_N[:] = 0
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
        for position in sorted(source.slots.tolist(), key=lambda slot: (batch_N[slot], slot)):
            batch, row = int(batch_N[position]), int(row_N[position])
            if batch == 0:
                continue
            part = source.part(batch, _bucket_of(self._first[position]))
            if row >= len(part):
                return False
            self._put(position, part[row], batch=batch, row=row)
        return True

    def _digest(self, source: _Source) -> str:
        """Return a hash over what stands in the slots of a source, those still at batch 0 aside."""
        fresh = source.slots[self._batch_N[source.slots] > 0]
        standing = [self._standing[position].key for position in fresh.tolist()]
        return hashlib.sha256(" ".join(standing).encode()).hexdigest()[:32]


def _bucket_of(problem: Problem) -> str:
    return bucket_name(problem.source, problem.level)


def _known(keys: Sequence[str], found: Indices) -> Indices:
    """Return positions as they are, all of them 0 or more, or raise `KeyError`."""
    if len(found) and found.min() < 0:
        raise KeyError(keys[int(found.argmin())])
    return found
