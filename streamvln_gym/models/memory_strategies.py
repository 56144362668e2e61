"""Slow-memory strategies: what is kept of a past frame, and which tokens the language model is shown of it.

Agent and training use the same objects: `frame_tokens` once for every encoded frame, `select` wherever a window opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.models.voxel_pruning import VoxelPruning

if TYPE_CHECKING:
    from streamvln_gym.models.configuration_streamvln import StreamVLNConfig


class MemoryStrategy(Protocol):
    """How past frames become memory.

    Attributes:
        shows_memory: False where there is none at all: no memory sentence, no history frames.
        needs_geometry: whether `select` wants `points`.
    """

    shows_memory: bool
    needs_geometry: bool

    def frame_tokens(self, patches: Tensor, pooled: Tensor) -> Tensor:
        """What is kept of frames when they are encoded.

        Args:
            patches: (frames, patches, hidden) before pooling.
            pooled: (frames, tokens_per_frame, hidden).

        Returns:
            (frames, kept, hidden).
        """
        ...

    def select(self, kept: Tensor, steps: Sequence[int], points: NDArray | None = None) -> Tensor:
        """The tokens that a window shows.

        Args:
            kept: (..., frames, kept, hidden) of `frame_tokens`, the history frames in time order; of several windows
                at once only without geometry.
            steps: (frames,) environment steps.
            points: (frames, tokens_per_frame, 3) metres, see `voxel_pruning.patch_points`; only for geometry.

        Returns:
            (..., memory_tokens, hidden).
        """
        ...

    def most_tokens(self, frames: int, patches: int, tokens: int) -> int:
        """The most embeddings that so many history frames take.

        Args:
            frames: history frames.
            patches: of a frame before pooling.
            tokens: of a frame after pooling.
        """
        ...


class NoMemory:
    """The window is all there is."""

    shows_memory = False
    needs_geometry = False

    def frame_tokens(self, patches: Tensor, pooled: Tensor) -> Tensor:
        return pooled[:, :0]

    def select(self, kept: Tensor, steps: Sequence[int], points: NDArray | None = None) -> Tensor:
        return kept[..., :0, :].flatten(-3, -2)

    def most_tokens(self, frames: int, patches: int, tokens: int) -> int:
        return 0


class PooledMemory:
    """StreamVLN's: every history frame as its pooled tokens."""

    shows_memory = True
    needs_geometry = False

    def frame_tokens(self, patches: Tensor, pooled: Tensor) -> Tensor:
        return pooled

    def select(self, kept: Tensor, steps: Sequence[int], points: NDArray | None = None) -> Tensor:
        return kept.flatten(-3, -2)

    def most_tokens(self, frames: int, patches: int, tokens: int) -> int:
        return frames * tokens


class FullMemory(PooledMemory):
    """Every history frame as all of its patches."""

    def frame_tokens(self, patches: Tensor, pooled: Tensor) -> Tensor:
        return patches

    def most_tokens(self, frames: int, patches: int, tokens: int) -> int:
        return frames * patches


class TemporalPoolMemory(FullMemory):
    """Consecutive pairs of history frames, averaged patch by patch; an odd last frame stays as it is."""

    def select(self, kept: Tensor, steps: Sequence[int], points: NDArray | None = None) -> Tensor:
        paired = kept.shape[-3] // 2 * 2
        pairs = (kept[..., :paired:2, :, :] + kept[..., 1:paired:2, :, :]) / 2
        return torch.cat([pairs, kept[..., paired:, :, :]], -3).flatten(-3, -2)

    def most_tokens(self, frames: int, patches: int, tokens: int) -> int:
        return -(-frames // 2) * patches


class VoxelMemory(PooledMemory):
    """Pooled tokens without those whose place a later frame of the same period shows again.

    Args:
        pruning: how much is pruned.
    """

    needs_geometry = True

    def __init__(self, pruning: VoxelPruning) -> None:
        self.pruning = pruning

    def select(self, kept: Tensor, steps: Sequence[int], points: NDArray | None = None) -> Tensor:
        if points is None:
            raise ValueError("the memory strategy 'voxel' needs points: the patches of each history frame in 3D")
        if points.shape != (*kept.shape[:2], 3):
            raise ValueError(f"points must have shape {(*kept.shape[:2], 3)}, got {points.shape}")
        mask = self.pruning.keep(points, np.asarray(steps))
        return kept[torch.from_numpy(mask).to(kept.device)]


STRATEGIES: dict[str, type[MemoryStrategy]] = {
    "none": NoMemory,
    "pooled": PooledMemory,
    "full": FullMemory,
    "temporal_pool": TemporalPoolMemory,
    "voxel": VoxelMemory,
}


def make_strategy(name: str, pruning: VoxelPruning | None = None) -> MemoryStrategy:
    """The strategy called `name`.

    Args:
        name: "none", "pooled", "full", "temporal_pool" or "voxel".
        pruning: of "voxel"; None means its defaults.

    Raises:
        ValueError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise ValueError(f"memory_strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return VoxelMemory(pruning or VoxelPruning()) if name == "voxel" else STRATEGIES[name]()


def strategy_of(config: StreamVLNConfig) -> MemoryStrategy:
    """The strategy that a checkpoint's configuration names."""
    return make_strategy(config.memory_strategy, VoxelPruning(**config.voxel_pruning))


def memory_tokens(
    strategy: MemoryStrategy,
    kept: Tensor,
    frames: Sequence[int],
    steps: Sequence[int],
    points: NDArray | None = None,
) -> list[Tensor | None]:
    """Memories of a batch of windows; their lengths differ.

    Args:
        strategy: how frames become memory.
        kept: (all_frames, kept, hidden) of `frame_tokens`: the history frames of sample after sample.
        frames: (batch,) history frames of each sample.
        steps: (all_frames,) environment steps.
        points: (all_frames, tokens_per_frame, 3) metres; only for strategies that need geometry.

    Returns:
        For each sample (memory_tokens, hidden), or None where it has no history frames.

    Raises:
        ValueError: `kept`, `frames` and `steps` do not fit, or the strategy shows no memory but there are frames.
    """
    total = sum(frames)
    if not total == len(kept) == len(steps) or (points is not None and len(points) != total):
        raise ValueError(
            f"the batch has {total} history frames, but there are tokens of {len(kept)}, {len(steps)} steps and "
            f"{'no' if points is None else len(points)} points"
        )
    if total and not strategy.shows_memory:
        raise ValueError("the memory strategy is 'none', but the batch has history frames: leave them out")
    memories: list[Tensor | None] = []
    begin = 0
    for count in frames:
        part = slice(begin, begin + count)
        given = None if points is None else points[part]
        memories.append(strategy.select(kept[part], steps[part], given) if count else None)
        begin += count
    return memories
