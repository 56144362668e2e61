"""What the kernels draw: a scene's triangles in clusters of neighbours, with all that does not depend on the view.

Every array is ready for the kernels, so that a mesh which lies in a file can be drawn from a memory map of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.scene import Scene
from streamvln_gym.simulators.embedded.textures import MipMaps, Wrap

_CLUSTER_TRIANGLES = 32
_LARGE_METRES = 1.5  # triangles above this get clusters of their own; they would blow up the boxes of small ones
_CHUNK = 1 << 16  # triangles worked on at once: the temporary arrays stay in the processor's cache


@dataclass(frozen=True)
class RenderMesh:
    """T drawable triangles in C clusters.

    Attributes:
        triangles: float32 (T, 9), corners in world coordinates, sorted by cluster.
        normals: float64 (T, 3), unit normals.
        double_sided: bool (T,).
        values: float32 (T, 5), u, v, red, green, blue at the first corners; colours 0..255; u, v > 0 where they repeat.
        gradients: float32 (T, 5, 3), their gradients in the world (per metre).
        one_colour: bool (T,), whether the three corners have the same colour.
        texture_index: int32 (T,); 0 means no texture.
        cluster_start: int32 (C + 1,), the first triangle of each cluster.
        box_centre, box_half: float32 (C, 3), the clusters' boxes, metres.
        mip_maps: the textures.
        instances: int32 (T + 1,), object ids, or None; the last is -1, so that triangle number -1 (nothing) finds -1.
    """

    triangles: NDArray[np.float32]
    normals: NDArray[np.float64]
    double_sided: NDArray[np.bool_]
    values: NDArray[np.float32]
    gradients: NDArray[np.float32]
    one_colour: NDArray[np.bool_]
    texture_index: NDArray[np.int32]
    cluster_start: NDArray[np.int32]
    box_centre: NDArray[np.float32]
    box_half: NDArray[np.float32]
    mip_maps: MipMaps
    instances: NDArray[np.int32] | None = None

    @classmethod
    def build(cls, scene: Scene) -> RenderMesh:
        """Prepares a scene; triangles that are not finite or have no area are left out."""
        normals, usable = _unit_normals(scene.triangles)
        order = usable[_cluster_order(scene.triangles[usable])]
        triangles = np.ascontiguousarray(scene.triangles[order], np.float32)
        cluster_start, box_centre, box_half = _make_clusters(triangles)
        mip_maps = MipMaps.build(scene.textures, scene.samplings)
        values = np.empty((len(order), 5), np.float32)
        gradients = np.zeros((len(order), 5, 3), np.float32)
        one_colour = np.empty(len(order), bool)
        for start in range(0, len(order), _CHUNK):
            part = slice(start, start + _CHUNK)
            chosen = order[part]
            colours = np.clip(np.nan_to_num(scene.colours[chosen]), 0.0, 255.0).astype(np.float32)
            uvs = _shift_uvs(scene.uvs[chosen], mip_maps.wraps[scene.texture_index[chosen]])
            attributes = np.concatenate([uvs, colours], axis=2)
            values[part] = attributes[:, 0]
            one_colour[part] = (colours == colours[:, :1]).all(axis=(1, 2))
            changing = 2 if one_colour[part].all() else 5  # scans have white corners: only u and v change
            gradients[part, :changing] = _world_gradients(triangles[part], attributes[:, :, :changing])
        return cls(
            triangles=triangles.reshape(-1, 9),
            normals=np.ascontiguousarray(normals[order]),
            double_sided=np.ascontiguousarray(scene.double_sided[order]),
            values=values,
            gradients=gradients,
            one_colour=one_colour,
            texture_index=np.ascontiguousarray(scene.texture_index[order], np.int32),
            cluster_start=cluster_start,
            box_centre=box_centre,
            box_half=box_half,
            mip_maps=mip_maps,
            instances=None if scene.instances is None else np.append(scene.instances[order], -1).astype(np.int32),
        )


def _unit_normals(triangles: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The unit normals, float64 (T, 3), of all triangles, and the numbers of those that can be drawn."""
    normals = np.empty((len(triangles), 3), np.float64)
    usable = np.empty(len(triangles), bool)
    for start in range(0, len(triangles), _CHUNK):
        part = slice(start, start + _CHUNK)
        wide = triangles[part].astype(np.float64)
        wide[~(np.abs(wide) < 1e6).all(axis=(1, 2))] = 0.0
        crossed = np.cross(wide[:, 1] - wide[:, 0], wide[:, 2] - wide[:, 0])
        doubled_area = np.linalg.norm(crossed, axis=1)
        usable[part] = doubled_area > 1e-12
        normals[part] = crossed / np.where(usable[part], doubled_area, 1.0)[:, None]
    return normals, np.flatnonzero(usable)


def _cluster_order(triangles: NDArray[np.float32]) -> NDArray[np.intp]:
    """An order of triangles (T, 3, 3) in which neighbours in space are neighbours; large ones come last."""
    if len(triangles) == 0:
        return np.empty(0, np.intp)
    centres = _over_corners(np.add, triangles.astype(np.float64)) / 3
    low = centres.min(axis=0)
    extent = np.maximum((centres.max(axis=0) - low).max(), 1e-6)
    cells = ((centres - low) / extent * 1023).astype(np.uint32)
    code = np.zeros(len(triangles), np.uint32)  # Morton code: the bits of x, y, z in turn
    for axis in range(3):
        code |= _spread_bits(cells[:, axis]) << np.uint32(axis)
    sizes = _over_corners(np.maximum, triangles) - _over_corners(np.minimum, triangles)
    large = sizes.max(axis=1) > _LARGE_METRES
    return np.argsort(code | large.astype(np.uint32) << np.uint32(30), kind="stable")


def _over_corners(combine: np.ufunc, triangles: NDArray[Any]) -> NDArray[Any]:
    """`combine` over the three corners of (T, 3, 3), which is (T, 3); numpy's own reduction of a short axis is slow."""
    return combine(combine(triangles[:, 0], triangles[:, 1]), triangles[:, 2])


def _spread_bits(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ten bits of each number, moved to every third place."""
    spread = numbers & np.uint32(0x3FF)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        spread = (spread | spread << np.uint32(shift)) & np.uint32(mask)
    return spread


def _make_clusters(
    triangles: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Cuts ordered triangles (T, 3, 3) into clusters: their starts, box centres and half box sizes."""
    start = np.append(np.arange(0, len(triangles), _CLUSTER_TRIANGLES), len(triangles)).astype(np.int32)
    if len(triangles) == 0:
        return start, np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)
    low = np.minimum.reduceat(_over_corners(np.minimum, triangles), start[:-1], axis=0)
    high = np.maximum.reduceat(_over_corners(np.maximum, triangles), start[:-1], axis=0)
    return start, (low + high) / np.float32(2), (high - low) / np.float32(2) + np.float32(1e-4)


def _shift_uvs(uvs: NDArray[np.float32], wraps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Texture coordinates (T, 3, 2) moved by whole repeats to the smallest values above 1 in each triangle.

    Mirrored ones move by whole pairs of repeats; clamped ones stay (what is below 0 then shows the picture's edge, as
    it should). `wraps` is (T, 2), see `textures.Wrap`.
    """
    wide = np.nan_to_num(uvs.astype(np.float64), posinf=0.0, neginf=0.0)
    lowest = wide.min(axis=1, keepdims=True)
    shift = np.floor(lowest) - 1.0
    if wraps.any():
        modes = wraps[:, None, :]
        shift = np.where(modes == Wrap.MIRROR, 2.0 * np.floor(lowest / 2.0) - 2.0, shift)
        shift = np.where(modes == Wrap.CLAMP, 0.0, shift)
    return wide - shift


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
