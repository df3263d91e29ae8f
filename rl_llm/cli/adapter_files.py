"""The folder of a PEFT adapter, looked at before a model is loaded for it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rl_llm.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def find_adapter(folder: Path) -> Path | None:
    """Return the adapter that a folder is, or that lies in it as in a checkpoint's; None without
    one."""
    both = (folder, folder / "adapter")
    return next((each for each in both if (each / CONFIG).is_file()), None)


def base_of(adapter: Path) -> str | None:
    """Return the model that an adapter was made for, None where it does not say.

    Raises `InputError` where a file of the adapter is missing or damaged, or may not be read.
    """
    file = adapter / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
        file = adapter / WEIGHTS
        file.open("rb").close()  # What safetensors may not read, it says is not there.
        with safe_open(file, framework="pt"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{file} cannot be read ({why}); put it back from a copy, or name another adapter, "
            "such as that of a checkpoint, as in runs/NAME/checkpoints/step-000050"
        ) from None
    return config.get("base_model_name_or_path") or None
