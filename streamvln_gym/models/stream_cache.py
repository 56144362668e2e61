"""Keys and values of many streams in one piece of memory that is allocated once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration


class StreamCache:
    """Slots of `max_length` positions each, one per stream; a new dialogue takes its slot over as it is.

        cache = StreamCache(model, slots=64, max_length=4096)
        cache.restart([3, 17])  # new dialogues
        keys = cache.keys(layer)  # of slot s: keys[s * max_length : s * max_length + cache.held[s]]

    What lies beyond a stream's length means nothing and is never read: an answer may write there what it then drops.
    One position after the last slot takes what is written for padding.

    Args:
        model: the network, on one device.
        slots: streams.
        max_length: positions per stream.

    Attributes:
        memory: (layers, 2, slots * max_length + 1, kv_heads, head_dim), keys and values.
        lengths: (slots + 1,) int64 on the device, positions that each stream holds; the last one stays 0.
        held: per slot the same number, known without asking the device.

    Raises:
        ValueError: the network has sliding attention or is spread over devices, or a size is below 1.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, slots: int, max_length: int) -> None:
        if slots < 1 or max_length < 1:
            raise ValueError(f"slots and max_length must be at least 1, got {slots} and {max_length}")
        config = model.language_model.config
        if set(config.layer_types or ()) != {"full_attention"}:
            raise ValueError("StreamCache serves full attention only: configure Qwen2 with use_sliding_window=False")
        if len(devices := {weight.device for weight in model.language_model.parameters()}) > 1:
            raise ValueError(
                f"StreamCache serves a network on one device, but this one is spread over {len(devices)}: load it "
                "without device_map"
            )
        self.slots = slots
        self.max_length = max_length
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or config.num_attention_heads)
        self._layers = int(config.num_hidden_layers)
        self._dtype, self._device = model.dtype, model.device
        self.held = [0] * slots
        with torch.inference_mode(False):
            self.lengths = torch.zeros(slots + 1, dtype=torch.long, device=self._device)
            self.memory = self._allocate()

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return self.memory.nbytes

    @property
    def bytes_per_stream(self) -> int:
        """Bytes of one slot."""
        return self.nbytes * self.max_length // (self.slots * self.max_length + 1)

    def keys(self, layer: int) -> Tensor:
        """(slots * max_length + 1, kv_heads, head_dim), the slots one after another."""
        return self.memory[layer, 0]

    def values(self, layer: int) -> Tensor:
        """As `keys`."""
        return self.memory[layer, 1]

    @torch.no_grad()
    def restart(self, slots: list[int]) -> None:
        """Starts streams anew."""
        for slot in slots:
            self.held[slot] = 0
        if slots:
            self.lengths.index_fill_(0, torch.tensor(slots, device=self._device), 0)

    @torch.no_grad()
    def grow(self, max_length: int) -> None:
        """Makes space for `max_length` positions per stream; what is there stays. A smaller number does nothing.

        `memory` is another tensor afterwards, and for a moment there are both.
        """
        if max_length <= self.max_length:
            return
        old, before = self.memory, self.max_length
        self.max_length = max_length
        with torch.inference_mode(False):
            self.memory = self._allocate()
        for slot, held in enumerate(self.held):
            self.memory[:, :, slot * max_length : slot * max_length + held] = old[
                :, :, slot * before : slot * before + held
            ]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copies positions, as indices into the third dimension of `memory`, in all layers at once.

        Args:
            sources: (n,) int64.
            targets: (n,) int64, different from each other; they may be among the sources.
        """
        self.memory.index_copy_(2, targets, self.memory.index_select(2, sources))

    def _allocate(self) -> Tensor:
        # Zeros, not empty: a masked position has weight 0, and 0 times an accidental NaN would be NaN.
        shape = (self._layers, 2, self.slots * self.max_length + 1, self.kv_heads, self.head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)
