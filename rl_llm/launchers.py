"""What a launcher of processes, such as torchrun or mpirun, tells each by its environment."""

import re
from collections.abc import Mapping

_TOLD = re.compile(
    r"(MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE"
    r"|(TORCHELASTIC|ACCELERATE|GROUP|ROLE|OMPI|PMI|MV2)_.*)$"
)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that is no rank: one that took itself for one would wait
    for the others."""
    return {name: value for name, value in environment.items() if not _TOLD.match(name)}
