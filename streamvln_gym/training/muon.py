"""Muon: momentum whose matrices are made orthogonal before they are stepped along."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic that drives singular values to about 1 (Jordan et al. 2024)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """The update of `torch.optim.Muon` (Nesterov, `adjust_lr_fn="match_rms_adamw"`), all matrices of a shape at once.

    A small network has eighty matrices; one at a time they cost a GPU thousands of launches an update.

    Args:
        params: matrices.
        lr: learning rate; updates have the size of AdamW's, so that both can share one.
        momentum: of the running mean of gradients.
        weight_decay: decoupled, per update and learning rate.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon is for matrices, got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in by_shape.items():
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                values: list[Tensor] = list(parameters)
                means = [self._mean(parameter) for parameter in parameters]
                torch._foreach_lerp_(means, gradients, 1.0 - group["momentum"])
                directions = torch.stack(list(torch._foreach_lerp(gradients, means, group["momentum"])))
                steps = orthogonalise(directions) * (0.2 * max(shape) ** 0.5)
                torch._foreach_mul_(values, 1.0 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(values, list(steps.to(values[0].dtype).unbind(0)), alpha=-group["lr"])

    def _mean(self, parameter: Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        return state["mean"]


def orthogonalise(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to `matrices` (..., rows, columns), roughly: singular values are 0.7 to 1.2."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    # Half precision is enough, but eight times as slow where a CPU has no arithmetic for it.
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x if wide else x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
