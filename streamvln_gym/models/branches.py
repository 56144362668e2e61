"""Looking one token ahead: all tokens that may be chosen next go through the network with what comes before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.cache_utils import Cache

    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration

# flash_attention_2 and flex_attention take no mask of one's own.
ATTENTIONS = ("sdpa", "eager")


class Branches:
    """Tokens of which at most one will be chosen, each in the cache as if it came next.

    They are the last positions of the cache until `settle`.

    Args:
        ids: of the tokens.
        hidden: (tokens, hidden) output after each.
    """

    def __init__(self, ids: Sequence[int], hidden: Tensor) -> None:
        self.ids = list(ids)
        self.hidden = hidden

    def settle(self, cache: Cache, chosen: int | None) -> Tensor | None:
        """Leaves the chosen token in the cache, and none of the others.

        Returns:
            (1, hidden) output after it; None where it is not among the branches, so that none is left.
        """
        place = self.ids.index(chosen) if chosen in self.ids else None
        if place:  # the first one already lies where it belongs
            layers: list[Any] = list(cache.layers)
            for layer in layers:
                for part in (layer.keys, layer.values):
                    part[:, :, -len(self.ids)] = part[:, :, place - len(self.ids)]
        surplus = len(self.ids) - (place is not None)
        if surplus:
            cache.crop(-surplus)
        return None if place is None else self.hidden[place : place + 1]


def can_branch(model: StreamVLNForConditionalGeneration) -> bool:
    """Whether the language model's attention can keep branches apart."""
    config = model.language_model.config
    return config._attn_implementation in ATTENTIONS and set(config.layer_types or ()) == {"full_attention"}


def branch_positions(past: int, length: int, branches: int, device: torch.device) -> Tensor:
    """(1, length) positions of embeddings whose last `branches` all come next after the ones before."""
    return past + torch.arange(length, device=device).clamp(max=length - branches)[None]


def branch_mask(past: int, length: int, branches: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to attention scores: (1, 1, length, past + length), causal, and no branch sees another."""
    hidden = torch.ones(length, past + length, dtype=torch.bool, device=device).triu(past + 1)
    hidden[-branches:, -branches:] = ~torch.eye(branches, dtype=torch.bool, device=device)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]
