"""The network on the frames and windows of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.training.online.batches import WindowRows
from streamvln_gym.training.online.layout import DialogueLayout


@dataclass(frozen=True)
class FrameTokens:
    """What windows show of a batch's frames.

    Attributes:
        current: (frames, tokens_per_frame, hidden), of frames that are decided at.
        kept: (frames, kept, hidden), from which the memory strategy selects.
    """

    current: Tensor
    kept: Tensor

    @classmethod
    def of(cls, model: StreamVLNForConditionalGeneration, layout: DialogueLayout, patches: Tensor) -> FrameTokens:
        """From projected patches (frames, patches, hidden), as `encode_patches` gives them."""
        pooled = model.pool(patches)
        return cls(pooled, layout.strategy.frame_tokens(patches, pooled))

    def memory(self, layout: DialogueLayout, frames: Tensor) -> Tensor:
        """Memories (rows, memory_tokens, hidden) of windows that show these frames, (rows, num_history)."""
        kept = self.kept.index_select(0, frames.flatten()).view(*frames.shape, *self.kept.shape[1:])
        return layout.strategy.select(kept, ())


def to_pixels(rgb: Tensor, dtype: torch.dtype) -> Tensor:
    """(frames, size, size, 3) uint8 to network inputs (frames, 3, size, size) in [-1, 1]."""
    return (rgb.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0).contiguous()


def compile_layers(model: StreamVLNForConditionalGeneration) -> None:
    """Compiles the layers of vision tower and language model with torch.compile, when they are first used."""
    for layer in (*model.vision_tower.encoder.layers, *model.language_model.layers):
        layer.compile(dynamic=True)


def answer_states(
    model: StreamVLNForConditionalGeneration, layout: DialogueLayout, rows: WindowRows, tokens: FrameTokens
) -> Tensor:
    """The states that each token of each answer is predicted from.

    Args:
        model: the network.
        layout: of its dialogue.
        rows: windows of one bucket.
        tokens: of the batch's frames.

    Returns:
        (rows, turns, chunk + 1, hidden).
    """
    ids, places = layout.build(rows.windows, rows.length)
    past, now = rows.frames.split([layout.num_history, layout.turns], dim=1)
    current = tokens.current.index_select(0, now.flatten()).view(len(now), -1, tokens.current.shape[-1])
    shown = torch.cat([tokens.memory(layout, past), current], 1) if layout.num_history else current
    begin = torch.arange(len(shown), device=shown.device)[:, None] * shown.shape[1]
    source = (begin + places.clamp(min=0)).flatten()
    width = shown.shape[-1]
    pictures = shown.flatten(0, 1).index_select(0, source).view(*places.shape, width)
    words = model.language_model.embed_tokens(ids).to(pictures.dtype)
    embeddings = torch.where((places >= 0)[..., None], pictures, words)
    # Rows are padded on the right, so causal attention needs no mask; given one, Qwen2 would look at its values.
    output = model.language_model(
        inputs_embeds=embeddings, attention_mask={"full_attention": None}, use_cache=False
    ).last_hidden_state
    at = layout.deciding_positions(rows.windows).clamp(max=rows.length - 1)
    flat = output.gather(1, at.flatten(1)[..., None].expand(-1, -1, width))
    return flat.view(*at.shape, width)
