"""The network on the frames and windows of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.training.online.batches import WindowRows
from streamvln_gym.training.online.layout import DialogueLayout


def to_pixels(rgb: Tensor, dtype: torch.dtype) -> Tensor:
    """(frames, size, size, 3) uint8 to network inputs (frames, 3, size, size) in [-1, 1]."""
    return (rgb.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0).contiguous()


def compile_layers(model: StreamVLNForConditionalGeneration) -> None:
    """Compiles the layers of vision tower and language model with torch.compile, when they are first used."""
    for layer in (*model.vision_tower.encoder.layers, *model.language_model.layers):
        layer.compile(dynamic=True)


def answer_states(
    model: StreamVLNForConditionalGeneration, layout: DialogueLayout, rows: WindowRows, tokens: Tensor
) -> Tensor:
    """The states that each token of each answer is predicted from.

    Args:
        model: the network.
        layout: of its dialogue.
        rows: windows of one bucket.
        tokens: (frames, tokens, hidden) of the batch's frames.

    Returns:
        (rows, turns, chunk + 1, hidden).
    """
    tk, width = tokens.shape[1:]
    ids, places = layout.build(rows.windows, rows.length)
    frame = rows.frames.gather(1, (places.clamp(min=0) // tk))
    source = (frame * tk + places.clamp(min=0) % tk).flatten()
    pictures = tokens.flatten(0, 1).index_select(0, source).view(*places.shape, width)
    words = model.language_model.embed_tokens(ids).to(pictures.dtype)
    embeddings = torch.where((places >= 0)[..., None], pictures, words)
    # Rows are padded on the right, so causal attention needs no mask; given one, Qwen2 would look at its values.
    output = model.language_model(
        inputs_embeds=embeddings, attention_mask={"full_attention": None}, use_cache=False
    ).last_hidden_state
    at = layout.deciding_positions(rows.windows).clamp(max=rows.length - 1)
    flat = output.gather(1, at.flatten(1)[..., None].expand(-1, -1, width))
    return flat.view(*at.shape, width)
