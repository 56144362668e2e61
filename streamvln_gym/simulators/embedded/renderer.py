"""Pictures of a scene from an agent's camera: colour, depth and instances, on one CPU core."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded import rasterizer, shading
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.simulators.embedded.scene import Scene

SENSORS = ("rgb", "depth", "instance")


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
        scene: what to draw; a `RenderMesh` (of the cache, for example) is drawn as it is, without a copy.
    """

    def __init__(self, scene: Scene | RenderMesh) -> None:
        self.mesh = scene if isinstance(scene, RenderMesh) else RenderMesh.build(scene)
        self._scene = None if isinstance(scene, RenderMesh) else scene
        clusters = len(self.mesh.box_centre)
        self._found = np.empty(clusters, np.int32)
        self._distance = np.empty(clusters, np.float32)
        slots = shading.plane_slots(len(self.mesh.triangles))
        self._planes = np.empty((slots, shading.ATTRIBUTES + 1, 4), np.float32)
        self._drawn = np.zeros(slots, np.int64)
        self._frame = 0
        self._buffers: dict[tuple[int, int], _Buffers] = {}

    @property
    def scene(self) -> Scene:
        """The scene that is drawn.

        Raises:
            RuntimeError: the renderer was made from a `RenderMesh`.
        """
        if self._scene is None:
            raise RuntimeError("this renderer draws a cached mesh and has no Scene: read the file with load_scene")
        return self._scene

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
        if "instance" in sensors and self.mesh.instances is None:
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
        if "instance" in sensors and self.mesh.instances is not None:
            pictures["instance"] = self.mesh.instances[buffers.ids[centre, centre]][:, :, None]
        return pictures

    def _find_visible(
        self, rotation: NDArray[np.float64], eye: NDArray[np.float64], focal: NDArray[np.float64], buffers: _Buffers
    ) -> None:
        """Fills the visibility buffer."""
        height, width = buffers.ids.shape
        mesh = self.mesh
        count = rasterizer.find_clusters(
            mesh.box_centre,
            mesh.box_half,
            rotation,
            eye,
            width / 2 / focal[0],
            height / 2 / focal[1],
            self._found,
            self._distance,
        )
        order = self._found[np.argsort(self._distance[:count], kind="stable")]
        rasterizer.rasterize(
            mesh.triangles,
            mesh.normals,
            mesh.double_sided,
            mesh.cluster_start,
            mesh.box_centre,
            mesh.box_half,
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
        mesh, maps = self.mesh, self.mesh.mip_maps
        self._frame += 1
        rgb = np.empty((height, width, 3), np.uint8) if factor == 1 else buffers.rgb
        shading.shade(
            buffers.inverse_depth,
            buffers.ids,
            mesh.triangles,
            mesh.normals,
            mesh.values,
            mesh.gradients,
            mesh.one_colour,
            mesh.texture_index,
            maps.texels,
            maps.level_start,
            maps.size_bits,
            maps.wraps,
            maps.highest_level,
            rotation,
            eye,
            focal,
            self._planes,
            self._drawn,
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
