"""What every rollout engine promises."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rl_llm.records import Group, Request


class RolloutEngine(Protocol):
    """Draws completions for requests with the newest published weights."""

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield one group per request, each as it finishes; the caller restores the order.

        The draws of a request depend on its `stream_key` and the weights alone. Raises `InputError`
        when a prompt leaves no room for `max_new_tokens` in the model's context.
        """
        ...

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Generate from now on with the adapter in a PEFT folder; completions carry `version`."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards."""
        ...
