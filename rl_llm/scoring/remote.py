"""A group scored by a server over HTTP, which is asked until it answers.

Of this layer only this module imports httpx.
"""

import asyncio
import json
import math
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx

from rl_llm.config.api_key import NO_VARIABLE, ApiKey, is_variable
from rl_llm.config.describe import unshown
from rl_llm.config.server_urls import web_address
from rl_llm.errors import ConfigError
from rl_llm.records import Problem

_CONNECT_TIMEOUT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_MAX_WORDS = 200


def question(problem: Problem, completions: Sequence[str]) -> str:
    """Return the JSON that a server is sent; raises `TypeError` for columns that JSON has no way to
    say."""
    asked = {
        "prompt": problem.prompt if isinstance(problem.prompt, str) else list(problem.prompt),
        "completions": list(completions),
        "answer": problem.answer,
        "columns": dict(problem.meta),
    }
    try:
        return json.dumps(asked, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a column of the data cannot be sent as JSON: {error}") from None


async def ask(url: str, body: str, key: ApiKey | None) -> list[Any]:
    """Return the list that a server answers to a POST of `body`.

    While the connection fails, or the answer is HTTP 429 or 5xx, the server is asked again, after
    pauses that double from 0.2 s to 5 s, and no sooner than its `Retry-After`. Whoever calls sets
    the limit: a `TimeoutError` then says what came last. Raises `RuntimeError` for any other answer
    that is no JSON list.
    """
    came, num_tries = "", 0
    async with _connect(url, key) as http:
        try:
            while True:
                num_tries += 1
                pause_s = min(_FIRST_PAUSE_S * 2 ** (num_tries - 1), _LONGEST_PAUSE_S)
                try:
                    response = await http.post(url, content=body)
                except httpx.TransportError as error:
                    came = _redacted(f"{type(error).__name__}: {error}", key)
                else:
                    if response.status_code != 429 and response.status_code < 500:
                        return _read(response, url, key)
                    came = _said(response, key)
                    pause_s = max(pause_s, _retry_after_s(response))
                await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            last = f"{url} was asked {num_tries} times, at last with {came}"
            raise TimeoutError(last if came else f"{url} gave no answer") from None


def checked_url(url: str) -> str:
    """Return the address that a recipe gives; a fault repeats neither password nor query."""
    try:
        return web_address(url)
    except ConfigError as error:
        raise unshown(str(error)) from None


def checked_variable(name: str) -> str:
    """Return the name of an environment variable; a fault does not repeat it."""
    if not is_variable(name):
        raise unshown(f"this is {NO_VARIABLE} REWARD_API_KEY")
    return name


def _connect(url: str, key: ApiKey | None) -> httpx.AsyncClient:
    """Neither proxies nor .netrc of the environment are used: the server is one's own."""
    return httpx.AsyncClient(
        headers={"Content-Type": "application/json", **(key.headers if key else {})},
        timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        trust_env=False,
        verify=_certificates() if url.startswith("https:") else False,
    )


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def _read(response: httpx.Response, url: str, key: ApiKey | None) -> list[Any]:
    said = f"{url} answered {_said(response, key)}"
    if response.status_code in (401, 403):
        way_out = "name the environment variable that holds the server's key by api_key_env"
        raise RuntimeError(f"{said}; {key.way_out if key else way_out}")
    try:
        scores = response.json() if response.is_success else None
    except ValueError:
        scores = None
    if not isinstance(scores, list):
        raise RuntimeError(f"{said}; it must be HTTP 200 and a JSON list, a score a completion")
    return [_quotable(each, key) for each in scores]


def _quotable(entry: Any, key: ApiKey | None) -> Any:
    """Return an entry that a message may quote: what is neither a number, a list nor null becomes
    text without the key."""
    if isinstance(entry, list):
        return [_quotable(each, key) for each in entry]
    if entry is None or isinstance(entry, int | float):
        return entry
    return _redacted(entry if isinstance(entry, str) else json.dumps(entry), key)


def _said(response: httpx.Response, key: ApiKey | None) -> str:
    return f"HTTP {response.status_code}: {_redacted(response.text, key) or 'nothing'}"


def _redacted(text: str, key: ApiKey | None) -> str:
    words = " ".join(text.split())
    return (key.redact(words) if key else words)[:_MAX_WORDS]


def _retry_after_s(response: httpx.Response) -> float:
    """Return the seconds that a server asks for; a date is passed over."""
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
