"""Checkpoints: written aside and renamed, so that a folder with the right name is always whole."""

import json
import os
import shutil
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
from rl_llm.trainer.metrics import Counters
from rl_llm.trainer.pending import Pending

FORMAT = 3
_PREFIX = "step-"
_MEMORY_OF_VLLM = tuple(
    f"rollout.vllm.{key}" for key in ("memory_fraction", "kv_cache_gib", "sleep", "compile")
)


@dataclass(frozen=True, kw_only=True)
class Stateful:
    """Everything that a checkpoint holds the state of."""

    policy: PolicyEngine
    scheduler: Scheduler
    kl: KLController
    counters: Counters
    pending: Pending


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a checkpoint belongs to: the resolved recipe, and the fingerprint of the base model."""

    recipe: Mapping[str, Any]
    model_fingerprint: str


def save(folder: Path, parts: Stateful, identity: Identity, *, keep: int) -> Path:
    """Write `folder/step-000050`, then delete all but the newest `keep`.

    For rank 0 alone.
    """
    final = folder / f"{_PREFIX}{parts.counters.step:06d}"
    aside = folder / f".{final.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "trainer").mkdir(parents=True)
    parts.policy.save_adapter(aside / "adapter")
    torch.save(parts.policy.state_dict(), aside / "trainer" / "policy.pt")
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
    (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    _flush_to_disk(aside)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file())


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's state.json; raises `CheckpointError` when it is missing or damaged."""
    file = checkpoint / "state.json"
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} is not a checkpoint ({error}); name a folder such as "
            "runs/NAME/checkpoints/step-000050"
        ) from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{checkpoint} has format {found!r}, and this version reads {FORMAT}; "
            "resume it with the version that wrote it"
        )
    return state


def check_identity(checkpoint: Path, state: Mapping[str, Any], identity: Identity) -> None:
    """Refuse to resume another recipe or another model, and show the difference.

    Only `run.name`, `run.output_dir`, `run.timeout_s`, `tracking`, where servers are found
    (`rollout.servers`), what memory vLLM takes (`rollout.vllm.memory_fraction`, `kv_cache_gib`,
    `sleep` and `compile`), and, where nothing is scheduled over it, `run.steps` may differ.
    """
    may_differ = {"run.name", "run.output_dir", "run.timeout_s", "tracking", *_MEMORY_OF_VLLM}
    if not _scheduled_over_steps(identity.recipe):
        may_differ.add("run.steps")
    saved, given = _flat(state["recipe"]), _flat(identity.recipe)
    changes = [
        f"  {path}: {saved.get(path)!r} in the checkpoint, {given.get(path)!r} in the recipe"
        for path in sorted(saved.keys() | given.keys())
        if saved.get(path) != given.get(path)
        and path not in may_differ
        and not path.startswith("rollout.servers.")
    ]
    if saved.get("run.steps") != given.get("run.steps") and "run.steps" not in may_differ:
        changes.append(
            "  (run.steps may change where optim.schedule is constant, kl.controller is not "
            "scheduled over the run, curriculum.probe is null, and rollout.max_staleness is 0)"
        )
    if changes:
        raise CheckpointError(
            f"{checkpoint} belongs to another recipe:\n" + "\n".join(changes) + "\n"
            "give this recipe another run.name, or undo the difference"
        )
    if state["model_fingerprint"] != identity.model_fingerprint:
        raise CheckpointError(
            f"{checkpoint} was trained on another model: fingerprint {state['model_fingerprint']}, "
            f"and model.path={identity.recipe['model']['path']!r} has "
            f"{identity.model_fingerprint}; put the first model back, or give the run another "
            "run.name"
        )


def load(checkpoint: Path, state: Mapping[str, Any], parts: Stateful) -> None:
    """Put every part into the state that it was saved in."""
    optimizer, adapter = checkpoint / "trainer" / "policy.pt", checkpoint / "adapter"
    with _reading(optimizer):
        policy = torch.load(optimizer, weights_only=True)
    with _reading(adapter / "adapter_model.safetensors"):
        parts.policy.load(adapter, policy)
    parts.scheduler.load_state_dict(
        store.load(
            checkpoint / "curriculum.parquet", parts.scheduler.row_names, state["curriculum"]
        )
    )
    parts.pending.load(checkpoint)
    parts.kl.load_state_dict(state["kl"])
    for name, value in state["counters"].items():
        setattr(parts.counters, name, value)


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


def _scheduled_over_steps(recipe: Mapping[str, Any]) -> bool:
    """Say whether a run's length shows before its end: rates and beta may be scheduled over it, its
    last step finishes all probes, and nothing is generated ahead for later ones."""
    constant_rate = recipe["optim"]["schedule"] == "constant"
    controller = recipe["kl"]["controller"]
    needs_no_length = {"constant", "target", "ppo_penalty", "accuracy"}
    is_short_ramp = (
        controller["name"] in ("linear", "cosine") and controller.get("over") is not None
    )
    constant_beta = controller["name"] in needs_no_length or is_short_ramp
    takes_turns = recipe["rollout"]["max_staleness"] == 0 and recipe["curriculum"]["probe"] is None
    return not (constant_rate and constant_beta and takes_turns)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their dotted path; `tracking` is a leaf."""
    if isinstance(tree, Mapping):
        children = tree.items()
    elif isinstance(tree, list) and prefix != "tracking":
        children = dict(enumerate(tree)).items()
    else:
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, child in children:
        leaves |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _flush_to_disk(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
