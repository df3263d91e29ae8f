"""Where the `adapter_config.json` of an adapter says that its base lies: a folder of this machine
in the run's own, so that PEFT finds it from anywhere, and the recipe's words in what is pushed."""

import json
from pathlib import Path
from typing import Any

from rl_llm.plugins import shipped_path

CONFIG = "adapter_config.json"
_BASE = "base_model_name_or_path"


def pin_base(adapter: Path, model_path: str) -> None:
    """Have an adapter name its base by the absolute path, if `model_path` is a folder here."""
    folder = shipped_path(model_path)
    if folder.is_dir():
        _write(adapter, {**_read(adapter), _BASE: str(folder.absolute())})


def has_pinned_base(adapter: Path) -> bool:
    """Whether an adapter names its base by an absolute path."""
    return Path(_read(adapter).get(_BASE) or "").is_absolute()


def write_unpinned(adapter: Path, model_path: str, folder: Path) -> Path:
    """Write the config of an adapter into a folder, with its base as the recipe names it."""
    return _write(folder, {**_read(adapter), _BASE: model_path})


def _read(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    return config


def _write(folder: Path, config: dict[str, Any]) -> Path:
    file = folder / CONFIG
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")  # As PEFT does.
    return file
