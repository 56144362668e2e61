"""From camera pictures to patch embeddings: resized on the CPU as the reference, or on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.devices import device_of
from streamvln_gym.models import pil_bicubic
from streamvln_gym.models.packed_language import adapters_on, is_adapted
from streamvln_gym.models.pooling import pooling_matrix
from streamvln_gym.models.processing_streamvln import LEVELS
from streamvln_gym.models.recorded_calls import RecordedCalls

if TYPE_CHECKING:
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
    from streamvln_gym.models.processing_streamvln import StreamVLNProcessor

# Frames up to which a pass of the tower is recorded; more keep the device busy while it is launched.
RECORDED_FRAMES = 4
# Picture sizes that passes are recorded for, the first ones: each recording holds memory.
RECORDED_SIZES = 8


class FrameEncoder:
    """Resizes with Pillow, then runs the vision tower.

    Args:
        model: the network.
        processor: its pictures.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor) -> None:
        self.model = model
        self.processor = processor

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Encodes pictures in one pass.

        Args:
            pictures: (height, width, 3) uint8, of any sizes.

        Returns:
            (frames, patches, hidden), and pooled (frames, tokens_per_frame, hidden).
        """
        pixels = torch.from_numpy(self.processor.images(pictures))
        patches = self.model.encode_patches(pixels.to(device_of(self.model.lm_head), self.model.dtype))
        return patches, self.model.pool(patches)


class DeviceFrameEncoder(FrameEncoder):
    """Sends pictures to the device as they are, and does everything there: the same levels as Pillow's.

    On a GPU a pass over few pictures of one size is a CUDA graph.

    Args:
        model: the network, on one device.
        processor: its pictures.
        record: replay passes as CUDA graphs; None: on a GPU.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        processor: StreamVLNProcessor,
        record: bool | None = None,
    ) -> None:
        super().__init__(model, processor)
        self.calls = RecordedCalls(model.device.type == "cuda" if record is None else record)
        self._place: object = None
        self._sizes: dict[tuple[int, ...], object] = {}  # that are recorded, with what recordings read besides weights
        with torch.inference_mode(False):
            self._levels = torch.from_numpy(LEVELS).to(model.device, model.dtype)
            config = model.config
            patches = config.patches_per_side**2
            matrix = pooling_matrix(patches, config.pooling_mode, config.pooling_stride, config.pooling_ceil_mode)
            self._pooling = None if matrix is None else matrix.to(model.device)

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        self._check_place()
        shapes = [picture.shape for picture in pictures]
        groups = {shape: [n for n, own in enumerate(shapes) if own == shape] for shape in dict.fromkeys(shapes)}
        sent = [self._send([pictures[number] for number in group]) for group in groups.values()]
        if len(sent) == 1:
            recorded = self.calls.record and len(pictures) <= RECORDED_FRAMES and self._keep(shapes[0])
            patches, pooled = self.calls(("frames", *sent[0].shape) if recorded else None, self._encode, sent[0])
            # A replay overwrites them, and a caller may go on with the frames of an earlier one.
            return (patches.clone(), pooled.clone()) if recorded else (patches, pooled)
        size = self.model.config.image_size
        resized = torch.cat([pil_bicubic.resize(part, size) for part in sent])
        order = [number for group in groups.values() for number in group]
        return self._tower(resized[torch.from_numpy(np.argsort(order)).to(resized.device)])

    def _keep(self, shape: tuple[int, ...]) -> bool:
        """Whether passes over pictures of this shape are recorded; their matrices are kept from then on."""
        if shape not in self._sizes:
            if len(self._sizes) >= RECORDED_SIZES:
                return False
            self._sizes[shape] = pil_bicubic.matrices(
                shape[0], shape[1], self.model.config.image_size, self.model.device
            )
        return True

    def _encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return self._tower(pil_bicubic.resize(pictures, self.model.config.image_size))

    def _tower(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.model.encode_patches(self._levels[planes.int()])
        if self._pooling is None or len(patches) > RECORDED_FRAMES:
            return patches, self.model.pool(patches)
        return patches, (self._pooling @ patches.float()).to(patches.dtype)

    def _send(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        device = self.model.device
        shape = (len(pictures), *pictures[0].shape)
        tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        np.stack(pictures, out=tensor.numpy())
        return tensor.to(device, non_blocking=True)

    def _check_place(self) -> None:
        """Forgets the recordings where the weights have moved, or other adapters count."""
        tower: Any = self.model.vision_tower
        parts = tower.embeddings.patch_embedding, tower.encoder.layers[-1].mlp.fc2, self.model.projector.linear_2
        place: list[object] = [(type(part), part.weight.data_ptr()) for part in parts]
        layers = [part for layer in tower.encoder.layers for part in (layer.self_attn, layer.mlp)]
        linears = [part for group in (self.model.projector, *layers) for part in group.children()]
        place += [(id(part), adapters_on(part)) for part in linears if is_adapted(part)]
        if place != self._place:
            self._place = place
            self.calls.clear()
            self._sizes.clear()
            self._levels = self._levels.to(self.model.device, self.model.dtype)
            self._pooling = None if self._pooling is None else self._pooling.to(self.model.device)
