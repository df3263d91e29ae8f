"""Who is asked and as whom: the name of a repository, and where a token is found.

Nothing here uses the network.
"""

import os
import re
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # loaded lazily

from rl_llm.errors import ConfigError

LOG_IN = (
    "log in with `hf auth login`, or set the environment variable HF_TOKEN, with a token that may "
    "write"
)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OTHER_SECRETS = ("WANDB_API_KEY",)
_LOOKS_LIKE_A_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}")
_HIDDEN = "[token]"
_SHORTEST = 6  # Less is no token, and stands in many words.


def check_repo_id(repo_id: str, *, where: str) -> None:
    """Raise `ConfigError` for what the hub takes for no repository's name; `where` says what was
    set to it."""
    if _LOOKS_LIKE_A_TOKEN.search(repo_id):
        raise ConfigError(
            f"{where} looks like an access token and not like a repository (the value is not "
            f"repeated here); name a repository, as in owner/name, and {LOG_IN}"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        rule = str(error).partition(f" '{repo_id}'")[0].rstrip(":").replace("\n", " ")
        raise ConfigError(
            f"{where}={repo_id!r}: {rule}; use owner/name, as in my-name/my-adapter"
        ) from None


def is_repo_id(name: str) -> bool:
    """Say whether the hub could have something of this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or that of Hugging Face."""
    return str(constants.ENDPOINT)


def token_source() -> str | None:
    """Say where the hub's library finds a token; None where there is none."""
    if os.environ.get("HF_OIDC_RESOURCE"):
        return "the environment variable HF_OIDC_RESOURCE"
    for variable in _VARIABLES:
        if os.environ.get(variable, "").strip():
            return f"the environment variable {variable}"
    return "the login of `hf auth login`" if _stored() else None


def redact(text: str) -> str:
    """Return a text without any token that is known here, or that looks like one."""
    known = [os.environ.get(variable, "").strip() for variable in (*_VARIABLES, *_OTHER_SECRETS)]
    for token in (*known, _stored()):
        if len(token) >= _SHORTEST:
            text = text.replace(token, _HIDDEN)
    return _LOOKS_LIKE_A_TOKEN.sub(_HIDDEN, text)


def _stored() -> str:
    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
