"""Draws many views in many scenes at once, on a GPU; for training, where pictures stay there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.devices import current_device
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.simulators.embedded.textures import MAX_LEVELS

_TILE = 16  # pixels a side
_WARPS = 1  # as fast as any, see `benchmarks/render_gpu.py`


@dataclass(frozen=True)
class Views:
    """Pictures of N views, on the renderer's device.

    Attributes:
        rgb: uint8 (N, H, W, 3).
        depth: float32 (N, H, W), metres along the optical axis, within the camera's limits.
        classes: int32 (N, H, W), class ids (see `semantics.CLASS_NAMES`), 0 where nothing is.
    """

    rgb: Tensor
    depth: Tensor
    classes: Tensor


class GpuRenderer:
    """As `Renderer`, with triangles' classes in place of instances; its pictures differ in rounding.

    Args:
        camera: of all views. With supersampling s, colours are means over s x s samples, depth and class those of the
            sample (s // 2, s // 2).
        device: a CUDA device.

    Raises:
        ImportError: there is no Triton.
    """

    def __init__(self, camera: CameraConfig, device: torch.device) -> None:
        try:
            from streamvln_gym.simulators.embedded import gpu_kernels
        except ImportError as error:
            raise ImportError(
                "drawing on a GPU needs Triton, which torch for CUDA brings along: pip install triton"
            ) from error
        self._kernels = gpu_kernels
        self.camera = camera
        self.device = device
        self._scenes: dict[Hashable, list[Tensor]] = {}  # arrays by the table's columns
        self._rows: dict[Hashable, int] = {}
        self._table: Tensor | None = None
        self._most = 1  # a power of two, more than any scene has clusters

    def add(self, key: Hashable, mesh: RenderMesh, class_ids: NDArray[np.int32]) -> None:
        """Takes a scene in.

        Args:
            key: names it from now on.
            mesh: its triangles; there must be some, and instances.
            class_ids: class of each instance; the last one is that of nothing.
        """
        if mesh.instances is None or not len(mesh.triangles):
            raise ValueError("a scene to be drawn on a GPU needs triangles, and instances for their classes")
        maps = mesh.mip_maps
        arrays = (
            mesh.triangles,
            mesh.normals.astype(np.float32),
            mesh.double_sided.astype(np.int8),
            mesh.values,
            mesh.gradients,
            mesh.texture_index,
            class_ids[mesh.instances].astype(np.int32),
            mesh.cluster_start,
            mesh.box_centre,
            mesh.box_half,
            maps.texels.view(np.int32),
            maps.level_start,
            maps.size_bits,
            maps.wraps,
            maps.highest_level,
        )
        self._scenes[key] = [torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in arrays]
        self._table = None

    def keep(self, keys: Sequence[Hashable]) -> None:
        """Forgets all other scenes."""
        wanted = set(keys)
        if not self._scenes.keys() <= wanted:
            self._scenes = {key: arrays for key, arrays in self._scenes.items() if key in wanted}
            self._table = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._scenes

    def render(self, keys: Sequence[Hashable], positions: NDArray[np.float64], yaws: NDArray[np.float64]) -> Views:
        """Draws views.

        Args:
            keys: (N,), the scene of each view.
            positions: (N, 3), metres, the agents' bases; the camera is `camera.mount_height` above.
            yaws: (N,), radians, as in `Renderer.render`.

        Raises:
            KeyError: a scene is not there.
            ValueError: a pose is not finite.
        """
        lost = np.flatnonzero(~np.isfinite(np.column_stack([positions, yaws])).all(1))
        if len(lost):
            raise ValueError(f"the pose of view {lost[0]} is not finite: {positions[lost[0]]}, yaw {yaws[lost[0]]}")
        camera, factor = self.camera, self.camera.supersampling
        count, height, width = len(keys), camera.height * factor, camera.width * factor
        focal_x, focal_y = (length * factor for length in camera.focal_lengths)
        table = self._as_table()
        scenes = torch.tensor([self._rows[key] for key in keys], dtype=torch.int32).to(self.device)
        poses = torch.from_numpy(_poses(positions, yaws, camera.mount_height)).to(self.device)
        rgb = torch.empty((count, height, width, 3), dtype=torch.uint8, device=self.device)
        depth = torch.empty((count, height, width), dtype=torch.float32, device=self.device)
        classes = torch.empty((count, height, width), dtype=torch.int32, device=self.device)
        begins = torch.empty((count, self._most), dtype=torch.float32, device=self.device)
        tiles = -(-width // _TILE) * -(-height // _TILE)
        with current_device(self.device):
            self._kernels.find_clusters[(count,)](
                table, scenes, poses, begins, 0.5 * width / focal_x, 0.5 * height / focal_y, MOST=self._most
            )
            begins, order = begins.sort(1)
            self._kernels.draw_tile[(count, tiles)](
                table, scenes, poses, begins, order, rgb, depth, classes, width, height, focal_x, focal_y,
                camera.min_depth, camera.max_depth,
                MOST=self._most, TILE=_TILE, LEVELS=MAX_LEVELS, num_warps=_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
        if factor == 1:
            return Views(rgb, depth, classes)
        blocks = rgb.view(count, camera.height, factor, camera.width, factor, 3).sum((2, 4), dtype=torch.int32)
        centre = slice(factor // 2, None, factor)
        means = ((blocks + factor * factor // 2) // (factor * factor)).to(torch.uint8)
        return Views(means, depth[:, centre, centre], classes[:, centre, centre])

    def _as_table(self) -> Tensor:
        """The arrays' addresses, a row for each scene."""
        if self._table is None:
            self._rows = {}
            rows, most = [], 0
            for number, (key, arrays) in enumerate(self._scenes.items()):
                self._rows[key] = number
                clusters = len(arrays[self._kernels.BOX_CENTRE.value])
                rows.append([*(array.data_ptr() for array in arrays), clusters])
                most = max(most, clusters)
            self._most = 1 << most.bit_length()
            self._table = torch.tensor(rows, dtype=torch.int64).to(self.device)
        return self._table


def _poses(positions: NDArray[np.float64], yaws: NDArray[np.float64], mount_height: float) -> NDArray[np.float32]:
    """What the kernel takes, (N, 12): the rotation from world to camera, and where the camera is."""
    sine, cosine, zero = np.sin(yaws), np.cos(yaws), np.zeros(len(yaws))
    rows = [cosine, zero, -sine, zero, zero + 1.0, zero, sine, zero, cosine]
    eyes = positions + np.array([0.0, mount_height, 0.0])
    return np.column_stack([*rows, eyes]).astype(np.float32)
