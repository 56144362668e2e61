"""What the streams see, on the training device: drawn by the workers, or here on a GPU from where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from streamvln_gym.simulators.embedded.gpu_renderer import GpuRenderer
from streamvln_gym.training.online.mirroring import mirror_patches, mirror_pictures
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.worker import DrawableScene, StreamsSpec
from streamvln_gym.training.privileged import CLASSES, DEPTH_LEVELS_PER_METRE, patch_centres


@dataclass(frozen=True)
class Pictures:
    """The present frames of all streams.

    Attributes:
        rgb: uint8 (streams, size, size, 3).
        patch_class, patch_depth: uint8 (streams, patches), see `Privileged`.
    """

    rgb: Tensor
    patch_class: Tensor
    patch_depth: Tensor


class PictureSource(Protocol):
    """Where pictures come from."""

    def enter(self, scenes: Sequence[DrawableScene]) -> None:
        """Takes in the scenes that streams have come into; call before `take`."""

    def take(self) -> Pictures:
        """The present frames."""


def choose_pictures(spec: StreamsSpec, arrays: StreamArrays, device: torch.device) -> PictureSource:
    """The source that a training's workers are made for.

    Args:
        spec: of one of them.
        arrays: of all.
        device: where the pictures are wanted.
    """
    if spec.draws:
        return PicturesOfWorkers(arrays, device)
    return PicturesOnGpu(arrays, GpuRenderer(spec.camera, device), spec.patches_per_side)


class PicturesOfWorkers:
    """Pictures that the workers have drawn into shared memory.

    Args:
        arrays: of the workers.
        device: where the pictures are wanted.
    """

    def __init__(self, arrays: StreamArrays, device: torch.device) -> None:
        self._arrays = arrays
        self._device = device

    def enter(self, scenes: Sequence[DrawableScene]) -> None:
        """Does nothing: these workers know their scenes."""

    def take(self) -> Pictures:
        """The present frames."""
        arrays = (self._arrays.rgb, self._arrays.patch_class, self._arrays.patch_depth)
        return Pictures(*(torch.from_numpy(array).to(self._device) for array in arrays))


class PicturesOnGpu:
    """Pictures that are drawn on the training device.

    Args:
        arrays: of workers that do not draw.
        renderer: with a square camera, of the network's size; as `GpuRenderer`.
        patches_per_side: of the vision tower.
    """

    def __init__(self, arrays: StreamArrays, renderer: GpuRenderer, patches_per_side: int) -> None:
        self._arrays = arrays
        self._renderer = renderer
        self._device = renderer.device
        centres = patch_centres((renderer.camera.height, renderer.camera.width), patches_per_side)
        self._rows, self._columns = (torch.from_numpy(index).to(self._device) for index in centres)

    def enter(self, scenes: Sequence[DrawableScene]) -> None:
        """Takes in the scenes that streams have come into; those that all have left are forgotten."""
        for scene in scenes:
            if scene.key not in self._renderer:
                self._renderer.add(scene.key, scene.mesh, scene.class_ids)
        self._renderer.keep(self._arrays.scene[self._arrays.active].tolist())

    def take(self) -> Pictures:
        """The present frames; black ones of streams that rest."""
        arrays = self._arrays
        playing = np.flatnonzero(arrays.active)
        views = self._renderer.render(
            arrays.scene[playing].tolist(), arrays.place[playing, :3], arrays.place[playing, 3]
        )
        mirrored = torch.from_numpy(arrays.mirrored[playing]).to(self._device)
        classes, depth = views.classes[:, self._rows, self._columns], views.depth[:, self._rows, self._columns]
        levels = (depth * DEPTH_LEVELS_PER_METRE).clamp(max=255.0)
        drawn = (
            mirror_pictures(views.rgb, mirrored),
            mirror_patches(torch.where(classes < CLASSES, classes, 0).flatten(1).to(torch.uint8), mirrored),
            mirror_patches(levels.flatten(1).to(torch.uint8), mirrored),
        )
        if len(playing) == len(arrays.active):
            return Pictures(*drawn)
        rows = torch.from_numpy(playing).to(self._device)
        everybody = (part.new_zeros((len(arrays.active), *part.shape[1:])) for part in drawn)
        return Pictures(*(whole.index_copy_(0, rows, part) for whole, part in zip(everybody, drawn, strict=True)))
