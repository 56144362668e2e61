"""Observations of a batch as the language model's input embeddings, without a Python loop over tokens or rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor, nn

from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.memory_strategies import MemoryStrategy, memory_tokens
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.rl.layout import NO_FRAME, ContextLayout
from streamvln_gym.wrappers import PAD

# Frames of one vision-tower pass without gradients: bounds the space for activations.
TOWER_FRAMES = 256


@dataclass(frozen=True)
class Context:
    """A batch of observations as tensors.

    Attributes:
        dialogue: (batch, dialogue_ids) int64, `PAD` behind each dialogue's end.
        window: (batch, turns, *frame_shape).
        history: (batch, num_history, *frame_shape).
        window_steps: (batch, turns) int64, `NO_FRAME` where there is none.
        history_steps: (batch, num_history) int64.
    """

    dialogue: Tensor
    window: Tensor
    history: Tensor
    window_steps: Tensor
    history_steps: Tensor

    @classmethod
    def read(cls, observation: Mapping[str, Tensor], layout: ContextLayout) -> Context:
        """Unpacks arrays (batch, size) of the spaces of `layout`."""
        window = observation[layout.window_key].unflatten(1, (layout.turns, *layout.frame_shape))
        steps = observation["window_steps"].long()
        if layout.num_history:
            history = observation[layout.history_key].unflatten(1, (layout.num_history, *layout.frame_shape))
            history_steps = observation["history_steps"].long()
        else:
            history, history_steps = window[:, :0], steps[:, :0]
        return cls(observation["dialogue"].long(), window, history, steps, history_steps)

    def __len__(self) -> int:
        return len(self.dialogue)

    @property
    def lengths(self) -> Tensor:
        """(batch,) ids of each dialogue."""
        return (self.dialogue != PAD).sum(1)

    @property
    def window_shown(self) -> Tensor:
        """(batch, turns) bool, where there are frames."""
        return self.window_steps != NO_FRAME

    @property
    def history_shown(self) -> Tensor:
        """(batch, num_history) bool, where there are frames."""
        return self.history_steps != NO_FRAME

    def rows(self, index: Tensor) -> Context:
        """Some of the observations."""
        return Context(*(getattr(self, item.name)[index] for item in fields(self)))

    def clone(self) -> Context:
        """A copy: the arrays behind the tensors may be overwritten by the next step."""
        return Context(*(getattr(self, item.name).clone() for item in fields(self)))

    def begins(self, other: Context) -> Tensor:
        """(batch,) bool: row by row, `other` is the same window as this one or a later moment of it."""
        shown = self.window_shown
        same = ((self.dialogue == other.dialogue) | (self.dialogue == PAD)).all(1)
        same &= ((self.window_steps == other.window_steps) | ~shown).all(1)
        same &= (self.history_steps == other.history_steps).all(1)
        same &= (self.history == other.history).flatten(1).all(1)
        return same & ((self.window == other.window).flatten(2).all(2) | ~shown).all(1)


class ContextEmbedder(nn.Module):
    """Pictures (or pooled features) and ids to embeddings.

    Args:
        network: StreamVLN; kept as a plain reference, it belongs to the policy.
        strategy: what is kept of a history frame, and shown.
        layout: the observation's sizes.
    """

    def __init__(
        self, network: StreamVLNForConditionalGeneration, strategy: MemoryStrategy, layout: ContextLayout
    ) -> None:
        super().__init__()
        self._network = [network]
        self.strategy = strategy
        self.layout = layout
        levels = (torch.arange(256, dtype=torch.float64) / 255).float()
        self._levels: Tensor
        self.register_buffer("_levels", (levels - 0.5) / 0.5, persistent=False)

    @property
    def network(self) -> StreamVLNForConditionalGeneration:
        return self._network[0]

    @property
    def tokens_per_frame(self) -> int:
        """Embeddings of a window's frame."""
        return self.network.config.tokens_per_frame

    def embed(
        self, ids: Tensor, context: Context, window_shown: Tensor, history_shown: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of dialogues, or of the ends of them.

        Args:
            ids: (batch, longest) int64, right-padded with `PAD`; -200 for each frame, -300 for the memory.
            context: where the frames are taken from.
            window_shown: (batch, turns) bool, frames that the -200 of `ids` stand for.
            history_shown: (batch, num_history) bool, frames that the -300 of `ids` stand for.

        Returns:
            (batch, length, hidden), right-padded with anything, and (batch,) real embeddings of each row.

        Raises:
            ValueError: frames and ids do not fit.
        """
        images, memory, memory_lengths = self._encode(context, window_shown, history_shown)
        is_image, is_memory = ids == IMAGE_TOKEN_ID, ids == MEMORY_TOKEN_ID
        if not torch.equal(is_image.sum(1), window_shown.sum(1)) or not torch.equal(
            is_memory.any(1), history_shown.any(1)
        ):
            raise ValueError(
                "the observation's dialogue and its frames do not fit: pass what SlowFastObservation makes, unchanged"
            )
        counts = torch.where(is_image, self.tokens_per_frame, (ids != PAD).long())
        counts = torch.where(is_memory, memory_lengths[:, None], counts)
        lengths = counts.sum(1)
        flat = ids.flatten().repeat_interleave(counts.flatten())
        table = cast(nn.Embedding, self.network.get_input_embeddings())
        embedded = table(flat.clamp(min=0))
        for special, features in ((IMAGE_TOKEN_ID, images.flatten(0, 1)), (MEMORY_TOKEN_ID, memory)):
            if len(features):
                # Out of place: with frozen embeddings this may be a leaf, and features may carry gradients.
                embedded = embedded.masked_scatter((flat == special)[:, None], features.to(embedded))
        real = torch.arange(int(lengths.max()), device=ids.device) < lengths[:, None]
        padded = embedded.new_zeros(*real.shape, embedded.shape[-1])
        return padded.masked_scatter(real[:, :, None], embedded), lengths

    def _encode(self, context: Context, window_shown: Tensor, history_shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Window frames (frames, tokens_per_frame, hidden); memory tokens of all rows; their number for each row."""
        window, history = context.window[window_shown], context.history[history_shown]
        per_row = history_shown.sum(1)
        if self.layout.features:
            return window, history.flatten(0, 1), per_row * self.layout.frame_shape[0]
        patches, pooled = self._tower(torch.cat([window, history]))
        kept = self.strategy.frame_tokens(patches, pooled)[len(window) :]
        memories = memory_tokens(self.strategy, kept, per_row.tolist(), context.history_steps[history_shown].tolist())
        shown = [memory for memory in memories if memory is not None]
        lengths = torch.tensor([0 if memory is None else len(memory) for memory in memories], device=per_row.device)
        return pooled[: len(window)], torch.cat(shown) if shown else pooled.new_zeros(0, pooled.shape[-1]), lengths

    def _tower(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Patches and pooled tokens of (frames, side, side, 3) uint8."""
        network = self.network
        trained = any(weight.requires_grad for weight in vision_parameters(network))
        size = max(len(pictures), 1) if trained else TOWER_FRAMES
        parts = []
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            for part in pictures.split(size) or (pictures,):
                pixels = self._levels[part.int()].permute(0, 3, 1, 2).to(network.dtype)
                patches = network.encode_patches(pixels)
                parts.append((patches, network.pool(patches)))
        return torch.cat([patches for patches, _ in parts]), torch.cat([pooled for _, pooled in parts])


def vision_parameters(network: StreamVLNForConditionalGeneration) -> list[nn.Parameter]:
    """Weights that a frame's features depend on: vision tower and projector."""
    return [*network.vision_tower.parameters(), *network.projector.parameters()]
