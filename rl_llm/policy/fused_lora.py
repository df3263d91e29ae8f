"""LoRA on a frozen linear layer with as few passes over memory as it needs.

PEFT's own layer scales and adds its update in passes of their own, forward and backward, which cost
about as much as the small matrices themselves. Legend: N positions, I inputs, O outputs, R rank.
"""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def use_fused_layers(config: LoraConfig) -> None:
    """Make PEFT put `FusedLoraLinear` where it would put its own layer on a `nn.Linear`."""
    config._register_custom_module({nn.Linear: FusedLoraLinear})


class FusedLoraLinear(Linear):
    """PEFT's LoRA layer; its parameters, saving and switching are PEFT's own.

    Plain LoRA on a frozen layer of the same dtype runs fused; everything else runs as PEFT has it.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return base(x) + scaling * B A x."""
        adapters = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or len(adapters) != 1 or not self._is_plain(adapters[0], x):
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        (name,) = adapters
        base = self.get_base_layer()
        down_RI, up_OR = self.lora_A[name].weight, self.lora_B[name].weight
        fused: Tensor = _FusedLora.apply(  # type: ignore[no-untyped-call] # torch is partly typed
            x, base.weight, base.bias, down_RI, up_OR, self.scaling[name]
        )
        return fused

    def _is_plain(self, name: str, x: Tensor) -> bool:
        base = self.get_base_layer()
        return (
            not (self.disable_adapters or self.merged)
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], nn.Identity)
            and self.lora_B[name].bias is None
            and not base.weight.requires_grad
            and base.weight.dtype == self.lora_A[name].weight.dtype == x.dtype
        )


class _FusedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scaling: float,
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = (x_NI @ down_RI.T).mul_(scaling)
        # Made here and filled through a view: what autograd hands out must not be a view itself,
        # or models that change it in place are refused.
        output = x.new_empty((*x.shape[:-1], weight_OI.shape[0]))
        output_NO = output.view(-1, weight_OI.shape[0])
        if bias_O is None:
            torch.mm(x_NI, weight_OI.T, out=output_NO)
        else:
            torch.addmm(bias_O, x_NI, weight_OI.T, out=output_NO)
        output_NO.addmm_(low_NR, up_OR.T)
        ctx.save_for_backward(x_NI, weight_OI, down_RI, up_OR, low_NR)
        ctx.scaling = scaling
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, down_RI, up_OR, low_NR = ctx.saved_tensors
        gradient_NO = gradient.reshape(-1, gradient.shape[-1])
        low_gradient_NR = (gradient_NO @ up_OR).mul_(ctx.scaling)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (gradient_NO @ weight_OI).addmm_(low_gradient_NR, down_RI)
            x_gradient = x_gradient.view(*gradient.shape[:-1], -1)
        down_gradient_RI = low_gradient_NR.T @ x_NI
        up_gradient_OR = gradient_NO.T @ low_NR
        return x_gradient, None, None, down_gradient_RI, up_gradient_OR, None
