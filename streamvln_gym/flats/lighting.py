"""Baked soft shading: brightness by orientation, darker towards corners, the floor and the ceiling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.layout import WALL_HEIGHT
from streamvln_gym.flats.mesh import MeshArrays, VertexData
from streamvln_gym.flats.palette import GLOW
from streamvln_gym.flats.textures import Texture
from streamvln_gym.scene_graph import SceneGraph

REACH = 0.4
"""Metres over which a corner darkens; walls, floors and ceilings have vertices there."""
_WALL_DARK, _FLOOR_DARK, _CONTACT_DARK = 0.17, 0.24, 0.26


def shade(arrays: MeshArrays, vertex: VertexData, graph: SceneGraph) -> MeshArrays:
    """Multiplies the colours with the shading; windows' views and lit lamps keep theirs."""
    structural = np.array([o.structural for o in graph.objects])[vertex.object_ids]
    rects = np.array([graph.rooms[o.room].rect for o in graph.objects])[vertex.object_ids]
    points = arrays.vertices.astype(np.float64)
    n = vertex.normals
    corner = _corner_factor(points, n, rects)
    wall = (
        0.955
        + 0.028 * n[:, 0]
        + 0.017 * n[:, 2]
        + np.where(n[:, 1] > 0.5, 0.03, 0.0)
        + np.where(n[:, 1] < -0.5, 0.035, 0.0)
    )
    piece = 0.87 + 0.06 * n[:, 0] + 0.045 * n[:, 2] + np.where(n[:, 1] > 0, 0.13, 0.26) * n[:, 1]
    contact = 1.0 - _CONTACT_DARK * np.exp(-np.maximum(points[:, 1], 0.0) / 0.18) * (np.abs(n[:, 1]) < 0.7)
    factor = np.where(structural, wall * corner, piece * contact) * vertex.shades
    glow = np.all(arrays.colours == np.array(GLOW), axis=1)
    factor = np.where(glow | (vertex.texture_ids == Texture.VIEW), 1.0, factor)
    colours = np.clip(np.round(arrays.colours * factor[:, None]), 0, 255).astype(np.uint8)
    return replace(arrays, colours=colours)


def _corner_factor(points: NDArray[np.float64], normals: NDArray[np.float64], rects: NDArray[np.float64]) -> NDArray:
    """1 in the open, less near the room's other surfaces; linear over `REACH`."""

    def near(distance: NDArray, dark: float, facing: NDArray) -> NDArray:
        return 1.0 - dark * np.clip(1.0 - np.maximum(distance, 0.0) / REACH, 0.0, 1.0) * (np.abs(facing) < 0.5)

    x, y, z = points.T
    factor = near(np.minimum(x - rects[:, 0], rects[:, 2] - x), _WALL_DARK, normals[:, 0])
    factor = factor * near(np.minimum(z - rects[:, 1], rects[:, 3] - z), _WALL_DARK, normals[:, 2])
    factor = factor * near(y, _FLOOR_DARK, normals[:, 1])
    return factor * near(WALL_HEIGHT - y, 0.10, normals[:, 1])
