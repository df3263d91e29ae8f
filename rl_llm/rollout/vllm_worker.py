"""What vLLM's own process runs for us: it imports this file by its name."""

import os
import select
import signal
import threading
from contextlib import suppress

import torch


class WorkerExtension:
    """Methods that vLLM adds to those of its worker."""

    def request_amx(self) -> None:
        """Ask the kernel for the tile registers of this process, where the processor has them.

        vLLM's attention in bfloat16 uses them unasked, and dies of an illegal instruction unless
        a matrix product of another library, large enough for them, came first.
        """
        if torch.cpu._is_amx_tile_supported():
            torch.cpu._init_amx()

    def end_with(self, trainer: int) -> None:
        """Have vLLM's processes end when the process `trainer` has ended, however it did: vLLM
        itself waits for its next request for ever.

        Linux before 5.3 cannot wait for such a process, and vLLM stays.
        """
        with suppress(OSError):
            ended = os.pidfd_open(trainer)
            watch = threading.Thread(
                target=_end_after, args=(ended, trainer), name="trainer-watch", daemon=True
            )
            watch.start()


def _end_after(ended: int, trainer: int) -> None:
    """Wait for the trainer, then kill this process and the one between the two, if there is."""
    core = os.getppid()
    select.select([ended], [], [])
    if core not in (1, trainer) and os.getppid() == core:
        os.kill(core, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
