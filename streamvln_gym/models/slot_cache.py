"""A KV cache with one row per stream, so that dialogues of different lengths go through the network together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamvln_gym.models.branches import ATTENTIONS
from streamvln_gym.models.modeling_streamvln import CACHE_ARGUMENT

if TYPE_CHECKING:
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration

# Attention kernels want rows of keys, and of masks, that are aligned.
ALIGNMENT = 16


class SlotCache:
    """KV cache with one row ("slot") per stream; the streams differ in length.

        cache = SlotCache(model, slots=64, max_length=512)
        hidden = cache.extend(embeddings, slots, counts)  # a turn for some of the streams
        hidden = cache.extend(token_embeddings, slots)  # one token more for each of them
        cache.restart(torch.tensor([3, 17]))  # new dialogues

    Nothing here waits for the device, as long as `extend` is told `longest`. Autograd does not see the network's work.

    Args:
        model: the network, in eval mode on one device.
        slots: streams.
        max_length: positions per stream to begin with; `extend` enlarges the cache where that is too little.
        dtype: of keys and values; None means the model's.
        device: None means the model's.

    Attributes:
        lengths: (slots,) int64, positions that each stream holds.
        max_length: positions per stream that there is space for.
        keys: per layer (slots, kv_heads, max_length + 1, head_dim). The last position takes what is padding.
        values: as `keys`.

    Raises:
        ValueError: the network has sliding attention or is spread over devices, or a size is below 1.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        slots: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if slots < 1 or max_length < 1:
            raise ValueError(f"slots and max_length must be at least 1, got {slots} and {max_length}")
        config = model.language_model.config
        if set(config.layer_types or ()) != {"full_attention"}:
            raise ValueError("SlotCache serves full attention only: configure Qwen2 with use_sliding_window=False")
        if len(devices := {weight.device for weight in model.language_model.parameters()}) > 1:
            raise ValueError(
                f"SlotCache serves a network on one device, but this one is spread over {len(devices)}: load it "
                "without device_map"
            )
        self.model = model
        self.slots = slots
        self.max_length = _aligned(max_length)
        self._dtype = dtype or model.dtype
        self._device = torch.device(device) if device is not None else model.device
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._layers, self._head_dim = config.num_hidden_layers, int(head_dim)
        self._heads = int(config.num_key_value_heads or config.num_attention_heads)
        with torch.inference_mode(False):
            self.lengths = torch.zeros(slots, dtype=torch.long, device=self._device)
            self._all = torch.arange(slots, device=self._device)
            self.keys, self.values = self._buffers(), self._buffers()

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(part.nbytes for part in (*self.keys, *self.values))

    @torch.no_grad()
    def restart(self, slots: Tensor | None = None) -> None:
        """Starts rows anew.

        Args:
            slots: (n,) int64 rows, or (slots,) bool; None means all.
        """
        if slots is None:
            self.lengths.zero_()
        elif slots.dtype == torch.bool:
            self.lengths.masked_fill_(slots, 0)
        else:
            self.lengths.index_fill_(0, slots, 0)

    @torch.no_grad()
    def grow(self, max_length: int) -> None:
        """Makes space for `max_length` positions per stream; what is there stays. A smaller number does nothing."""
        if max_length <= self.max_length:
            return
        held = self.max_length
        self.max_length = _aligned(max_length)
        for parts in (self.keys, self.values):
            for layer in range(self._layers):  # one at a time: the old and the new cache need not fit together
                with torch.inference_mode(False):
                    larger = self._buffer()
                larger[:, :, :held] = parts[layer][:, :, :held]
                parts[layer] = larger

    @torch.no_grad()
    def extend(
        self,
        embeddings: Tensor,
        slots: Tensor | None = None,
        counts: Tensor | None = None,
        longest: int | None = None,
    ) -> Tensor:
        """Appends embeddings to rows of the cache; each sees its own row's past and nothing else.

        Args:
            embeddings: (rows, length, hidden), right-padded.
            slots: (rows,) int64, the row of the cache that each belongs to, each at most once; None: all in order.
            counts: (rows,) int64, real embeddings of each row; None means all `length`. A row with none stays as it
                is, and its output means nothing.
            longest: no row is longer than that afterwards (an upper bound: attention covers so many positions). None
                asks the device, and waits for it.

        Returns:
            (rows, hidden), the language model's output after each row's last real embedding.

        Raises:
            ValueError: the shapes do not fit, or (on a CPU only, where looking costs nothing) `longest` is too small.
        """
        rows, length = embeddings.shape[:2]
        self._check(rows, slots, counts)
        before = self.lengths.clone() if slots is None else self.lengths[slots]
        after = before + (length if counts is None else counts)
        if longest is None:
            longest = int(after.max())
        elif self._device.type == "cpu" and int(after.max()) > longest:
            raise ValueError(f"a row grows to {int(after.max())} positions, but longest is {longest}")
        if longest > self.max_length:
            self.grow(max(longest, self.max_length * 3 // 2))
        steps = torch.arange(length, device=self._device)
        positions = before[:, None] + steps
        written = positions
        if counts is not None:
            written = torch.where(steps < counts[:, None], positions, self.max_length)
        shown = _aligned(longest)
        hidden = torch.arange(shown, device=self._device) > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=embeddings.dtype, device=self._device)
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        output = self.model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask={"full_attention": mask[:, None]},
            use_cache=True,
            **{CACHE_ARGUMENT: _Rows(self, slots, written, shown)},
        ).last_hidden_state
        if slots is None:
            self.lengths.copy_(after)
        else:
            self.lengths.index_copy_(0, slots, after)
        if counts is None:
            return output[:, -1]
        last = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, output.shape[-1])
        return output.gather(1, last)[:, 0]

    def write(
        self, layer: int, slots: Tensor | None, positions: Tensor, keys: Tensor, values: Tensor, shown: int
    ) -> tuple[Tensor, Tensor]:
        """Stores new keys and values of a layer; what its attention is shown.

        Args:
            layer: index of the layer.
            slots: (rows,) or None for all.
            positions: (rows, length) where each goes.
            keys: (rows, kv_heads, length, head_dim).
            values: as `keys`.
            shown: positions to show.

        Returns:
            Keys and values (rows, kv_heads, shown, head_dim): views where `slots` is None.
        """
        rows = self._all if slots is None else slots
        shown_parts = []
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            buffer[rows[:, None], :, positions] = new.transpose(1, 2).to(buffer.dtype)
            part = buffer[:, :, :shown]
            shown_parts.append((part if slots is None else part.index_select(0, slots)).to(new.dtype))
        return shown_parts[0], shown_parts[1]

    def _check(self, rows: int, slots: Tensor | None, counts: Tensor | None) -> None:
        if rows != (self.slots if slots is None else len(slots)) or (counts is not None and len(counts) != rows):
            raise ValueError(
                f"embeddings has {rows} rows, but there are {self.slots if slots is None else len(slots)} slots"
                + (f" and {len(counts)} counts" if counts is not None else "")
            )
        attention = self.model.language_model.config._attn_implementation
        if attention not in ATTENTIONS:
            raise ValueError(
                f"streams cannot be batched with attn_implementation={attention!r}: use {' or '.join(ATTENTIONS)}"
            )
        self.model.check_cache()

    def _buffers(self) -> list[Tensor]:
        return [self._buffer() for _ in range(self._layers)]

    def _buffer(self) -> Tensor:
        # Zeros, not empty: a masked position has weight 0, and 0 times an accidental NaN would be NaN.
        shape = (self.slots, self._heads, self.max_length + 1, self._head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)


class _Rows:
    """What Qwen2 takes for its cache during one pass: chosen rows of a `SlotCache`."""

    def __init__(self, cache: SlotCache, slots: Tensor | None, positions: Tensor, shown: int) -> None:
        self._cache = cache
        self._slots = slots
        self._positions = positions
        self._shown = shown

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._cache.write(layer_idx, self._slots, self._positions, keys, values, self._shown)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Never counts: positions are always given."""
        return 0


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
