"""AdamW with a learning rate per part, which stops before NaN gets into the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from streamvln_gym.errors import TrainingError


class FiniteAdamW(torch.optim.AdamW):
    """AdamW whose groups may have an `lr_scale`: their share of the learning rate that stable-baselines3 sets for all.

    Raises:
        TrainingError: (`step`) a gradient is NaN or infinite; no weight has changed then.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update."""
        gradients = [
            weight.grad for group in self.param_groups for weight in group["params"] if weight.grad is not None
        ]
        if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise TrainingError(
                "a gradient is NaN or infinite, so no weight was changed: look for NaN in rewards or advantages "
                "(streamvln_gym.rl.FiniteRollout finds them), or lower learning_rate or max_grad_norm"
            )
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
