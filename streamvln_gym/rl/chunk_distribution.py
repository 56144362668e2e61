"""Probabilities of chunks: four choices at a time, each after those before it, up to and with STOP."""

from __future__ import annotations

import torch
from torch import Tensor

STOP = 0
# Ties fall as in the agent's grammar: moves first, then STOP.
_ORDER = (1, 2, 3, 0)


def alive_before(actions: Tensor) -> Tensor:
    """(batch, chunk) bool: no STOP before this action, so that it counts.

    Args:
        actions: (batch, chunk) int64.
    """
    stopped = (actions == STOP).long().cumsum(1) - (actions == STOP).long()
    return stopped == 0


def penalise(scores: Tensor, chosen: Tensor, penalty: float) -> Tensor:
    """transformers' repetition penalty, which sees the answer's own tokens.

    Args:
        scores: (..., 4) logits of the action tokens.
        chosen: (..., 4) bool, actions that the answer has already.
        penalty: 1 changes nothing.
    """
    if penalty == 1.0:
        return scores
    return torch.where(chosen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def chosen_before(actions: Tensor) -> Tensor:
    """(batch, chunk, 4) bool: which actions stand before each place of a chunk."""
    once = torch.nn.functional.one_hot(actions, 4)
    return (once.cumsum(1) - once) > 0


def choose(scores: Tensor, deterministic: bool) -> Tensor:
    """The best action, or one drawn from the softmax; (batch, 4) -> (batch,)."""
    if deterministic:
        order = torch.tensor(_ORDER, device=scores.device)
        return order[scores[:, order].argmax(1)]
    return torch.multinomial(scores.softmax(1), 1)[:, 0]


def chunk_log_probs(scores: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of chunks.

    The entropy is the sum of the conditional entropies along the chunk, an unbiased estimate of the chunk's entropy
    where the chunk was drawn from the policy; the exact one would need all 4 ** chunk continuations.

    Args:
        scores: (batch, chunk, 4) logits of the action tokens, each after the actions before it.
        actions: (batch, chunk) int64.

    Returns:
        (batch,) each; what follows a STOP counts for nothing.
    """
    log_probs = scores.log_softmax(-1)
    counted = alive_before(actions)
    taken = log_probs.gather(-1, actions[..., None])[..., 0]
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return (taken * counted).sum(1), (entropy * counted).sum(1)
