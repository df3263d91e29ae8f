"""When vLLM holds memory of the GPU that it shares with the trainer."""

from collections.abc import Callable
from typing import Protocol

WEIGHTS, CACHE = "weights", "kv_cache"


class Sleeper(Protocol):
    """What `vllm.LLM` is asked for here."""

    def sleep(self, level: int) -> object:
        """Give back the memory of all that is awake: at level 1 weights move to the CPU, and the
        key-value cache is forgotten."""
        ...

    def wake_up(self, tags: list[str]) -> object:
        """Take the memory of what is asleep again; what is awake may not be named."""
        ...


class SleepCycle:
    """Wakes what the next call needs, and no more: weights to be published into, while the trainer
    may still hold the memory of its update, and the key-value cache to generate."""

    def __init__(self, llm: Sleeper, *, sleeps: bool, make_room: Callable[[], object]) -> None:
        """`llm` is awake; without `sleeps` it stays so.

        `make_room` is called before anything is woken: it hands the device back what this process
        holds and does not use, which an allocator keeps for the next update.
        """
        self._llm = llm
        self._make_room = make_room
        self._sleeps = sleeps
        self._asleep: set[str] = set()

    def wake_to_publish(self) -> None:
        """Wake the weights."""
        self._wake(WEIGHTS)

    def wake_to_generate(self) -> None:
        """Wake weights and cache."""
        self._wake(WEIGHTS, CACHE)

    def rest(self) -> None:
        """Put all to sleep; where only a part is awake, nothing was generated since, and it stays
        so until something is."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = {WEIGHTS, CACHE}

    def _wake(self, *parts: str) -> None:
        asleep = [part for part in parts if part in self._asleep]
        if asleep:
            self._make_room()
        for part in asleep:
            self._llm.wake_up([part])
            self._asleep.remove(part)
