"""Rollouts by vLLM in this process's tree; the only module that imports vllm.

vLLM runs in processes of its own, so that a thread that waits for completions leaves this process
free to learn.
"""

import importlib
import itertools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl_llm.errors import ConfigError, EngineLost, ModelError, RlLlmError, RunError
from rl_llm.records import Completion, Group, Request
from rl_llm.rollout.child import (
    ChildLog,
    bound_to_this_process,
    environment_of_child,
    exit_codes_in,
)
from rl_llm.rollout.engine import check_room
from rl_llm.rollout.merged import MergedCheckpoint
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.rollout.vllm_settings import VllmSettings
from rl_llm.rollout.vllm_sleep import SleepCycle

_SEED_MASK = 2**62 - 1
_LOOK_EVERY_S = 0.5
_LAST_WORDS_S = 5.0
_SHUTDOWN_S = 30.0
"""How long vLLM's processes may take to end by themselves."""
_LEAVE = "use rollout.engine=transformers"
_LESS_MEMORY = "if memory was short, ask for less in rollout.vllm"
_SHOW_ALL = "VLLM_LOGGING_LEVEL=INFO in the environment shows all that vLLM says"


class VllmEngine:
    """A `RolloutEngine` over `vllm.LLM`: continuous batching over all requests of a call."""

    may_be_lost = True

    def __init__(
        self,
        settings: VllmSettings,
        base: nn.Module,
        encoder: PromptEncoder,
        *,
        stop_ids: Sequence[int],
    ) -> None:
        """Start vLLM, which takes seconds to minutes.

        `base` is the model at the settings' location, without adapters; its parameters are read
        where weights are published merged, and never changed. Raises `InputError` for a model that
        vLLM cannot run, and `EngineLost` where it ends while it starts.
        """
        started = time.perf_counter()
        self._settings = settings
        self._encoder = encoder
        self._stop_ids = frozenset(stop_ids)
        self._merged = MergedCheckpoint(base) if settings.publish == "merged" else None
        self._adapter: Any = None
        self._version = 0
        self._numbers = itertools.count(1)
        self._log = ChildLog()
        self._sockets = tempfile.TemporaryDirectory(prefix="rl-llm-", ignore_cleanup_errors=True)
        self._llm: Any = None
        try:
            self._vllm, self._llm = _start(
                settings, self._log, sockets=self._sockets.name, config=base.config
            )
        finally:
            if self._llm is None:
                self._sockets.cleanup()
                self._log.close()
        self._cycle = SleepCycle(
            self._llm, sleeps=settings.sleeps, make_room=torch.cuda.empty_cache
        )
        self._is_closed = threading.Event()
        _wake_waiters_of_the_dead(self._llm.llm_engine.engine_core, self._is_closed)
        self._messages = [self._introduction(time.perf_counter() - started)]

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield each group when its last completion ends; see `RolloutEngine.complete`."""
        prompts = [self._encoder.encode(request.problem.prompt) for request in requests]
        room, whose = self._settings.max_model_len, "vLLM's (data.max_prompt_tokens and this)"
        for request, prompt_ids in zip(requests, prompts, strict=True):
            check_room(request, len(prompt_ids), room=room, whose=whose)
        self._refuse_closed()
        with self._asking("waking up"):
            self._cycle.wake_to_generate()
        version, waiting = self._version, {}
        try:
            for request, prompt_ids in zip(requests, prompts, strict=True):
                waiting[self._send(request, prompt_ids)] = request, prompt_ids
            while waiting:
                for output in self._step():
                    yield self._group(*waiting.pop(output.request_id), output, version)
        finally:
            if waiting and self._llm is not None:
                self._llm.llm_engine.abort_request(list(waiting))

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Publish an adapter, as it is or merged; nothing that was computed before is reused."""
        self._refuse_closed()
        with self._asking("waking up"):
            self._cycle.wake_to_publish()
        with self._asking("publishing weights"):
            if self._merged is None:
                self._replace_adapter(adapter_dir, version)
            else:
                self._reload(self._merged, adapter_dir)
            is_reset = self._llm.llm_engine.reset_prefix_cache(reset_running_requests=True)
        if not is_reset:
            raise RunError(
                "vLLM keeps prefixes that the weights before this publication computed; "
                f"resume the run from its last checkpoint, or {_LEAVE}"
            )
        self._version = version

    def rest(self) -> None:
        """Give a GPU's memory back until the next call."""
        with self._asking("going to sleep"):
            self._cycle.rest()

    def cut(self) -> None:
        """Do nothing: no call waits for longer than its next group takes."""

    def take_messages(self) -> list[str]:
        """Return how vLLM started, once."""
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        """End vLLM's processes."""
        if self._llm is not None:
            self._is_closed.set()
            self._llm.llm_engine.engine_core.shutdown(timeout=_SHUTDOWN_S)
            self._llm = None
            self._sockets.cleanup()
            self._log.close()

    def _send(self, request: Request, prompt_ids: tuple[int, ...]) -> str:
        """Ask for a group's completions in one request, and return its id; of greedy ones, which
        are all alike, for one."""
        request_id = str(next(self._numbers))
        temperature = request.sampling.temperature
        sampling = self._vllm.SamplingParams(
            n=request.num_completions if temperature else 1,
            temperature=temperature,
            max_tokens=request.sampling.max_new_tokens,
            seed=request.stream_key & _SEED_MASK,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,
            stop_token_ids=sorted(self._stop_ids),
            output_kind=_module("sampling_params").RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"type": "token", "prompt_token_ids": list(prompt_ids)}
        with self._asking("taking a request"):
            self._llm.llm_engine.add_request(
                request_id, prompt, sampling, lora_request=self._adapter
            )
        return request_id

    def _step(self) -> list[Any]:
        """Wait for the next tokens, and return the requests that they finished."""
        with self._asking("generating"):
            return [output for output in self._llm.llm_engine.step() if output.finished]

    def _group(
        self, request: Request, prompt_ids: tuple[int, ...], output: Any, version: int
    ) -> Group:
        rows = list(output.outputs) * (request.num_completions // len(output.outputs))
        drawn = [tuple(row.token_ids) for row in rows]
        return Group(
            problem=request.problem,
            prompt_ids=prompt_ids,
            completions=tuple(
                Completion(
                    token_ids=token_ids,
                    logprobs=_sampled_logprobs(row),
                    text=text,
                    finish_reason="stop" if token_ids[-1] in self._stop_ids else "length",
                    policy_version=version,
                )
                for row, token_ids, text in zip(
                    rows, drawn, self._encoder.decode(drawn), strict=True
                )
            ),
        )

    def _replace_adapter(self, adapter_dir: Path, version: int) -> None:
        """Load an adapter under a name and a number of its own, at once: its folder will go."""
        number = next(self._numbers)
        fresh = _module("lora.request").LoRARequest(
            f"version-{version}-{number}", number, str(adapter_dir)
        )
        self._llm.llm_engine.add_lora(fresh)
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
        self._adapter = fresh

    def _reload(self, merged: MergedCheckpoint, adapter_dir: Path) -> None:
        """Write the merged model where it is quick, and have vLLM read it over its own weights."""
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="rl-llm-merged-", dir=memory) as folder:
            merged.write(adapter_dir, Path(folder))
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _refuse_closed(self) -> None:
        if self._llm is None:
            raise EngineLost("vLLM was closed, and generates no more; build another engine")

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Turn whatever vLLM raises into one error: what it was doing, the cause, the way out."""
        try:
            yield
        except RlLlmError:
            raise
        # vLLM raises whatever its workers raised: errors of any library, by type or as plain
        # Exceptions. This is the border to it.
        except Exception as error:
            # A call is cancelled where a worker is gone and its engine still about to notice.
            has_ended = type(error).__name__ == "EngineDeadError" or "cancelled" in str(error)
            codes = _exit_codes(self._llm)
            if not has_ended and not codes:
                raise RunError(
                    f"vLLM failed while {doing}: {_first_line(error)}; {_LEAVE}; {_SHOW_ALL}"
                ) from None
            raise EngineLost(
                f"vLLM ended while {doing}: {self._log.cause(codes)}; {_LESS_MEMORY}; {_SHOW_ALL}"
            ) from None

    def _introduction(self, seconds: float) -> str:
        cache = self._llm.llm_engine.vllm_config.cache_config
        tokens = (cache.num_gpu_blocks or 0) * cache.block_size
        longest = self._settings.max_model_len
        return (
            f"vLLM {self._vllm.__version__} started in {seconds:.0f} s; weights are published "
            f"{'merged' if self._merged else 'as an adapter'}; its key-value cache holds "
            f"{tokens:,} tokens, {tokens // longest:,} completions of {longest} with their prompts"
        )


def _sampled_logprobs(row: Any) -> tuple[float, ...]:
    """Return each drawn token's log-probability: the first one at its position."""
    flat = row.logprobs
    return tuple(flat.logprobs[start] for start in flat.start_indices)


def _start(settings: VllmSettings, log: ChildLog, *, sockets: str, config: Any) -> tuple[Any, Any]:
    """Import vLLM and start its processes, whose sockets stay behind in the folder `sockets`;
    return the module and its `LLM`."""
    is_quiet = "VLLM_LOGGING_LEVEL" not in os.environ
    with (
        environment_of_child(settings.environment(sockets=sockets)),
        log.taking_output() if is_quiet else nullcontext(),
    ):
        vllm = _imported()
        if not settings.on_gpu:
            _check_head_size(config)
        try:
            with bound_to_this_process():
                llm = vllm.LLM(**settings.options())
            if not settings.on_gpu:
                llm.collective_rpc("request_amx")
        # Its processes hand on the errors of any library, some as plain Exceptions.
        except Exception as error:
            cause = _first_line(error)
            if isinstance(error, ValueError):
                raise ModelError(
                    f"vLLM cannot run the model at {settings.location!r}: {cause}; {_LEAVE}"
                ) from None
            raise EngineLost(
                f"vLLM ended while it started: {log.cause(exit_codes_in(str(error)))}; "
                f"mend that, or {_LEAVE}; {_SHOW_ALL}"
            ) from None
        if is_quiet:
            logging.getLogger("vllm").setLevel(logging.ERROR)
        return vllm, llm


def _wake_waiters_of_the_dead(core: Any, is_closed: threading.Event) -> None:
    """Have calls that wait for vLLM's process fail when it was killed: vLLM itself notes that such
    a process is gone, and leaves those who wait for it waiting."""
    if not hasattr(core, "outputs_queue"):
        return

    def watch() -> None:
        while not is_closed.wait(_LOOK_EVERY_S):
            if core.resources.engine_dead:
                dead = _module("v1.engine.exceptions").EngineDeadError()
                core.outputs_queue.put_nowait(dead)
                for answer in list(core.utility_results.values()):
                    if not answer.done():
                        answer.set_exception(dead)
                return

    threading.Thread(target=watch, name="vllm-watch", daemon=True).start()


def _exit_codes(llm: Any) -> list[int]:
    """Return how those of vLLM's processes ended that are children of this one, if they did.

    One that has not ended yet may be about to, and has not printed why; it is waited for a moment,
    and how it ends says nothing: vLLM may end it itself, by a signal.
    """
    resources = getattr(llm.llm_engine.engine_core, "resources", None)
    if resources is None or resources.engine_manager is None:
        return []
    processes = resources.engine_manager.processes
    at_once = [process.exitcode for process in processes if process.exitcode is not None]
    connection.wait([process.sentinel for process in processes], _LAST_WORDS_S)
    return at_once or [1 for process in processes if process.exitcode is not None]


def _imported() -> Any:
    """Import vllm, or say what is broken; two known ways have their own words."""
    try:
        return importlib.import_module("vllm")
    # Its import runs that of dozens of libraries, which fail in ways of their own: ImportError,
    # RuntimeError of torch's operators, OSError of shared objects, AttributeError, ...
    except Exception as error:
        cause = _first_line(error)
        mend = "`make setup` puts it right on a machine without a GPU"
        if "torchvision" in str(error):
            mend = "remove what does not fit: pip uninstall torchvision torchaudio torchcodec"
        raise ConfigError(
            f"rollout.engine=vllm: vLLM is installed and cannot be imported: {cause}; {mend}, "
            f'`pip install -e ".[vllm]"` on one with a GPU; or {_LEAVE}'
        ) from None


def _module(name: str) -> Any:
    """Import a module of vLLM by name: mypy would read all of vLLM behind an import statement."""
    return importlib.import_module(f"vllm.{name}")


def _check_head_size(config: Any) -> None:
    """Refuse a model whose heads vLLM's attention on CPUs cannot run."""
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    known = _module("v1.attention.backends.cpu_attn").CPUAttentionBackend.get_supported_head_sizes()
    if size is not None and size not in known:
        raise ModelError(
            f"the model's attention heads have {size} dimensions, and vLLM on a CPU runs "
            f"{', '.join(map(str, known))}; {_LEAVE}"
        )


def _first_line(error: Exception) -> str:
    """Return the line of a message that says most; pydantic puts a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("For further", "1 validation"))]
    return (telling or lines or [type(error).__name__])[0].partition(" [type=")[0]
