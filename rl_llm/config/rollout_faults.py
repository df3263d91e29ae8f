"""What the `rollout` section of a recipe may not say: contradictions, and settings that nothing
reads."""

import json
from collections import Counter
from collections.abc import Iterator

from rl_llm.config.api_key import NO_VARIABLE, is_variable
from rl_llm.config.base import Section
from rl_llm.config.kl import KLSection
from rl_llm.config.rollout import RolloutSection, ServersSection
from rl_llm.config.server_urls import server_url
from rl_llm.errors import ConfigError

USUAL_BATCH_ROWS = RolloutSection().max_batch_rows


def rollout_faults(rollout: RolloutSection, kl: KLSection, *, num_steps: int) -> Iterator[str]:
    """Yield what is wrong, each with the way out."""
    unreadable = list(_text_faults(rollout.servers))
    yield from unreadable
    if not unreadable:
        yield from _server_faults(rollout)
        yield from _unread_faults(rollout)
    yield from _staleness_faults(rollout, kl, num_steps=num_steps)


def _text_faults(servers: ServersSection) -> Iterator[str]:
    """Yield settings that may hold a secret, without it; what repeats settings comes after them."""
    for url in servers.urls:
        try:
            server_url(url)
        except ConfigError as error:
            yield str(error)
    if not is_variable(servers.api_key_env):
        yield f"rollout.servers.api_key_env is {NO_VARIABLE} VLLM_API_KEY"


def _server_faults(rollout: RolloutSection) -> Iterator[str]:
    urls = rollout.servers.urls
    if rollout.engine == "vllm_server" and not urls:
        yield (
            "rollout.engine='vllm_server' with rollout.servers.urls=[]: there is no server to ask; "
            "name them, such as rollout.servers.urls=[http://localhost:8000], or use "
            "rollout.engine vllm"
        )
    for address, count in Counter(map(server_url, urls)).items():
        if count > 1:
            yield (
                f"rollout.servers.urls names {address!r} {count} times: a server is asked for "
                "rollout.servers.max_in_flight completions at once already; name it once"
            )


def _unread_faults(rollout: RolloutSection) -> Iterator[str]:
    """Yield settings of an engine that is not the one in use; what `auto` finds may read vLLM's."""
    engine = rollout.engine
    readers = {"vllm": ("vllm", "auto"), "servers": ("vllm_server",)}
    for name, engines in readers.items():
        if engine in engines:
            continue
        for given, usual in _given(getattr(rollout, name), path=f"rollout.{name}"):
            yield (
                f"{given} with rollout.engine={engine!r}: only the engine {engines[0]} reads it; "
                f"leave it out, or write {usual}, its default, or use rollout.engine {engines[0]}"
            )
    rows = rollout.max_batch_rows
    if engine == "vllm_server" and rows != USUAL_BATCH_ROWS:
        yield (
            f"rollout.max_batch_rows={rows} with rollout.engine='vllm_server': servers decide how "
            f"many rows they run at once; leave it out, or write {USUAL_BATCH_ROWS}, its default, "
            "and bound what is asked of them by rollout.servers.max_in_flight"
        )


def _given(section: Section, *, path: str) -> Iterator[tuple[str, str]]:
    """Yield every setting that is not the default, as `path.key=value`, and the default as it is
    written in a recipe."""
    usual = type(section)()
    for key in type(section).model_fields:
        if getattr(section, key) != getattr(usual, key):
            yield f"{path}.{key}={getattr(section, key)!r}", json.dumps(getattr(usual, key))


def _staleness_faults(rollout: RolloutSection, kl: KLSection, *, num_steps: int) -> Iterator[str]:
    staleness = rollout.max_staleness
    if staleness >= num_steps:
        yield (
            f"rollout.max_staleness={staleness} with run.steps={num_steps}: the weights that no "
            "step has moved would draw every completion of the run; use at most "
            f"{num_steps - 1}, and usually 1"
        )
    if staleness == 0 or rollout.used_correction.name != "none":
        return
    measures = {
        "kl.stop_at_old": kl.stop_at_old,
        "kl.controller": "ppo_penalty" if kl.controller.name == "ppo_penalty" else None,
    }
    for path, value in measures.items():
        if value is not None:
            yield (
                f"{path}={value!r} with rollout.max_staleness={staleness} and "
                "rollout.correction='none': the divergence from the policy that a step's updates "
                "start from is measured over its own tokens alone, and older weights draw all of "
                "them; use rollout.correction tis, rollout.max_staleness 0, or leave "
                f"{path} out"
            )
