"""What a checkpoint holds, and how it gets in and out; the folder of all of them is `shelf`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from rl_llm.curriculum import Scheduler, store
from rl_llm.errors import CheckpointError
from rl_llm.kl import KLController
from rl_llm.policy import PolicyEngine
from rl_llm.trainer.identity import Identity
from rl_llm.trainer.manifest import seal
from rl_llm.trainer.metrics import Counters
from rl_llm.trainer.pending import Pending
from rl_llm.trainer.shelf import (
    FORMAT,
    STATE,
    list_checkpoints,
    new_checkpoint,
    newest_whole,
    path_of,
    read_state,
)
from rl_llm.trainer.storage import discard, writing

__all__ = ["FORMAT", "Stateful", "list_checkpoints", "load", "newest_whole", "read_state", "save"]


@dataclass(frozen=True, kw_only=True)
class Stateful:
    """Everything that a checkpoint holds the state of."""

    policy: PolicyEngine
    scheduler: Scheduler
    kl: KLController
    counters: Counters
    pending: Pending


def save(folder: Path, parts: Stateful, identity: Identity, *, keep: int) -> Path:
    """Write `folder/step-000050`, then delete all but the newest `keep`; for rank 0 alone.

    Raises `StorageError` where it cannot be written: the checkpoints before stay, and nothing half
    written does.
    """
    final = path_of(folder, parts.counters.step)
    with new_checkpoint(final) as aside:
        _write(aside, parts, identity)
        seal(aside)
    for old in list_checkpoints(folder)[:-keep]:
        with writing(old):
            discard(old)
    return final


def load(checkpoint: Path, state: Mapping[str, Any], parts: Stateful) -> None:
    """Put every part into the state that it was saved in."""
    optimizer, adapter = checkpoint / "trainer" / "policy.pt", checkpoint / "adapter"
    with _reading(optimizer):
        # Not to the GPU of rank 0, which wrote it: each part puts its own where it belongs.
        policy = torch.load(optimizer, map_location="cpu", weights_only=True)
    with _reading(adapter / "adapter_model.safetensors"):
        parts.policy.load(adapter, policy)
    pool, names = checkpoint / "curriculum.parquet", parts.scheduler.row_names
    parts.scheduler.load_state_dict(store.load(pool, names, state["curriculum"]))
    if changes := store.describe_changes(pool, names):
        parts.scheduler.say(changes)
    parts.pending.load(checkpoint)
    parts.kl.load_state_dict(state["kl"])
    for name, value in state["counters"].items():
        setattr(parts.counters, name, value)


def _write(aside: Path, parts: Stateful, identity: Identity) -> None:
    (aside / "trainer").mkdir()
    parts.policy.save_adapter(aside / "adapter")
    with (aside / "trainer" / "policy.pt").open("wb") as file:
        torch.save(parts.policy.state_dict(), file)
    parts.pending.save(aside)
    curriculum = store.save(
        aside / "curriculum.parquet",
        parts.scheduler.row_names,
        parts.pending.curriculum or parts.scheduler.state_dict(),
    )
    state = {
        "format": FORMAT,
        "counters": asdict(parts.counters),
        "curriculum": curriculum,
        "kl": parts.kl.state_dict(),
        **asdict(identity),
    }
    (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn what a missing or damaged file of a checkpoint raises into one `CheckpointError`."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); delete {file.parents[1]} to resume from the "
            "checkpoint before"
        ) from None
