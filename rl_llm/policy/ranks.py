"""The processes of a run and what they tell each other; the only module that imports accelerate."""

import copy
import os
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import Tensor

from rl_llm.errors import ConfigError, RlLlmError
from rl_llm.policy.launched import ZeroSettings, wants_deepspeed, zero_settings
from rl_llm.policy.watch import End, Seat, Watch, start_watch

T = TypeVar("T")

_SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.DEEPSPEED,
)


class Ranks:
    """One process per device, as `accelerate launch` started them; alone, every call is the
    identity."""

    def __init__(self, *, timeout_s: float = 1800.0) -> None:
        """Join the process group that the launcher describes; where one process waits for another
        for longer than `timeout_s`, a collective fails."""
        self._timeout = timedelta(seconds=timeout_s)
        self._watch: Watch | None = None
        self._describe: Callable[[BaseException], End] = _unexplained
        self._zero = zero_settings()
        if self._zero is not None:
            from rl_llm.policy.zero import prepare

            prepare()
        self._state = PartialState(cpu=_launched_on_cpus(), timeout=self._timeout)
        if self._state.distributed_type not in _SUPPORTED:
            raise ConfigError(
                f"accelerate was configured for {self._state.distributed_type.value}; rl-llm "
                "trains on one process, or on several CPU or CUDA processes, plain or under "
                "DeepSpeed: launch with --config_file recipes/accelerate/ddp.yaml or zero2.yaml"
            )
        self._group: dist.ProcessGroup | None = None  # None: that of all processes.
        self._channel: Ranks | None = None

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._state.process_index)

    @property
    def num_ranks(self) -> int:
        """How many processes there are."""
        return int(self._state.num_processes)

    @property
    def line(self) -> str:
        """How many there are, what they talk over and where they train, for a person."""
        over = f"{self._state.backend}, " if self.num_ranks > 1 else ""
        return f"processes: {self.num_ranks} ({over}{self.device.type})"

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone writes files and prints."""
        return self.rank == 0

    @property
    def timeout_s(self) -> float:
        """How long a process waits for another."""
        return self._timeout.total_seconds()

    @property
    def speaks(self) -> bool:
        """True on the first rank of every machine, which tells what only its machine knows."""
        return self._local_rank == 0

    @property
    def device(self) -> torch.device:
        """The device that this process trains on."""
        device: torch.device = self._state.device
        return device

    @property
    def zero(self) -> ZeroSettings | None:
        """How DeepSpeed shares the model out over ranks; None where it does not."""
        return self._zero

    @property
    def shares_weights(self) -> bool:
        """Whether no rank keeps the whole model, so that a reader needs a copy of its own."""
        return self._zero is not None and self._zero.stage == 3

    @property
    def _local_rank(self) -> int:
        return int(self._state.local_process_index)

    def channel(self) -> "Ranks":
        """Return a twin for a second thread: its `gather` and `from_main` go over a process group
        of their own, so that they never meet those of the first thread.

        Every rank asks for it at the same point. It is made once, and its other collectives are
        not for use.
        """
        if self.num_ranks == 1:
            return self
        if self._channel is None:
            twin = self._channel = copy.copy(self)
            twin._group, twin._channel = dist.new_group(backend="gloo", timeout=self._timeout), twin
        return self._channel

    def mine(self, items: Sequence[T]) -> list[T]:
        """Return this rank's share of a list that every rank holds; `gather` puts shares
        together."""
        return list(items[self.rank :: self.num_ranks])

    def gather(self, share: Sequence[T]) -> list[T]:
        """Return the whole list, in its order, from the shares that `mine` cut."""
        if self.num_ranks == 1:
            return list(share)
        shares: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(shares, list(share), group=self._group)
        longest = max(map(len, shares))
        return [part[i] for i in range(longest) for part in shares if i < len(part)]

    def from_main(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.num_ranks == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]  # type: ignore[no-any-return]

    def on_main(self, action: Callable[[], T]) -> T:
        """Return on every rank what `action` returned on rank 0, which alone runs it; a deliberate
        error that it raises there is raised on all, so that none waits for the others."""
        result: T | None = None
        error: RlLlmError | None = None
        if self.is_main:
            try:
                result = action()
            except RlLlmError as raised:
                error = raised
        result, error = self.from_main((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, in one collective."""
        if self.num_ranks == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def max_in_place(self, tensor: Tensor) -> None:
        """Replace a tensor by its elementwise maximum over ranks."""
        if self.num_ranks > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def wait(self) -> None:
        """Return once every rank has come here."""
        self._state.wait_for_everyone()

    def watch(self, say: Callable[[End], None], describe: Callable[[BaseException], End]) -> None:
        """From here on, the end of one process is the end of all; every rank calls it at the same
        point.

        `say` gets the cause, once on every machine; `describe` makes it of an error. A process
        alone watches nobody.
        """
        self._describe = describe
        if self.num_ranks == 1:
            return
        seat = Seat(
            rank=self.rank,
            num_ranks=self.num_ranks,
            local_rank=self._local_rank,
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        is_one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == self.num_ranks
        self._watch = start_watch(seat, self.from_main, is_one_machine=is_one_machine, say=say)

    def is_ending(self, *, wait_s: float = 0.0) -> bool:
        """Say whether the end of another process is that of this one, or is found to be within
        `wait_s`."""
        return self._watch is not None and self._watch.is_ending(wait_s=wait_s)

    def end_all(self, error: BaseException) -> End:
        """End all processes because of an error in this one; return the cause once it is said."""
        end = self._describe(error)
        return end if self._watch is None else self._watch.end_all(end)

    def tell_of(self, error: BaseException) -> None:
        """Have all processes end because of an error in a second thread, which the main thread may
        not come to see; what the main thread raises comes to `end_all` by itself."""
        if self._watch is not None and threading.current_thread() is not threading.main_thread():
            self._watch.tell(self._describe(error))

    def close(self) -> None:
        """Leave the process group."""
        if self._watch is not None:
            self._watch.leave()
        if self.num_ranks > 1 or self._zero is not None:
            self._state.destroy_process_group()


def _unexplained(error: BaseException) -> End:
    """Describe an error before anybody has said how."""
    return End(rank=0, text=str(error), code=1)


def _launched_on_cpus() -> bool:
    """Say whether the launcher started processes for CPUs.

    `PartialState` does not read `use_cpu` of accelerate's configuration; without it, several
    processes on CPUs take themselves for the only one each, under DeepSpeed too. DeepSpeed is not
    accelerate's affair here, so it loses nothing by being told.
    """
    if wants_deepspeed():
        return not torch.cuda.is_available()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    asked = bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
    return asked or (several and not torch.cuda.is_available())
