"""What vLLM's own process runs for us: it imports this file by its name."""

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
