"""Pictures of a scene from an agent's camera: colour, depth and instances, on one CPU core."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded import rasterizer, shading
from streamvln_gym.simulators.embedded.scene import Scene
from streamvln_gym.simulators.embedded.textures import MipMaps

SENSORS = ("rgb", "depth", "instance")
_CLUSTER_TRIANGLES = 32
_LARGE_METRES = 1.5  # triangles above this get clusters of their own; they would blow up the boxes of small ones


@dataclass(frozen=True)
class _Clusters:
    """Neighbouring triangles with their boxes.

    Attributes:
        start: int32 (C + 1,), the first triangle of each cluster.
        box_centre, box_half: float32 (C, 3), metres.
    """

    start: NDArray[np.int32]
    box_centre: NDArray[np.float32]
    box_half: NDArray[np.float32]


class _Buffers:
    """What one picture size needs while it is drawn (sub-pixels included)."""

    def __init__(self, height: int, width: int) -> None:
        self.inverse_depth = np.empty((height, width), np.float32)
        self.ids = np.empty((height, width), np.int32)
        self.rgb = np.empty((height, width, 3), np.uint8)
        self.left = np.empty(height, np.int64)
        self.right = np.empty(height, np.int64)


class Renderer:
    """Draws one scene. Unlit: stored texture values times vertex colours, no gamma; back faces are culled.

    Not for use from several threads at once; make one renderer for each.

    Args:
        scene: triangles that are not finite or have no area are left out.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        usable, normals = _usable_triangles(scene.triangles)
        order = usable[_cluster_order(scene.triangles[usable])]
        corners = np.ascontiguousarray(scene.triangles[order], np.float32)
        self._clusters = _make_clusters(corners)
        self._triangles = corners.reshape(-1, 9)
        self._normals = np.ascontiguousarray(normals[order])
        self._double_sided = np.ascontiguousarray(scene.double_sided[order])
        colours = np.clip(np.nan_to_num(scene.colours[order]), 0.0, 255.0).astype(np.float32)
        attributes = np.concatenate([_positive_uvs(scene.uvs[order]), colours], axis=2)
        self._values = np.ascontiguousarray(attributes[:, 0], np.float32)
        self._gradients = _world_gradients(corners, attributes)
        self._one_colour = np.ascontiguousarray((colours == colours[:, :1]).all(axis=(1, 2)))
        self._texture_index = np.ascontiguousarray(scene.texture_index[order], np.int32)
        self._mip_maps = MipMaps.build(scene.textures)
        if scene.instances is None:
            self._instances = None
        else:  # one more entry, so that the number -1 (nothing) finds -1
            self._instances = np.append(scene.instances[order], -1).astype(np.int32)
        self._found = np.empty(len(self._clusters.box_centre), np.int32)
        self._distance = np.empty(len(self._clusters.box_centre), np.float32)
        self._planes = np.empty((len(order), shading.ATTRIBUTES + 1, 4), np.float32)
        self._drawn_in = np.zeros(len(order), np.int64)
        self._frame = 0
        self._buffers: dict[tuple[int, int], _Buffers] = {}

    def render(
        self, position: ArrayLike, yaw: float, camera: CameraConfig, sensors: Collection[str] = ("rgb", "depth")
    ) -> dict[str, NDArray]:
        """What an agent's camera sees.

        Args:
            position: (3,), metres, the agent's base; the camera is `camera.mount_height` above it.
            yaw: radians, counter-clockwise seen from above, 0 faces -Z.
            camera: with supersampling s, rgb is the mean over s x s samples of each pixel; depth and instance are those
                of the sample (s // 2, s // 2), which is the pixel's centre where s is odd.
            sensors: any of "rgb", "depth", "instance".

        Returns:
            Fresh arrays by sensor: rgb uint8 (H, W, 3), black where nothing is; depth float32 (H, W, 1), metres along
            the optical axis in [min_depth, max_depth], max_depth where nothing is; instance int32 (H, W, 1), -1 where
            nothing is.

        Raises:
            ValueError: an unknown sensor, an instance picture of a scene without instances, or a pose that is not
                finite.
        """
        eye = np.array(position, dtype=np.float64)
        if eye.shape != (3,):
            raise ValueError(f"position must have shape (3,), got {eye.shape}")
        if not math.isfinite(yaw):
            raise ValueError(f"yaw must be finite, got {yaw!r}")
        eye[1] += camera.mount_height
        return self._render(yaw_matrix(yaw).T, eye, camera, sensors)

    def render_view(
        self, camera_to_world: ArrayLike, camera: CameraConfig, sensors: Collection[str] = ("rgb", "depth")
    ) -> dict[str, NDArray]:
        """As `render`, from a free pose.

        Args:
            camera_to_world: (4, 4); the camera's axes are x right, y up, -z forward. `mount_height` is not used.
            camera: as in `render`.
            sensors: as in `render`.
        """
        pose = np.array(camera_to_world, dtype=np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"camera_to_world must have shape (4, 4), got {pose.shape}")
        return self._render(pose[:3, :3].T, pose[:3, 3].copy(), camera, sensors)

    def _render(
        self, rotation: NDArray[np.float64], eye: NDArray[np.float64], camera: CameraConfig, sensors: Collection[str]
    ) -> dict[str, NDArray]:
        unknown = set(sensors).difference(SENSORS)
        if unknown:
            raise ValueError(f"unknown sensors {sorted(unknown)}; the renderer has {list(SENSORS)}")
        if "instance" in sensors and self._instances is None:
            raise ValueError("this scene has no instance ids: pass `instances` to load_glb or leave the sensor out")
        if not (np.isfinite(rotation).all() and np.isfinite(eye).all()):
            raise ValueError(f"the camera's pose is not finite: position {eye}, rotation {rotation.tolist()}")
        factor = camera.supersampling
        size = (camera.height * factor, camera.width * factor)
        buffers = self._buffers.get(size)
        if buffers is None:
            buffers = self._buffers[size] = _Buffers(*size)
        rotation = np.ascontiguousarray(rotation)
        focal = np.array(camera.focal_lengths) * factor
        self._find_visible(rotation, eye, focal, buffers)

        pictures: dict[str, NDArray] = {}
        centre = slice(factor // 2, None, factor)
        if "rgb" in sensors:
            pictures["rgb"] = self._shade(rotation, eye, focal, buffers, factor)
        if "depth" in sensors:
            depth = np.empty((camera.height, camera.width), np.float32)
            shading.to_depth(
                buffers.inverse_depth[centre, centre] if factor > 1 else buffers.inverse_depth,
                np.float32(1.0 / rasterizer.FAR),
                np.float32(camera.min_depth),
                np.float32(camera.max_depth),
                depth,
            )
            pictures["depth"] = depth[:, :, None]
        if "instance" in sensors and self._instances is not None:
            pictures["instance"] = self._instances[buffers.ids[centre, centre]][:, :, None]
        return pictures

    def _find_visible(
        self, rotation: NDArray[np.float64], eye: NDArray[np.float64], focal: NDArray[np.float64], buffers: _Buffers
    ) -> None:
        """Fills the visibility buffer."""
        height, width = buffers.ids.shape
        clusters = self._clusters
        count = rasterizer.find_clusters(
            clusters.box_centre,
            clusters.box_half,
            rotation,
            eye,
            width / 2 / focal[0],
            height / 2 / focal[1],
            self._found,
            self._distance,
        )
        order = self._found[np.argsort(self._distance[:count], kind="stable")]
        rasterizer.rasterize(
            self._triangles,
            self._normals,
            self._double_sided,
            clusters.start,
            clusters.box_centre,
            clusters.box_half,
            order,
            rotation,
            eye,
            focal,
            buffers.inverse_depth,
            buffers.ids,
            buffers.left,
            buffers.right,
        )

    def _shade(
        self,
        rotation: NDArray[np.float64],
        eye: NDArray[np.float64],
        focal: NDArray[np.float64],
        buffers: _Buffers,
        factor: int,
    ) -> NDArray[np.uint8]:
        """The colour picture, uint8 (H, W, 3), of the visibility buffer."""
        height, width = buffers.ids.shape
        self._frame += 1
        rgb = np.empty((height, width, 3), np.uint8) if factor == 1 else buffers.rgb
        shading.shade(
            buffers.inverse_depth,
            buffers.ids,
            self._triangles,
            self._normals,
            self._values,
            self._gradients,
            self._one_colour,
            self._texture_index,
            self._mip_maps.texels,
            self._mip_maps.level_start,
            self._mip_maps.size_bits,
            rotation,
            eye,
            focal,
            self._planes,
            self._drawn_in,
            self._frame,
            rgb,
        )
        if factor == 1:
            return rgb
        averaged = np.empty((height // factor, width // factor, 3), np.uint8)
        shading.average_blocks(rgb, factor, averaged)
        return averaged


def compile_kernels() -> None:
    """Compiles the kernels, or loads them from numba's cache, by drawing one tiny picture."""
    corners = np.array([[[-1, -1, -2], [1, -1, -2], [0, 1, -2]]], np.float32)
    scene = Scene(
        triangles=corners,
        uvs=corners[:, :, :2].copy(),
        colours=np.full((1, 3, 3), 255, np.float32),
        texture_index=np.ones(1, np.int32),
        textures=(np.full((1, 1, 3), 255, np.uint8), np.zeros((2, 2, 3), np.uint8)),
        double_sided=np.zeros(1, bool),
        instances=np.zeros(1, np.int32),
    )
    renderer = Renderer(scene)
    for supersampling in (1, 2):
        camera = CameraConfig(width=8, height=8, mount_height=0.0, supersampling=supersampling)
        renderer.render((0.0, 0.0, 0.0), 0.0, camera, SENSORS)


def _usable_triangles(triangles: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Numbers of the triangles that can be drawn, and the unit normals, float64 (T, 3), of all."""
    wide = triangles.astype(np.float64)
    wide[~(np.abs(wide) < 1e6).all(axis=(1, 2))] = 0.0
    normals = np.cross(wide[:, 1] - wide[:, 0], wide[:, 2] - wide[:, 0])
    doubled_area = np.linalg.norm(normals, axis=1)
    usable = np.flatnonzero(doubled_area > 1e-12)
    normals[usable] /= doubled_area[usable, None]
    return usable, normals


def _cluster_order(triangles: NDArray[np.float32]) -> NDArray[np.intp]:
    """An order of triangles (T, 3, 3) in which neighbours in space are neighbours; large ones come last."""
    if len(triangles) == 0:
        return np.empty(0, np.intp)
    centres = triangles.mean(axis=1, dtype=np.float64)
    extent = np.maximum(np.ptp(centres, axis=0).max(), 1e-6)
    cells = ((centres - centres.min(axis=0)) / extent * 1023).astype(np.uint64)
    code = np.zeros(len(triangles), np.uint64)  # Morton code: the bits of x, y, z in turn
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    large = np.ptp(triangles, axis=1).max(axis=1) > _LARGE_METRES
    return np.lexsort((code, large))


def _make_clusters(triangles: NDArray[np.float32]) -> _Clusters:
    """Cuts ordered triangles (T, 3, 3) into clusters."""
    start = np.append(np.arange(0, len(triangles), _CLUSTER_TRIANGLES), len(triangles)).astype(np.int32)
    if len(triangles) == 0:
        return _Clusters(start, np.empty((0, 3), np.float32), np.empty((0, 3), np.float32))
    low = np.minimum.reduceat(triangles.min(axis=1), start[:-1], axis=0)
    high = np.maximum.reduceat(triangles.max(axis=1), start[:-1], axis=0)
    return _Clusters(start, (low + high) / np.float32(2), (high - low) / np.float32(2) + np.float32(1e-4))


def _positive_uvs(uvs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Texture coordinates (T, 3, 2) moved by whole repeats to the smallest values above 1 in each triangle."""
    wide = np.nan_to_num(uvs.astype(np.float64), posinf=0.0, neginf=0.0)
    return wide - np.floor(wide.min(axis=1, keepdims=True)) + 1.0


def _world_gradients(triangles: NDArray[np.float32], attributes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gradients in the triangles' planes.

    Args:
        triangles: (T, 3, 3), metres.
        attributes: (T, 3, A), values at the corners.

    Returns:
        float32 (T, A, 3), per metre.
    """
    wide = triangles.astype(np.float64)
    edge1, edge2 = wide[:, 1] - wide[:, 0], wide[:, 2] - wide[:, 0]
    d11, d12, d22 = ((a * b).sum(axis=1) for a, b in ((edge1, edge1), (edge1, edge2), (edge2, edge2)))
    determinant = d11 * d22 - d12 * d12
    change1, change2 = attributes[:, 1] - attributes[:, 0], attributes[:, 2] - attributes[:, 0]
    along1 = (change1 * d22[:, None] - change2 * d12[:, None]) / determinant[:, None]
    along2 = (change2 * d11[:, None] - change1 * d12[:, None]) / determinant[:, None]
    gradients = along1[:, :, None] * edge1[:, None, :] + along2[:, :, None] * edge2[:, None, :]
    return np.ascontiguousarray(np.clip(gradients, -1e30, 1e30), np.float32)
