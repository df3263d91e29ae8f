"""What an exception of the hub's library means to whoever pushes."""

from dataclasses import replace
from json import JSONDecodeError
from typing import Any

from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined] # lazy

from rl_llm.errors import PushRefused
from rl_llm.hub.access import endpoint, redact, token_source
from rl_llm.hub.job import Job, Outcome

# The base of all that the library's HTTP client raises; which client that is depends on its
# version.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]

FAULTS = (PushRefused, OSError, ValueError, LookupError, RuntimeError, _HTTP_ERROR)
"""Everything that `outcome_of` explains."""

_MAX_WORDS = 400


def outcome_of(error: Exception, job: Job) -> Outcome:
    """Return what to say of a failed attempt, without any token, and whether to try again."""
    cause = _first_cause(error)
    found = _explain(cause, job)
    return replace(found, fault=redact(" ".join(found.fault.split())), kind=_kind(cause))


def _first_cause(error: Exception) -> Exception:
    """Return what the library wrapped: threads that upload raise `RuntimeError` from it."""
    if type(error) is RuntimeError and isinstance(error.__cause__, FAULTS):
        return _first_cause(error.__cause__)
    return error


def _kind(error: Exception) -> str:
    match error:
        case HfHubHTTPError():
            return f"HTTP {error.response.status_code}"
        case PushRefused():
            return ""  # Each reason is one of its own.
    return type(error).__name__


def _explain(error: Exception, job: Job) -> Outcome:
    match error:
        case PushRefused():
            return Outcome(fault=str(error), refused=True)
        case OfflineModeIsEnabled():
            return Outcome(
                fault="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the hub is not asked; "
                "unset it to push",
                refused=True,
            )
        case HfHubHTTPError():
            return _of_status(error, job)
        case _ if isinstance(error, _HTTP_ERROR):
            return Outcome(fault=_of_connection(error, job))
        case JSONDecodeError() | LookupError():
            return Outcome(
                fault=f"{endpoint()} gives answers that a hub does not give "
                f"({type(error).__name__}); see what HF_ENDPOINT says"
            )
        case ValueError():
            return Outcome(fault=f"{job.repo_id}: {_clipped(str(error))}", refused=True)
    words = f"{type(error).__name__}: {_clipped(str(error))}"
    hint = "; for a hub that speaks no xet set HF_HUB_DISABLE_XET=1" if "xet-" in words else ""
    return Outcome(fault=words + hint)


def _of_status(error: HfHubHTTPError, job: Job) -> Outcome:
    response: Any = error.response
    status = response.status_code
    said = f" ({_clipped(error.server_message)})" if error.server_message else ""
    head = f"HTTP {status} from {endpoint()}"
    owner = job.repo_id.partition("/")[0] if "/" in job.repo_id else "your account"
    match status:
        case _ if isinstance(error, RepositoryNotFoundError) or status == 404:
            reason = (
                f"{head}: no repository {job.repo_id}, or not for this token{said}; mend the name, "
                "or take a token that may see it"
            )
        case 401:
            reason = (
                f"{head}: it does not take the token of {token_source()}{said}; make one that may "
                f"write at {endpoint()}/settings/tokens, then log in with it (`hf auth login`) or "
                "set HF_TOKEN to it"
            )
        case 403:
            reason = (
                f"{head}: the token of {token_source()} may not write to {job.repo_id}{said}; take "
                f"one with write access to {owner}, or push to a repository of your own"
            )
        case 409 | 412:
            return Outcome(
                fault=f"{head}: another change of {job.repo_id} is under way{said}; try again in a "
                "moment"
            )
        case 429:
            wait_s = _retry_after_s(response)
            asked = f"; it asks to wait {wait_s:g} s" if wait_s else ""
            return Outcome(fault=f"{head}: too many requests{said}{asked}", retry_after_s=wait_s)
        case _ if isinstance(error, BadRequestError) or (400 <= status < 500 and status != 408):
            reason = f"{head}: it refuses the push to {job.repo_id}{said}"
        case _:
            return Outcome(
                fault=f"{head}: it failed{said}; try again in a moment",
                retry_after_s=_retry_after_s(response),
            )
    return Outcome(fault=reason, refused=True)


def _retry_after_s(response: Any) -> float:
    """Return what the hub asks for, in its own way or in HTTP's; 0 where it asks for nothing."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = str(response.headers.get("Retry-After", "")).strip()
    return float(value) if value.isdigit() else 0.0


def _of_connection(error: Exception, job: Job) -> str:
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"no answer from {endpoint()} within {job.stall_s:g} s ({kind})"
    words = _clipped(str(error)) or kind
    return (
        f"no connection to {endpoint()}: {words}; see whether this machine reaches it, and what "
        "HF_ENDPOINT says"
    )


def _clipped(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_WORDS else flat[:_MAX_WORDS] + " ..."
