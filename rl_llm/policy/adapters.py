"""Several adapters on one frozen base, and which of them a forward pass runs through.

PEFT lets one adapter be active at a time and freezes the others as it switches. Here the ones that
are trained stay trainable whichever is active, so that gradients of several add up in one step.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rl_llm.policy.sharded import assign, whole_values

POLICY, CRITIC, REFERENCE = "default", "critic", "reference"
"""The names of adapters in the model; the policy's is PEFT's own, so that others load it."""


def add_adapter(model: PeftModel, name: str, *, seed: int) -> None:
    """Put a further adapter of the policy's shape on the base; its output starts as the base's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(name, model.peft_config[POLICY])


def adapter_parameters(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """Return the parameters of one adapter by their names in the model, without the adapter's."""
    part = f".{name}."
    return {
        key.replace(part, "."): parameter
        for key, parameter in model.named_parameters()
        if part in key and "lora_" in key
    }


def adapter_values(model: PeftModel, name: str) -> dict[str, Tensor]:
    """Return copies of the values of one adapter by the names of `adapter_parameters`; a call for
    every rank."""
    own = adapter_parameters(model, name)
    return dict(zip(own, whole_values(own.values()), strict=True))


def load_adapter(model: PeftModel, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Take over the values of one adapter, by the names of `adapter_parameters`."""
    own = adapter_parameters(model, name)
    assert own.keys() == tensors.keys(), "an adapter of another shape"
    assign(list(own.values()), [tensors[key] for key in own])


def write_adapter(
    model: PeftModel, folder: Path, *, values: Mapping[str, Tensor] | None = None
) -> None:
    """Write the policy's adapter as a PEFT folder, whose files may be read by whom the umask lets;
    `values` stand in for the model's own, by the names of `named_parameters`."""
    given: dict[str, Any] = {} if values is None else {"state_dict": dict(values)}
    model.save_pretrained(
        str(folder), save_embedding_layers=False, selected_adapters=[POLICY], **given
    )
    # safetensors lets nobody but the owner read what it writes.
    shutil.copymode(folder / "adapter_config.json", folder / "adapter_model.safetensors")


@contextmanager
def running(model: PeftModel, name: str | None) -> Iterator[None]:
    """Let forward passes run through another adapter, or none, and then the policy's again.

    What is trainable stays as it is.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for layer in layers:
            if name is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter([name])
        _thaw(trainable)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            layer.set_adapter([POLICY])
        model.requires_grad_(False)
        _thaw(trainable)


def _thaw(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)
