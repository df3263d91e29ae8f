"""The addresses of servers in a recipe: how they may be written, and what they may not hold."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from rl_llm.errors import ConfigError


def server_urls(urls: Iterable[str]) -> list[str]:
    """Return the addresses as they are asked: with a scheme, without `/v1`, each once."""
    return list(dict.fromkeys(server_url(url) for url in urls))


def server_url(url: str) -> str:
    """Return an address as it is asked; raises a `ConfigError` that repeats no password and no
    query."""
    try:
        full = web_address(url)
    except ConfigError as error:
        raise ConfigError(f"rollout.servers.urls: {error}") from None
    return full.rstrip("/").removesuffix("/v1").rstrip("/")


def web_address(url: str) -> str:
    """Return an address with a scheme; raises a `ConfigError` that repeats no password and no
    query."""
    full = url.strip() if "://" in url else f"http://{url.strip()}"
    if "@" in full:
        raise ConfigError(
            "an address holds a user name or password, which would be written into the run's "
            "files; start the server with an API key, and put it into the environment variable "
            "that api_key_env names"
        )
    if not _is_address(full):
        shown = re.split("[?#]", url, maxsplit=1)[0]
        rest = " with what follows it" if shown != url else ""
        raise ConfigError(
            f"{shown!r}{rest} is no address of a server; write it like http://node2:8000"
        )
    return full


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and parts.scheme in ("http", "https")
        return is_address and parts.port != 0 and not re.search("[?#]", url)
    except ValueError:
        return False
