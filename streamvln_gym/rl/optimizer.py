"""What happens around an optimizer's step: a learning rate per part, and a stop before NaN gets into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from streamvln_gym.errors import TrainingError


class ScaledRates:
    """Each group's share of the learning rate that stable-baselines3 sets for all, with any optimizer of torch.

    It is applied around each step, so that nothing of it gets into the optimizer's saved state.

    Args:
        optimizer: of the actor's and the value head's weights.
        scales: one for each of its groups; the first is the actor's.

    Attributes:
        scales: as given.
        actor_held: the actor's rate is 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scales: Sequence[float]) -> None:
        self.scales = tuple(scales)
        self.actor_held = False
        self._rates: list[float] = []
        optimizer.register_step_pre_hook(self._begin)
        optimizer.register_step_post_hook(self._end)

    def _begin(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Scales the rates.

        Raises:
            TrainingError: a gradient is NaN or infinite; no weight has changed then.
        """
        groups = optimizer.param_groups
        gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
        if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise TrainingError(
                "a gradient is NaN or infinite, so no weight was changed: look for NaN in rewards or advantages "
                "(streamvln_gym.rl.FiniteRollout finds them), or lower learning_rate or max_grad_norm"
            )
        self._rates = [group["lr"] for group in groups]
        for number, (group, scale) in enumerate(zip(groups, self.scales, strict=True)):
            group["lr"] *= 0.0 if self.actor_held and number == 0 else scale

    def _end(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
