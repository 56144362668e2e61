"""The beginning of a dialogue, prefilled before the dialogue is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration


class PreparedOpening:
    """What a dialogue is expected to open with, in a KV cache of its own.

    It is only a guess: `opens` compares it with the real turn by value, so a wrong one costs time and nothing else.

    Args:
        model: the network, in eval mode.
        embeddings: (1, length, hidden) that the dialogue is expected to open with.

    Attributes:
        embeddings: the same.
        cache: their keys and values.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, embeddings: Tensor) -> None:
        self.embeddings = embeddings
        self.cache = model.new_cache()
        model.extend(embeddings, self.cache)

    def __len__(self) -> int:
        return self.embeddings.shape[1]

    def opens(self, turn: Tensor) -> bool:
        """Whether `turn` (1, length, hidden) begins with just these embeddings and goes on after them."""
        return turn.shape[1] > len(self) and torch.equal(turn[:, : len(self)], self.embeddings)
