"""One vLLM server's HTTP calls, and what a failure or a refusal of them means.

The completions endpoint takes and gives token ids (`return_token_ids`), so the server's tokenizer
has no say. Of this layer only this module imports httpx.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rl_llm.config.api_key import ApiKey
from rl_llm.errors import RunError
from rl_llm.records import FinishReason, Sampling

CONTROL_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 120.0
UNLOAD_TIMEOUT_S = 5.0
IDLE_CONNECTION_S = 2.0
"""Below the 5 s after which a vLLM server closes an idle connection, so that none is used as it
closes."""

BUSY_STATUSES = (429, 502, 503, 504)
"""What a busy server answers, or a proxy before it; it says nothing about what was asked."""

PROBE_IDS = (1, 2, 3, 4, 5)
"""Any tokens: one of them alone may be padding, behind which every token is equally likely."""

MAX_WORDS = 500
"""So many characters of what a server says of an error are repeated."""

NEUTRAL_SAMPLING = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said with every request: a server takes what is left out from the model's
generation_config.json."""


class ServerDown(RunError):
    """A server gave no answer, or one that says it is not well; another one may do better."""

    def __init__(self, words: str, *, status: int | None = None, may_pass: bool = True) -> None:
        """`status` is that of the HTTP answer, if one came; `may_pass` says that the same server
        may be asked again in a moment."""
        super().__init__(words)
        self.status = status
        self.may_pass = may_pass


class ServerRefusal(RunError):
    """A server says no to what it was asked; to ask again would not help."""

    def __init__(self, words: str, *, status: int = 200) -> None:
        """`status` is that of the HTTP answer."""
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one HTTP request asks for: `count` completions of one prompt, the draws of which are
    seeded with `seed`, `seed` + 1, and so on."""

    prompt_ids: tuple[int, ...]
    count: int
    seed: int
    sampling: Sampling
    stop_ids: tuple[int, ...]

    def body(self, model: str) -> dict[str, Any]:
        """Return the request's JSON."""
        return {
            "model": model,
            "prompt": list(self.prompt_ids),
            "n": self.count,
            "seed": self.seed,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_new_tokens,
            "stop_token_ids": list(self.stop_ids),
            "ignore_eos": True,  # `stop_ids` alone end a completion, whatever the server knows.
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **NEUTRAL_SAMPLING,
        }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One completion as a server drew it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that a server started with; None where it does not say how long a text may be."""

    name: str
    max_model_len: int | None


class ServerClient:
    """What one server can be asked."""

    def __init__(self, url: str, http: httpx.AsyncClient, key: ApiKey, *, timeout_s: float) -> None:
        """`timeout_s` is for completions; the other calls are short."""
        self.url = url
        self._http = http
        self._key = key
        self._timeout_s = timeout_s

    async def health(self) -> None:
        """Raise `ServerDown` unless the server and its engine are alive."""
        await self._call("GET", "/health", timeout_s=CONTROL_TIMEOUT_S)

    async def base_model(self) -> BaseModel:
        """Return the model that is served under its first name."""
        answer = await self._json("GET", "/v1/models", timeout_s=CONTROL_TIMEOUT_S)
        try:
            first = next(card for card in answer["data"] if not card.get("parent"))
            longest = first.get("max_model_len")
            return BaseModel(
                name=str(first["id"]), max_model_len=None if longest is None else int(longest)
            )
        except (StopIteration, AttributeError, KeyError, TypeError, ValueError):
            raise ServerRefusal("/v1/models names no model; is it a vLLM server?") from None

    async def load(self, name: str, folder: Path) -> None:
        """Load the adapter in `folder`; one that is loaded already stays."""
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            await self._call("POST", "/v1/load_lora_adapter", body, timeout_s=LOAD_TIMEOUT_S)
        except ServerRefusal as refusal:
            if "already been loaded" not in str(refusal):
                raise
        except ServerDown as fault:
            if fault.status is None or fault.status in BUSY_STATUSES:
                raise
            # vLLM answers 500 for an adapter that it cannot take.
            await self.health()
            raise ServerRefusal(str(fault), status=fault.status) from None

    async def unload(self, name: str) -> None:
        """Let the server forget an adapter."""
        body = {"lora_name": name}
        await self._call("POST", "/v1/unload_lora_adapter", body, timeout_s=UNLOAD_TIMEOUT_S)

    async def complete(self, model: str, ask: Ask) -> list[Drawn]:
        """Return `ask.count` completions by the base model or an adapter."""
        try:
            answer = await self._json(
                "POST", "/v1/completions", ask.body(model), timeout_s=self._timeout_s
            )
        except ServerRefusal as refusal:
            if refusal.status != 404:
                raise
            raise ServerDown(
                f"it no longer knows {model!r}; was it started again? ({refusal})", may_pass=False
            ) from None
        return self._read_choices(answer, ask)

    async def top_logprobs(self, model: str, *, temperature: float) -> dict[str, float]:
        """Return the logprobs of the likeliest tokens, and the drawn one's, behind a fixed
        prompt."""
        sampling = Sampling(temperature=temperature, max_new_tokens=1)
        ask = Ask(prompt_ids=PROBE_IDS, count=1, seed=0, sampling=sampling, stop_ids=())
        body = ask.body(model) | {"logprobs": 5}
        answer = await self._json("POST", "/v1/completions", body, timeout_s=self._timeout_s)
        try:
            return dict(answer["choices"][0]["logprobs"]["top_logprobs"][0])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ServerRefusal("its completions come without logprobs") from None

    async def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float
    ) -> dict[str, Any]:
        response = await self._call(method, path, body, timeout_s=timeout_s)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerRefusal(
                f"what it answers to {path} is not a JSON object; is it a vLLM server?"
            )
        return answer

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.request(method, self.url + path, json=body)
        except TimeoutError:
            raise ServerDown(
                f"no answer to {path} within {timeout_s:g} s", may_pass=False
            ) from None
        except httpx.RequestError as error:
            words = self._key.redact(str(error)) or "the connection was lost"
            if "WRONG_VERSION_NUMBER" in words or "record layer failure" in words:
                words += "; it does not speak https: write http:// in rollout.servers.urls"
            raise ServerDown(f"{type(error).__name__}: {words}") from None
        if not response.is_success:
            raise self._fault_of(response)
        return response

    def _fault_of(self, response: httpx.Response) -> ServerDown | ServerRefusal:
        status = response.status_code
        words = f"HTTP {status}: {self._key.redact(_words(response))[:MAX_WORDS]}"
        if status == 429 or status >= 500:
            return ServerDown(words, status=status)
        if status in (401, 403):
            words += f"; {self._key.way_out}"
        return ServerRefusal(words, status=status)

    def _read_choices(self, answer: Mapping[str, Any], ask: Ask) -> list[Drawn]:
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            drawn = [_read_choice(choice, ask) for choice in choices]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerRefusal(
                f"its completions are not as asked ({type(error).__name__}: {error}); use a vLLM "
                "that knows return_token_ids, with nothing before it that changes answers"
            ) from None
        if len(drawn) != ask.count:
            raise ServerRefusal(f"{ask.count} completions were asked, and {len(drawn)} came")
        return drawn


def connect(key: ApiKey) -> httpx.AsyncClient:
    """Return the connections to all servers, which open as they are used.

    Neither proxies nor .netrc of the environment are used: the servers are one's own.
    """
    return httpx.AsyncClient(
        headers=key.headers,
        timeout=httpx.Timeout(None, connect=CONTROL_TIMEOUT_S),
        limits=httpx.Limits(
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=IDLE_CONNECTION_S,
        ),
        trust_env=False,
        verify=ssl.create_default_context(),
    )


def _read_choice(choice: Mapping[str, Any], ask: Ask) -> Drawn:
    """Read one completion; raises `ValueError` for one that is not what was asked."""
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise ServerDown(f"a completion ended with {reason!r}, as when a server shuts down")
    token_ids = tuple(int(token) for token in choice["token_ids"])
    logprobs = tuple(float(logprob) for logprob in choice["logprobs"]["token_logprobs"])
    if tuple(choice["prompt_token_ids"]) != ask.prompt_ids:
        raise ValueError("the prompt came back changed")
    if len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} tokens have {len(logprobs)} logprobs")
    if reason == "stop" and (not token_ids or token_ids[-1] not in ask.stop_ids):
        raise ValueError(f"it stopped at {token_ids[-1:]}, which is none of {ask.stop_ids}")
    if reason == "length" and len(token_ids) != ask.sampling.max_new_tokens:
        raise ValueError(f"it was cut after {len(token_ids)} tokens")
    return Drawn(token_ids=token_ids, logprobs=logprobs, finish_reason=reason)


def _words(response: httpx.Response) -> str:
    """Return what a server says of an error, in one line."""
    try:
        body = response.json()
        error = body.get("error", body.get("detail", body))
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = response.text
        if said.lstrip().startswith("<"):
            return "answered with a page, not JSON; is it a vLLM server?"
    return " ".join(str(said).split())
