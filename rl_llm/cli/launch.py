"""How many processes a run is to have, and how they share the model: as started, or as planned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rl_llm.errors import ConfigError
from rl_llm.policy import Ranks
from rl_llm.policy.launched import ZeroSettings, check_precision, zero_settings

_TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED")
# One of them stands in any configuration of accelerate's.
_MARKS = {"compute_environment", "distributed_type", "mixed_precision", "num_processes", "use_cpu"}
# Fields of accelerate's file, and the variable that its launcher makes of each.
_VARIABLES = {
    "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT",
    "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
    "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The processes of a run; `on_gpus`: each trains on a GPU of its own."""

    num_ranks: int
    zero: ZeroSettings | None = None
    on_gpus: bool = True

    @property
    def stage(self) -> int:
        """The ZeRO stage, 0 where nothing is shared out."""
        return 0 if self.zero is None else self.zero.stage


def launch_of(ranks: Ranks) -> Launch:
    """Return what was started."""
    return Launch(num_ranks=ranks.num_ranks, zero=ranks.zero, on_gpus=ranks.device.type == "cuda")


def planned_launch(file: str | None, num_ranks: int | None, *, dtype: str) -> Launch | None:
    """Return what accelerate's configuration `file` would start, with another number of processes
    where one is given; None where neither is.

    Raises `ConfigError` for what a run would refuse.
    """
    if num_ranks is not None and num_ranks < 1:
        raise ConfigError(f"--processes {num_ranks}: a run has 1 process or more")
    if file is None:
        return None if num_ranks is None else Launch(num_ranks=num_ranks)
    fields = _read(file)
    # YAML reads an unquoted `NO` as false, which accelerate takes here, and nowhere else.
    kind = str(fields.get("distributed_type") or "NO")
    if fields.get("mixed_precision") is False:
        raise ConfigError(
            f"mixed_precision=false in {file}: YAML reads an unquoted no as false, at which "
            "`accelerate launch` stops; write 'no' in quotes"
        )
    if kind not in _TYPES:
        raise ConfigError(
            f"distributed_type={kind} in {file}: rl-llm trains on one process, or on several CPU "
            "or CUDA processes, plain or under DeepSpeed; see recipes/accelerate"
        )
    environment = _environment(fields, uses_deepspeed=kind == "DEEPSPEED")
    check_precision(dtype, environment)
    given = fields.get("num_processes", 1)
    if not isinstance(given, int) or given < 1:
        raise ConfigError(f"num_processes={given!r} in {file}: use a whole number from 1")
    return Launch(
        num_ranks=num_ranks or (1 if kind == "NO" else given),
        zero=zero_settings(environment),
        on_gpus=not fields.get("use_cpu", False),
    )


def _read(file: str) -> Mapping[str, Any]:
    try:
        fields = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config_file {file} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        fields = None
    if not isinstance(fields, dict) or not _MARKS & fields.keys():
        raise ConfigError(
            f"--config_file {file} is no configuration of accelerate's; recipes/accelerate has some"
        )
    return fields


def _environment(fields: Mapping[str, Any], *, uses_deepspeed: bool) -> dict[str, str]:
    """Return what accelerate's launcher would tell each process."""
    deepspeed = (fields.get("deepspeed_config") or {}) if uses_deepspeed else {}
    given = {
        variable: _text(deepspeed[field])
        for field, variable in _VARIABLES.items()
        if deepspeed.get(field) is not None
    }
    return given | {
        "ACCELERATE_USE_DEEPSPEED": _text(uses_deepspeed),
        "ACCELERATE_MIXED_PRECISION": str(fields.get("mixed_precision", "no")),
    }


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
