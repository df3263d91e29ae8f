"""What a server says that is asked over HTTP, once for each group: docs/shipped_rewards.md has the
request and the answer."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from rl_llm.config.api_key import ApiKey
from rl_llm.records import Problem
from rl_llm.scoring.remote import ask, checked_url, checked_variable, question

EXAMPLES: list[object] = []  # The server says what it gives.


async def remote(
    completions: Sequence[str],
    problem: Problem,
    *,
    url: Annotated[str, AfterValidator(checked_url)],
    api_key_env: Annotated[str, AfterValidator(checked_variable)] | None = None,
) -> list[Any]:
    """What a server answers to the group, which it is sent as JSON: one score a completion.

    A server that is down or busy is asked again until `timeout_s` is over.
    """
    key = None
    if api_key_env is not None:
        key = ApiKey(os.environ.get(api_key_env), variable=api_key_env, option="api_key_env")
    return await ask(url, question(problem, completions), key)
