"""Keys and values of the dialogues of a rollout, so that each decision feeds only what is new."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamvln_gym.models.batched_streaming import group_by_length
from streamvln_gym.models.slot_cache import SlotCache
from streamvln_gym.rl.embedding import Context, ContextEmbedder
from streamvln_gym.wrappers import PAD


@dataclass
class _Held:
    """What the cache's keys and values were computed from."""

    context: Context
    version: int
    positions: Tensor


class DialogueCache:
    """Feeds observations, and reuses what the same row's last observation has in common with the new one.

    Nothing but time depends on it: a row's past is used again only where all of its ids and frames are equal, and where
    no weight has changed since.

    Args:
        embedder: makes the embeddings.

    Attributes:
        fed: embeddings that went through the language model.
        reused: embeddings that did not have to.
    """

    def __init__(self, embedder: ContextEmbedder) -> None:
        self._embedder = embedder
        self._cache: SlotCache | None = None
        self._held: _Held | None = None
        self.fed = 0
        self.reused = 0

    def clear(self) -> None:
        """Forgets everything."""
        self._cache = self._held = None

    @torch.no_grad()
    def prefill(self, context: Context) -> Tensor:
        """Feeds dialogues up to the answers that are due.

        Args:
            context: the observations; row i is the same stream in every call.

        Returns:
            (batch, hidden) after each.
        """
        rows = len(context)
        version = sum(weight._version for weight in self._embedder.network.parameters())
        kept = self._kept(context, version)
        if self._cache is None or self._cache.slots != rows or self._cache.keys[0].device != context.dialogue.device:
            self._cache = SlotCache(self._embedder.network, rows, 256)
            kept = torch.zeros_like(kept)
        held, self._held = self._held, None  # an error must not leave what is half fed
        if held is None or not bool(kept.any()):
            held, positions = None, torch.zeros_like(kept)
        else:
            positions = torch.where(kept > 0, held.positions, 0)
        self._cache.lengths.copy_(positions)
        # Ids that are new, moved to the front.
        places = torch.arange(context.dialogue.shape[1], device=kept.device) + kept[:, None]
        last = context.dialogue.shape[1] - 1
        ids = context.dialogue.gather(1, places.clamp(max=last)).masked_fill(places > last, PAD)
        ids = ids[:, : int((context.lengths - kept).max())]
        window_shown = context.window_shown
        if held is not None:
            window_shown = window_shown & ~((kept > 0)[:, None] & held.context.window_shown)
        history_shown = context.history_shown & (kept == 0)[:, None]
        embeddings, counts = self._embedder.embed(ids, context, window_shown, history_shown)
        hidden = self._extend(embeddings, counts, positions)
        self.fed += int(counts.sum())
        self.reused += int(positions.sum())
        self._held = _Held(context.clone(), version, positions + counts)
        return hidden

    @torch.no_grad()
    def feed(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Feeds one more id to some rows; the next `prefill` takes them back.

        Args:
            ids: (n,) int64.
            rows: (n,) int64.

        Returns:
            (n, hidden).
        """
        assert self._cache is not None
        embeddings = self._embedder.network.get_input_embeddings()(ids)[:, None]
        return self._cache.extend(embeddings, None if len(rows) == self._cache.slots else rows)

    def _extend(self, embeddings: Tensor, counts: Tensor, positions: Tensor) -> Tensor:
        """One pass for rows of similar length; (batch, hidden)."""
        assert self._cache is not None
        numbers = counts.tolist()
        longest = int((positions + counts).max())
        hidden = embeddings.new_empty(len(numbers), embeddings.shape[-1])
        for group in group_by_length(numbers):
            most = max(numbers[row] for row in group)
            rows = torch.tensor(group, device=counts.device)
            slots = None if len(group) == self._cache.slots else rows
            hidden[rows] = self._cache.extend(embeddings[rows, :most], slots, counts[rows], longest)
        return hidden

    def _kept(self, context: Context, version: int) -> Tensor:
        """(batch,) ids at each dialogue's beginning that the cache holds already."""
        held = self._held
        now = context.dialogue
        if held is None or held.version != version:
            return torch.zeros_like(context.lengths)
        if (held.context.dialogue.shape, held.context.dialogue.device) != (now.shape, now.device):
            return torch.zeros_like(context.lengths)
        before = held.context.lengths
        return torch.where(held.context.begins(context) & (before < context.lengths), before, 0)
