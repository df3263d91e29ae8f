"""Rollouts from any number of stock vLLM servers, which come and go."""

import asyncio
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rl_llm.config.api_key import ApiKey
from rl_llm.config.rollout import ServersSection
from rl_llm.config.server_urls import server_urls
from rl_llm.errors import ConfigError, StorageError
from rl_llm.records import Completion, Group, Request
from rl_llm.rollout.engine import check_room
from rl_llm.rollout.loop_thread import LoopThread
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.rollout.server_adapters import Adapter, publish, withdraw
from rl_llm.rollout.server_checks import refuse_one_twice, serve_command
from rl_llm.rollout.server_client import Ask, Drawn, ServerClient, connect
from rl_llm.rollout.server_dispatch import Dispatch, Work
from rl_llm.rollout.server_pool import Patience, ServerPool
from rl_llm.seeds import derive_seed

__all__ = ["ServersEngine", "serve_command"]

SEED_MASK = 2**62 - 1
"""Leaves room for the completions of a group below the 2**63 seeds that a server takes."""

Answer = tuple[Work, Sequence[Drawn], int]


class ServersEngine:
    """A `RolloutEngine` that asks `vllm serve --enable-lora` servers, several groups at once.

    A server that fails is lost: its requests are asked of the others, each is answered exactly
    once, and the server takes work again when it is well. Only without any does a call end, with
    `EngineLost`. One call of `complete` uses one version of the weights throughout.
    """

    may_be_lost = True
    patience = Patience()

    def __init__(
        self,
        encoder: PromptEncoder,
        *,
        section: ServersSection,
        stop_ids: Sequence[int],
        adapter_dir: Path,
        api_key: str | None,
        max_model_len: int,
        seed: int,
        command: str,
    ) -> None:
        """Check the servers of `section`; raises one `ConfigError` that says what is wrong where.

        `max_model_len` is what prompt and completion may take, in tokens. `seed` is the same on all
        ranks of a run, and another in runs that share a server and `adapter_dir`. `command`, made
        by `serve_command`, is what messages tell a person to run.
        """
        urls = server_urls(section.urls)
        if not urls:
            raise ConfigError(
                "rollout.servers.urls is empty, and rollout.engine=vllm_server asks servers: start "
                f"one, and name its address, such as http://node2:8000\n  {command}"
            )
        refuse_one_twice(urls)
        self._encoder = encoder
        self._stop_ids = tuple(sorted(stop_ids))
        self._adapter_dir = adapter_dir
        self._max_in_flight = section.max_in_flight
        self._max_model_len = max_model_len
        self._seed = seed
        self._published: list[Adapter] = []
        self._made = [path for path in (adapter_dir, *adapter_dir.parents) if not path.exists()]
        self._calls: list[Future[None]] = []
        self._is_cut = False
        self._busy = asyncio.Lock()
        key = ApiKey(api_key, variable=section.api_key_env, option="rollout.servers.api_key_env")
        self._http = connect(key)
        self._pool = ServerPool(
            [
                ServerClient(url, self._http, key, timeout_s=section.request_timeout_s)
                for url in urls
            ],
            patience=self.patience,
            max_in_flight=section.max_in_flight,
            max_wait_s=section.max_wait_s,
            max_model_len=max_model_len,
            command=command,
        )
        self._thread = LoopThread("vllm-servers")
        try:
            self._thread.run(self._pool.start())
        except BaseException:
            self.close()
            raise

    def try_adapter(self, source: Path) -> None:
        """Have every server that is well load the adapter in the PEFT folder `source`, and forget
        it again; raises a `ConfigError` where one refuses it, or where it cannot be published."""
        seed = derive_seed(self._seed, "trial", socket.gethostname(), os.getpid())
        try:
            trial = publish(self._adapter_dir, source, version=0, seed=seed)
        except StorageError as error:
            raise ConfigError(
                f"{error}; name a folder that the trainer can write to and every server sees under "
                "the same path"
            ) from None
        try:
            self._begin(self._pool.try_adapter(trial)).result()
        finally:
            withdraw(trial)

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield groups as servers finish them; see `RolloutEngine.complete`."""
        prompts = [self._encoder.encode(request.problem.prompt) for request in requests]
        for request, prompt_ids in zip(requests, prompts, strict=True):
            check_room(request, len(prompt_ids), room=self._max_model_len, whose="the servers'")
        works = [
            work
            for index, request in enumerate(requests)
            for work in self._works(index, request, prompts[index])
        ]
        num_parts = Counter(work.index for work in works)
        parts: defaultdict[int, list[Answer]] = defaultdict(list)
        with closing(self._answers(works)) as answers:
            for answer in answers:
                index = answer[0].index
                parts[index].append(answer)
                if len(parts[index]) == num_parts[index]:
                    yield self._group(requests[index], prompts[index], parts.pop(index))

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Publish the adapter and load it on every server that is well; one that comes back later
        loads it then. The adapter before is unloaded, and its published copy deleted. Raises
        `StorageError` where the adapter cannot be published."""
        try:
            adapter = publish(self._adapter_dir, adapter_dir, version=version, seed=self._seed)
        except StorageError as error:
            raise StorageError(f"{error}; make room there, or make it writable") from None
        before, self._published = self._published, [adapter]
        try:
            self._begin(self._load(adapter)).result()
        finally:
            for old in before:
                if old.folder != adapter.folder:
                    withdraw(old)

    def rest(self) -> None:
        """Do nothing: the servers' memory is their own."""

    def cut(self) -> None:
        """End the call that is under way, or just about to be: it may wait for servers that are
        gone."""
        self._is_cut = True
        for call in self._calls:
            call.cancel()

    def take_messages(self) -> list[str]:
        """Return which servers were lost and came back since the last call."""
        messages = self._pool.messages
        return [messages.popleft() for _ in range(len(messages))]

    def close(self) -> None:
        """Stop asking, unload and delete the adapter and folders made for it, and close all
        connections."""
        if self._thread.is_closed:
            return
        self.cut()
        self._thread.run(self._stop())
        self._thread.close()
        for adapter in self._published:
            withdraw(adapter)
        with suppress(OSError):  # Something else may lie in one by now.
            for folder in self._made:
                folder.rmdir()

    def _works(self, index: int, request: Request, prompt_ids: tuple[int, ...]) -> Iterator[Work]:
        """Cut a request into parts that a server may be asked at once: usually it is one.

        Every completion has its own seed, so how a group is cut does not change what is drawn.
        Greedy completions are all alike, and one is asked for.
        """
        is_greedy = request.sampling.temperature == 0
        num_asked = 1 if is_greedy else request.num_completions
        for start in range(0, num_asked, self._max_in_flight):
            ask = Ask(
                prompt_ids=prompt_ids,
                count=min(self._max_in_flight, num_asked - start),
                seed=(request.stream_key & SEED_MASK) + start,
                sampling=request.sampling,
                stop_ids=self._stop_ids,
            )
            yield Work(index=index, start=start, ask=ask, problem_key=request.problem.key)

    def _answers(self, works: Sequence[Work]) -> Generator[Answer, None, None]:
        """Yield what the event loop's thread delivers, until it is done or has failed."""
        queue: SimpleQueue[Answer | None] = SimpleQueue()
        call = self._begin(self._serve(works, queue))
        call.add_done_callback(lambda _: queue.put(None))
        try:
            while (answer := queue.get()) is not None:
                yield answer
            call.result()
        finally:
            call.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Start what `close` may have to cancel."""
        call = self._thread.submit(work)
        self._calls = [*(other for other in self._calls if not other.done()), call]
        if self._is_cut:
            call.cancel()
        return call

    async def _serve(self, works: Iterable[Work], queue: "SimpleQueue[Answer | None]") -> None:
        async with self._busy:
            adapter = self._pool.adapter
            version = 0 if adapter is None else adapter.version
            await Dispatch(
                self._pool, works, lambda work, drawn: queue.put((work, drawn, version))
            ).run()

    async def _load(self, adapter: Adapter) -> None:
        """Load an adapter once no request uses the one before."""
        async with self._busy:
            await self._pool.load(adapter)

    async def _stop(self) -> None:
        async with self._busy:
            await self._pool.stop()
            await self._http.aclose()

    def _group(self, request: Request, prompt_ids: tuple[int, ...], answers: list[Answer]) -> Group:
        """Put a request's parts together in the order of their seeds."""
        version = answers[0][2]
        in_order = sorted(answers, key=lambda answer: answer[0].start)
        drawn = [one for _, part, _ in in_order for one in part]
        if len(drawn) < request.num_completions:
            drawn *= request.num_completions
        texts = self._encoder.decode([one.token_ids for one in drawn])
        return Group(
            problem=request.problem,
            prompt_ids=prompt_ids,
            completions=tuple(
                Completion(
                    token_ids=one.token_ids,
                    logprobs=one.logprobs,
                    text=text,
                    finish_reason=one.finish_reason,
                    policy_version=version,
                )
                for one, text in zip(drawn, texts, strict=True)
            ),
        )
