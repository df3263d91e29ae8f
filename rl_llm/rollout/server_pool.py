"""The servers of a run: which are well, what they hold, and how a lost one comes back.

Everything here runs on the event loop of one thread, so nothing changes between two awaits.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rl_llm.errors import ConfigError, EngineLost, RunError
from rl_llm.rollout.server_adapters import Adapter
from rl_llm.rollout.server_checks import check_adapter, check_server
from rl_llm.rollout.server_client import Ask, Drawn, ServerClient, ServerDown, ServerRefusal
from rl_llm.seeds import derive_seed

Result = TypeVar("Result")


MAX_DOUBLINGS = 5


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a request is asked of one server again before the server counts as lost, the first
    pause between two, and how often a lost server is asked whether it is well."""

    retries: int = 3
    backoff_s: float = 0.5
    health_every_s: float = 3.0


@dataclass(kw_only=True, eq=False)
class Server:
    """One server, `in_flight` completions asked of it, and the names of adapters that it has
    loaded; `num_losses` counts how often it was lost since it last completed anything."""

    client: ServerClient
    base_model: str = ""
    in_flight: int = 0
    num_losses: int = 0
    loaded: set[str] = field(default_factory=set)
    lost_at_s: float | None = None
    last_error: str = ""
    recovery: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.client.url


class ServerPool:
    """Keeps every server that is well on the newest adapter, and takes lost ones back."""

    def __init__(
        self,
        clients: Sequence[ServerClient],
        *,
        patience: Patience,
        max_in_flight: int,
        max_wait_s: float,
        max_model_len: int,
        command: str,
    ) -> None:
        """`command` starts a fit server: messages show it."""
        self._servers = [Server(client=client) for client in clients]
        self._patience = patience
        self._max_in_flight = max_in_flight
        self._max_wait_s = max_wait_s
        self._max_model_len = max_model_len
        self._command = command
        self.adapter: Adapter | None = None
        self.messages: deque[str] = deque()

    @property
    def healthy(self) -> list[Server]:
        """The servers that take work."""
        return [server for server in self._servers if server.lost_at_s is None]

    @property
    def recoveries(self) -> list[asyncio.Task[None]]:
        """One task for each lost server; it ends when the server is back."""
        return [server.recovery for server in self._servers if server.recovery is not None]

    def roomiest(self, count: int, *, avoiding: Collection[Server] = ()) -> Server | None:
        """Return the least loaded server with room for `count` more completions, one of those to
        avoid only where no other is well."""
        others = [s for s in self.healthy if s not in avoiding] or self.healthy
        free = [s for s in others if s.in_flight + count <= self._max_in_flight]
        return min(free, key=lambda server: server.in_flight, default=None)

    async def start(self) -> None:
        """Check every server; raises `ConfigError` where one is unfit or none answers."""
        faults = await asyncio.gather(*(_fault_of(self._check(s)) for s in self._servers))
        found = [(s, fault) for s, fault in zip(self._servers, faults, strict=True) if fault]
        is_unfit = any(isinstance(fault, ServerRefusal) for _, fault in found)
        if is_unfit or len(found) == len(self._servers):
            lines = "".join(f"\n  {server.url}: {fault}" for server, fault in found)
            raise ConfigError(
                f"rollout.servers.urls: {len(found)} of {len(self._servers)} servers cannot "
                f"generate for this run:{lines}\na server that can is started by\n  {self._command}"
            )
        for server, fault in found:
            self.lose(server, str(fault))

    async def try_adapter(self, adapter: Adapter) -> None:
        """Have every server that is well load an adapter that nothing will use; raises
        `ConfigError` where one refuses it."""
        servers = self.healthy
        checks = [_fault_of(check_adapter(server.client, adapter)) for server in servers]
        faults = await asyncio.gather(*checks)
        found = [(s, fault) for s, fault in zip(servers, faults, strict=True) if fault is not None]
        refused = [(s, fault) for s, fault in found if isinstance(fault, ServerRefusal)]
        if refused:
            tried = "an adapter of the recipe's rank, tried before the run"
            raise ConfigError(_refused_adapter(refused, adapter, tried, self._command))
        for server, fault in found:
            self.lose(server, str(fault))

    async def load(self, adapter: Adapter) -> None:
        """Give every server that is well the adapter, and let it forget the one before.

        A refusal of the run's first adapter is a `ConfigError`. A server that refuses a later one
        is lost while others take it; raises `EngineLost` where none does.
        """
        before, self.adapter = self.adapter, adapter
        newest = f"the adapter of step {adapter.version}"
        servers = self.healthy
        gifts = [_fault_of(self._give(server, adapter)) for server in servers]
        faults = await asyncio.gather(*gifts)
        found = [(s, fault) for s, fault in zip(servers, faults, strict=True) if fault is not None]
        refused = [(s, fault) for s, fault in found if isinstance(fault, ServerRefusal)]
        if refused and before is None:
            raise ConfigError(_refused_adapter(refused, adapter, newest, self._command))
        if refused and len(found) == len(servers):
            raise EngineLost(_refused_adapter(found, adapter, newest, self._command))
        for server, fault in found:
            self.lose(server, str(fault))
        await self.wait_for_one()
        if before is not None and before.name != adapter.name:
            await asyncio.gather(*(self._forget(s, before.name) for s in self.healthy))

    async def wait_for_one(self) -> None:
        """Return once a server is well; raises `EngineLost` after `max_wait_s` without one."""
        while not self.healthy:
            lost_at_s = max(server.lost_at_s or 0.0 for server in self._servers)
            left_s = lost_at_s + self._max_wait_s - time.monotonic()
            if left_s <= 0:
                raise EngineLost(self._nobody_left())
            done, _ = await asyncio.wait(
                self.recoveries, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()

    async def ask(self, server: Server, ask: Ask) -> list[Drawn]:
        """Return one server's completions, with the newest adapter; raises `ServerDown` once it has
        failed too often."""
        model = self.adapter.name if self.adapter else server.base_model
        drawn = await self._persist(lambda: server.client.complete(model, ask), key=ask.seed)
        server.num_losses = 0
        return drawn

    def lose(self, server: Server, words: str, *, num_moved: int = 0) -> None:
        """Give a server no more work until it is well; `num_moved` requests of it go elsewhere."""
        if server.lost_at_s is not None:
            return
        server.lost_at_s, server.last_error = time.monotonic(), words
        server.num_losses += 1
        server.recovery = asyncio.create_task(self._recover(server))
        moved = f"; {num_moved} requests of it are asked of others" if num_moved else ""
        self.messages.append(
            f"vLLM server {server.url} is lost: {words}{moved}; {len(self.healthy)} of "
            f"{len(self._servers)} servers are left, and this one is asked every "
            f"{self._patience.health_every_s:g} s whether it is well again"
        )

    async def stop(self) -> None:
        """Let servers forget the adapter, as far as they answer."""
        for task in self.recoveries:
            task.cancel()
        if self.adapter is not None:
            name = self.adapter.name
            await asyncio.gather(*(self._forget(server, name) for server in self.healthy))

    async def _check(self, server: Server) -> None:
        model = await check_server(server.client, max_model_len=self._max_model_len)
        server.base_model = model.name

    async def _give(self, server: Server, adapter: Adapter) -> None:
        key = derive_seed("load", adapter.name)
        await self._persist(lambda: server.client.load(adapter.name, adapter.folder), key=key)
        server.loaded.add(adapter.name)

    async def _forget(self, server: Server, name: str) -> None:
        """Unload an adapter; a server that fails at it shows so at its next request."""
        server.loaded.discard(name)
        with contextlib.suppress(ServerDown, ServerRefusal):
            await server.client.unload(name)

    async def _recover(self, server: Server) -> None:
        """Ask a lost server again and again, until it is well and holds the newest adapter; the
        first time later, the oftener it was well and completed nothing."""
        rests = 2 ** min(server.num_losses - 1, MAX_DOUBLINGS) - 1
        await asyncio.sleep(rests * self._patience.health_every_s)
        while True:
            await asyncio.sleep(self._patience.health_every_s)
            try:
                await self._bring_up(server)
            except (ServerDown, ServerRefusal) as fault:
                server.last_error = str(fault)
            else:
                return

    async def _bring_up(self, server: Server) -> None:
        """Make a lost server fit, and take it back with the last await behind, so that it cannot
        be lost again before this recovery ends."""
        await self._check(server)
        given = None  # It may have been started anew, whatever it had loaded.
        while (adapter := self.adapter) is not None and adapter.name != given:
            await self._give(server, adapter)
            given = adapter.name
            for stale in server.loaded - {given}:
                await self._forget(server, stale)
        assert server.lost_at_s is not None
        lost_s = time.monotonic() - server.lost_at_s
        server.lost_at_s, server.recovery = None, None
        self.messages.append(
            f"vLLM server {server.url} is well again after {lost_s:.0f} s, and takes work"
        )

    async def _persist(
        self, call: Callable[[], Coroutine[Any, Any, Result]], *, key: int
    ) -> Result:
        """Try again what may pass, after pauses that grow and that `key` spreads."""
        attempt = 0
        while True:
            try:
                return await call()
            except ServerDown as fault:
                if attempt == self._patience.retries or not fault.may_pass:
                    raise
            await asyncio.sleep(backoff_s(self._patience.backoff_s, key=key, attempt=attempt))
            attempt += 1

    def _nobody_left(self) -> str:
        lines = "".join(f"\n  {server.url}: {server.last_error}" for server in self._servers)
        return (
            f"no vLLM server has answered for {self._max_wait_s:g} s "
            f"(rollout.servers.max_wait_s):{lines}\nstart one again, as by\n  {self._command}"
        )


def backoff_s(first_s: float, *, key: int, attempt: int) -> float:
    """Return the pause before the next attempt: it doubles each time, and between half of it and
    all of it is taken, by a hash of the request's key."""
    share = derive_seed(key, "backoff", attempt) / 2**63
    return first_s * 2.0**attempt * (0.5 + 0.5 * share)


async def _fault_of(asking: Coroutine[Any, Any, None]) -> ServerDown | ServerRefusal | None:
    """Return how a server failed at something, if it did."""
    try:
        await asking
    except (ServerDown, ServerRefusal) as fault:
        return fault
    return None


def _refused_adapter(
    faults: Sequence[tuple[Server, RunError]], adapter: Adapter, what: str, command: str
) -> str:
    lines = "".join(f"\n  {server.url}: {fault}" for server, fault in faults)
    way_out = "start the servers as below"
    if "max_lora_rank" in lines:
        way_out = "start the servers with the --max-lora-rank below"
    elif "No adapter found" in lines:
        way_out = (
            f"set rollout.servers.adapter_dir to a folder that every server sees under the same "
            f"path as the trainer (now {str(adapter.folder.parent)!r})"
        )
    elif "HTTP 404" in lines:
        way_out = (
            "start the servers with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in their environment, "
            "and with --enable-lora"
        )
    return f"vLLM servers refuse {what}:{lines}\n{way_out}:\n  {command}"
