"""What every rollout engine promises."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rl_llm.errors import ModelError
from rl_llm.records import Group, Request


class RolloutEngine(Protocol):
    """Draws completions for requests with the newest published weights."""

    @property
    def may_be_lost(self) -> bool:
        """Whether `EngineLost` can come out of a call: the engine lives outside this process."""
        ...

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield one group per request, each as it finishes; the caller restores the order.

        The draws of a request depend on its `stream_key` and the weights alone, as far as the
        engine computes the same whatever shares its batch. Raises `InputError` when a prompt leaves
        no room for `max_new_tokens` in the model's context.
        """
        ...

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Generate from now on with the adapter in a PEFT folder, which may be deleted afterwards;
        completions carry `version`."""
        ...

    def rest(self) -> None:
        """Nothing is generated until the next call of `complete` or `load_weights`: memory may be
        given back."""
        ...

    def cut(self) -> None:
        """From another thread: end the call that is under way, with an error, where it could wait
        for much longer than its next group takes; behind it there is only `close`."""
        ...

    def take_messages(self) -> list[str]:
        """Return what a person should know since the last call, each message once."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards. May be called twice."""
        ...


def check_room(request: Request, prompt_tokens: int, *, room: int | None, whose: str) -> None:
    """Refuse a prompt whose longest completion passes `room` positions; `whose` says what has so
    few, and None is endless."""
    new = request.sampling.max_new_tokens
    if room is not None and prompt_tokens + new > room:
        raise ModelError(
            f"rollout.max_new_tokens={new} with a prompt of {prompt_tokens} tokens (key "
            f"{request.problem.key}) exceeds {whose} {room} positions; "
            + ways_to_fit(new, prompt_tokens, room=room)
        )


def ways_to_fit(new: int, prompt_tokens: int, *, room: int) -> str:
    """Return what a person may do about a prompt and `new` tokens that together pass `room`
    positions: only what helps."""
    ways = [
        f"use at most {room - prompt_tokens}" if prompt_tokens < room else "",
        f"set data.max_prompt_tokens to {room - new} to drop longer prompts" if new < room else "",
    ]
    neither = f"lower it, and data.max_prompt_tokens too, until both together are at most {room}"
    return ", or ".join(filter(None, ways)) or neither
