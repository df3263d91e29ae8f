"""A base model with a LoRA adapter merged into its matrices, without a change to the base."""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from rl_llm.errors import ModelError


class MergedWeights:
    """Computes the adapted matrices, always from the untouched base: nothing drifts from one
    adapter to the next."""

    def __init__(self, base: nn.Module) -> None:
        """Keep the base's own matrices by name, so that an adapter may be put on it afterwards."""
        self._matrices = {
            name: (module.weight, isinstance(module, Conv1D))
            for name, module in base.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        }

    def merge(self, adapter_dir: Path) -> Iterator[tuple[str, Tensor]]:
        """Yield each module's name and its adapted matrix, in the base's type and on its device.

        Each is made when it is asked for: whoever replaces one at a time never holds two of all.
        """
        for name, delta in adapter_deltas(adapter_dir):
            weight, is_transposed = self._matrices.get(name, (None, False))
            delta = delta.T if is_transposed else delta
            if weight is None or weight.shape != delta.shape:
                found = "lacks" if weight is None else f"has as {tuple(weight.shape)}"
                raise ModelError(
                    f"{adapter_dir} adapts {name} {tuple(delta.shape)}, which the model {found}; "
                    "give the model that it was made for as model.path"
                )
            delta = delta.to(weight.device)
            yield name, (weight.float() + delta).to(weight.dtype)


class MergedCheckpoint:
    """Writes a base model with an adapter merged into it as a folder that other programs load."""

    def __init__(self, base: nn.Module) -> None:
        """`base` is a causal language model of transformers; its parameters are shared and never
        changed, and later changes to its structure are not seen."""
        self._model: Any = share_parameters(base)
        # What generation is asked for is in every request; saving checks it, and stumbles over some
        # models' own.
        self._model.generation_config = GenerationConfig()
        # Of several processes, transformers lets rank 0 alone save; each has a reader of its own.
        self._model.should_save_on_this_rank = lambda is_main_process: is_main_process
        self._weights = MergedWeights(base)

    def write(self, adapter_dir: Path, folder: Path) -> None:
        """Save the whole model in the names and the layout of its published files."""
        tensors = self._model.state_dict()
        uses = Counter(tensor.data_ptr() for tensor in tensors.values())
        for name, matrix in self._weights.merge(adapter_dir):
            key = f"{name}.weight"
            if uses[tensors[key].data_ptr()] > 1:
                raise ModelError(
                    f"{adapter_dir} adapts {name}, whose matrix another layer shares, so that both "
                    "would change; adapt other layers: lora.targets=all-linear"
                )
            tensors[key] = matrix
        self._model.save_pretrained(folder, state_dict=tensors)


def share_parameters(model: nn.Module) -> Any:
    """Return a copy of a module's structure, in evaluation mode, that shares all its tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared).eval()


@torch.no_grad()
def adapter_deltas(adapter_dir: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield each module's name and the float32 matrix that a PEFT LoRA adapter adds to its weight.

    The delta is alpha / rank * B @ A (Hu et al. 2021, arXiv:2106.09685), or with `use_rslora` alpha
    / sqrt(rank) * B @ A (Kalajdzievski 2023, arXiv:2312.03732). Raises `ModelError` before the
    first where any cannot be added.
    """
    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA" or "lora_alpha" not in config:
        raise ModelError(
            f"{adapter_dir} is no LoRA adapter: its adapter_config.json has peft_type="
            f"{config.get('peft_type')!r} and lora_alpha={config.get('lora_alpha')!r}; give one "
            "that PEFT has saved with a LoraConfig"
        )
    tensors = load_file(adapter_dir / "adapter_model.safetensors")
    strange = [name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange:
        raise ModelError(
            f"{adapter_dir} adapts {strange[0]}, which cannot be merged into the weights that "
            "generate; adapt linear layers alone: lora.targets=all-linear"
        )
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            yield module, (up.float() @ down.float()) * _scale(config, module, rank=len(down))


def _scale(config: Mapping[str, Any], module: str, *, rank: int) -> float:
    """Return the factor of B @ A; a module that `alpha_pattern` matches, as PEFT reads it, has an
    alpha of its own."""
    own = [
        alpha
        for pattern, alpha in (config.get("alpha_pattern") or {}).items()
        if re.match(rf"(.*\.)?({pattern})$", module)
    ]
    alpha: float = [*own, config["lora_alpha"]][0]
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
