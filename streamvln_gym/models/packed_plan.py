"""Rows of different lengths in one pass without padding: which embedding belongs where, and sees what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.models.look_ahead import MoveTree

# Embeddings that a recorded pass may be longer than what it was asked for.
TOKEN_STEP = 32
# Embeddings up to which passes are recorded; longer ones keep the device busy while the next is launched.
RECORDED_TOKENS = 1024
# Parts of a plan begin at multiples of so many numbers: kernels are compiled anew for pointers of other alignment.
_ALIGNMENT = 16


class PackedPlan(NamedTuple):
    """Where the embeddings of a pass belong: each row's known ones, then its tree, then the next row.

    int64 tensors, but for the last two numbers. "past" is what the row's stream holds before the pass; the device
    alone knows it.

    Attributes:
        row: (tokens,) which row an embedding is of; rows for padding.
        position: (tokens,) its position less past.
        place: (tokens,) where in its slot its keys and values go, less past.
        sees: (tokens,) how many positions of the slot it sees all of, less past.
        bits: (tokens,) which nodes of its row's tree it sees besides.
        slots: (rows + 1,) slot of each row; the last is that of padding.
        start: (rows,) first embedding.
        known: (rows,) embeddings before the tree.
        total: (rows,) embeddings.
        kept: (rows * (1 + nodes),) embeddings whose output is wanted: the last known one of each row and its tree.
        tile_row: (tiles,) which row a part of the attention's work is of; -1: none.
        tile_block: (tiles,) which part of that row.
        tile: queries of a part; an embedding has as many queries as query heads share one key head.
    """

    row: Tensor
    position: Tensor
    place: Tensor
    sees: Tensor
    bits: Tensor
    slots: Tensor
    start: Tensor
    known: Tensor
    total: Tensor
    kept: Tensor
    tile_row: Tensor
    tile_block: Tensor
    tile: int


@dataclass(frozen=True)
class PackedArrays:
    """A `PackedPlan` on its way to the device: its parts one after another, aligned, in a single array.

    Attributes:
        numbers: (total,) int64.
        sizes: of the parts, in the order of the plan's fields.
        tile: see `PackedPlan`.
    """

    numbers: NDArray[np.int64]
    sizes: tuple[int, ...]
    tile: int

    @property
    def key(self) -> tuple[int, ...]:
        """What passes of one shape have in common."""
        return (*self.sizes, self.tile)

    def plan(self, numbers: Tensor) -> PackedPlan:
        """The plan as views of `numbers`, a tensor with the same content."""
        spaces = numbers.split([_aligned(size) for size in self.sizes])
        parts = [space[:size] for space, size in zip(spaces, self.sizes, strict=True)]
        return PackedPlan._make([*parts, self.tile])


def pack_rows(
    counts: Sequence[int],
    slots: Sequence[int],
    no_slot: int,
    tree: MoveTree,
    group: int,
    recorded: bool,
    most: int = 128,
) -> PackedArrays:
    """Lays rows out one after another.

    Args:
        counts: (rows,) known embeddings of each row, at least 1.
        slots: (rows,) slot of each.
        no_slot: the slot that padding belongs to.
        tree: behind each row.
        group: query heads that share one key head.
        recorded: round the number of embeddings up, so that few shapes come up.
        most: queries of a part of the attention's work, at most.
    """
    known = np.asarray(counts, np.int64)
    rows, nodes = len(known), tree.nodes
    total = known + nodes
    start = np.concatenate([[0], total.cumsum()[:-1]])
    tokens = int(total.sum())
    padded = -(-tokens // TOKEN_STEP) * TOKEN_STEP if recorded else tokens
    row = np.full(padded, rows, np.int64)
    row[:tokens] = np.repeat(np.arange(rows), total)
    place = np.zeros(padded, np.int64)
    place[:tokens] = np.arange(tokens) - np.repeat(start, total)
    position, sees, bits = place.copy(), place + 1, np.zeros(padded, np.int64)
    leaves = (start + known)[:, None] + np.arange(nodes)
    if nodes:
        position[leaves] = (known - 1)[:, None] + np.array(tree.levels())
        sees[leaves] = known[:, None]
        bits[leaves] = np.array(tree.ancestors())
    kept = np.concatenate([(start + known - 1)[:, None], leaves], 1)
    tile = min(_tile(int(total.max()) * group, tokens * group), most)
    blocks = -(-total * group // tile)
    tiles = -(-padded * group // tile) + rows if recorded else int(blocks.sum())
    tile_row, tile_block = np.full(tiles, -1, np.int64), np.zeros(tiles, np.int64)
    tile_row[: blocks.sum()] = np.repeat(np.arange(rows), blocks)
    tile_block[: blocks.sum()] = np.concatenate([np.arange(count) for count in blocks])
    parts = [row, position, place, sees, bits, np.array([*slots, no_slot]), start, known, total, kept.ravel()]
    parts += [tile_row, tile_block]
    numbers = np.concatenate([np.pad(part, (0, _aligned(len(part)) - len(part))) for part in parts])
    return PackedArrays(numbers, tuple(map(len, parts)), tile)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _tile(longest: int, queries: int) -> int:
    """Queries of one part: small where rows are short, or where large parts would leave the device idle."""
    if longest <= 32:
        return 32
    return 64 if queries <= 2048 or longest <= 64 else 128


def send(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copies an array to the device without waiting for it."""
    tensor = torch.from_numpy(numbers)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
