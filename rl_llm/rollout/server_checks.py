"""Whether a server is fit for a run: its model, and what it calls a logprob."""

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from rl_llm.config.server_urls import server_url
from rl_llm.errors import ConfigError
from rl_llm.rollout.server_adapters import Adapter
from rl_llm.rollout.server_client import BaseModel, ServerClient, ServerRefusal
from rl_llm.rollout.vllm_settings import LORA_RANKS, least_lora_rank

_VLLM_PORT = 8000  # Where a server is that was told nothing.


def refuse_one_twice(urls: Sequence[str]) -> None:
    """Refuse two names of one server, which would get the work of two.

    Behind https, one address may serve many names, so only http is looked at.
    """
    seen: dict[tuple[str, int | None, str], str] = {}
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            continue
        for address in _addresses(parts.hostname):
            other = seen.setdefault((address, parts.port or 80, parts.path), url)
            if other != url:
                raise ConfigError(
                    f"rollout.servers.urls: {other} and {url} are one server, at {address}; name "
                    "it once: it is asked for rollout.servers.max_in_flight completions already"
                )


def _addresses(host: str) -> list[str]:
    """Return where a name leads to; nothing, where that is not known now."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return []


def serve_command(
    model: str,
    *,
    rank: int,
    max_model_len: int,
    dtype: str | None = None,
    on_gpu: bool = True,
    urls: Sequence[str] = (),
) -> str:
    """Return the shell command that starts a fit server for adapters of `rank`, at the port of
    `urls` where they have one in common.

    The program `vllm` of the build for CPUs asks for the version of the build for GPUs, and ends;
    the module behind it runs. There, seeded draws of a prompt that is computed in parts fail.
    """
    takes = least_lora_rank(rank)
    if takes is None:
        raise ConfigError(
            f"lora.rank={rank} is more than vLLM takes; use at most {LORA_RANKS[-1]}, or "
            "rollout.engine=transformers"
        )
    module = f"python -m vllm.entrypoints.openai.api_server --model {model}"
    program = f"vllm serve {model}" if on_gpu else f"{module} --no-enable-chunked-prefill"
    ports = {urlsplit(server_url(url)).port for url in urls}
    port = ports.pop() if len(ports) == 1 else None
    return (
        f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {program} --enable-lora "
        f"--max-lora-rank {takes} --max-model-len {max_model_len} "
        + (f"--dtype {dtype} " if dtype else "")
        + (f"--port {port} " if port not in (None, _VLLM_PORT) else "")
        + "--logprobs-mode processed_logprobs"
    )


async def check_server(client: ServerClient, *, max_model_len: int) -> BaseModel:
    """Return the model that a server serves; raises `ServerDown` for one that does not answer, and
    `ServerRefusal` for one that is not fit."""
    await client.health()
    model = await client.base_model()
    if model.max_model_len is not None and model.max_model_len < max_model_len:
        raise ServerRefusal(
            f"its texts have at most {model.max_model_len} tokens, and prompt and completion may "
            f"take {max_model_len}; start it with --max-model-len {max_model_len}"
        )
    if not await _processes_logprobs(client, model.name):
        raise ServerRefusal(
            "its logprobs leave the temperature out, so they are not those of the distribution "
            "that it draws from; start it with --logprobs-mode processed_logprobs"
        )
    return model


async def check_adapter(client: ServerClient, adapter: Adapter) -> None:
    """Have a server load an adapter and forget it again; raises as `check_server` does."""
    await client.load(adapter.name, adapter.folder)
    await client.unload(adapter.name)


async def _processes_logprobs(client: ServerClient, model: str) -> bool:
    """Say whether half the temperature doubles the difference between two tokens' logprobs, and
    these are logprobs at all."""
    warm = await client.top_logprobs(model, temperature=1.0)
    cool = await client.top_logprobs(model, temperature=0.5)
    if any(logprob > 1e-6 for logprob in (*warm.values(), *cool.values())):
        return False
    common = sorted(warm.keys() & cool.keys(), key=lambda token: warm[token])
    if len(common) < 2:
        return True
    warm_nats = warm[common[-1]] - warm[common[0]]
    cool_nats = cool[common[-1]] - cool[common[0]]
    return warm_nats < 1e-3 or cool_nats > 1.5 * warm_nats
