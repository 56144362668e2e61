"""A KV cache for one dialogue that grows in place: a further token writes its own keys and values, and copies none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.configuration_utils import PretrainedConfig

# Positions that a full buffer is enlarged by. A window of the small network takes about 400.
GROWTH = 256


def growing_cache(config: PretrainedConfig) -> Cache:
    """An empty cache for a language model; layers with sliding attention, which drop what is old, stay transformers'.

    Autograd does not see what is written into it.

    Args:
        config: of the language model.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class GrowingLayer(DynamicLayer):
    """transformers' `DynamicLayer` without its copy of the whole past at every update.

    Attributes:
        keys: (batch, kv_heads, positions, head_dim), a view into a buffer that has space for more.
        values: as `keys`.
    """

    _buffers: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values (batch, kv_heads, length, head_dim); returns all of them."""
        held = self.get_seq_length()
        length = held + key_states.shape[2]
        # Who reorders or repeats rows replaces the views.
        old = self.keys if held else None
        replaced = self._buffers is not None and old is not None and old.data_ptr() != self._buffers[0].data_ptr()
        if self._buffers is None or replaced or length > self._buffers[0].shape[2]:
            given = (self.keys, key_states), (self.values, value_states)
            keys, values = (self._enlarged(old, new, held, length) for old, new in given)
            self._buffers = keys, values
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        keys, values = self._buffers
        keys[:, :, held:length] = key_states
        values[:, :, held:length] = value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values

    @staticmethod
    def _enlarged(old: Tensor | None, new: Tensor, held: int, length: int) -> Tensor:
        batch, heads, _, head_dim = new.shape
        with torch.inference_mode(False):  # so that the cache can be gone on with inside inference mode and outside
            buffer = new.new_empty((batch, heads, -(-length // GROWTH) * GROWTH, head_dim))
        if held and old is not None:
            buffer[:, :, :held] = old
        return buffer
