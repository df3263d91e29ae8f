"""Sharing requests out over servers so that each is answered exactly once, whatever they do."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl_llm.errors import EngineLost, RunError
from rl_llm.rollout.server_client import Ask, Drawn, ServerDown, ServerRefusal
from rl_llm.rollout.server_pool import Server, ServerPool

MAX_FAILURES = 3
"""A request that has brought so many servers down is not asked of another."""


@dataclass(kw_only=True, eq=False)
class Work:
    """A part of a request: the completions from `start` of request number `index`.

    `failed_on` are the servers that went down over it; others are asked while there are any.
    """

    index: int
    start: int
    ask: Ask
    problem_key: str
    num_failures: int = 0
    failed_on: set[Server] = field(default_factory=set)


Deliver = Callable[[Work, Sequence[Drawn]], None]


class Dispatch:
    """The requests of one call, each either pending, in flight on one server, or delivered."""

    def __init__(self, pool: ServerPool, works: Iterable[Work], deliver: Deliver) -> None:
        """`deliver` is called once for each work, on the event loop."""
        self._pool = pool
        self._pending = deque(works)
        self._deliver = deliver
        self._flights: dict[asyncio.Task[list[Drawn]], tuple[Work, Server]] = {}
        self._dropped: list[asyncio.Task[list[Drawn]]] = []

    async def run(self) -> None:
        """Return once everything is delivered."""
        try:
            while self._pending or self._flights:
                await self._pool.wait_for_one()
                self._start_what_fits()
                done, _ = await asyncio.wait(
                    {*self._flights, *self._pool.recoveries}, return_when=asyncio.FIRST_COMPLETED
                )
                self._take(done)
        finally:
            for task in list(self._flights):
                self._drop(task)
            await asyncio.gather(*self._dropped, return_exceptions=True)

    def _start_what_fits(self) -> None:
        """Give the next requests to the least loaded servers, up to what these may hold."""
        held_back = []
        while self._pending:
            work = self._pending.popleft()
            server = self._pool.roomiest(work.ask.count, avoiding=work.failed_on)
            if server is not None:
                self._start(work, server)
                continue
            held_back.append(work)
            if not work.failed_on:
                break
        self._pending.extendleft(reversed(held_back))

    def _start(self, work: Work, server: Server) -> None:
        server.in_flight += work.ask.count
        task = asyncio.create_task(self._pool.ask(server, work.ask))
        self._flights[task] = (work, server)

    def _take(self, done: Iterable[asyncio.Task[Any]]) -> None:
        """Deliver what has come, and then see to the servers that failed."""
        for task in done:
            if task not in self._flights:
                task.result()  # A server is back, or asking it has failed in an unforeseen way.
        failed: defaultdict[Server, list[tuple[Work, ServerDown]]] = defaultdict(list)
        for task in [task for task in done if task in self._flights]:
            work, server = self._land(task)
            try:
                self._deliver(work, task.result())
            except ServerDown as fault:
                failed[server].append((work, fault))
            except ServerRefusal as refusal:
                raise RunError(
                    f"vLLM server {server.url} refuses a request (problem {work.problem_key}): "
                    f"{refusal}; see that it serves the recipe's model, as at the run's start"
                ) from None
        for server, failures in failed.items():
            self._move(server, failures)

    def _move(self, server: Server, failures: Sequence[tuple[Work, ServerDown]]) -> None:
        """Take a lost server's requests back, first in the queue; what it still says is dropped."""
        for work, fault in failures:
            work.num_failures += 1
            work.failed_on.add(server)
            if work.num_failures == MAX_FAILURES:
                raise EngineLost(
                    f"a request (problem {work.problem_key}) has failed {MAX_FAILURES} times, last "
                    f"on vLLM server {server.url}: {fault}; see that server's log, and mend what "
                    "it says"
                )
        in_flight = [task for task, (_, holder) in self._flights.items() if holder is server]
        moved = [*(work for work, _ in failures), *map(self._drop, in_flight)]
        self._pending.extendleft(reversed(moved))
        self._pool.lose(server, str(failures[0][1]), num_moved=len(moved))

    def _drop(self, task: asyncio.Task[list[Drawn]]) -> Work:
        task.cancel()
        self._dropped.append(task)
        return self._land(task)[0]

    def _land(self, task: asyncio.Task[list[Drawn]]) -> tuple[Work, Server]:
        work, server = self._flights.pop(task)
        server.in_flight -= work.ask.count
        return work, server
