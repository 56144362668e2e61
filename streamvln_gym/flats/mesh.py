"""Coloured, textured polygons: a model in its own frame, and the arrays that many models make together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.palette import RGB, colour_name, colour_rgb
from streamvln_gym.flats.textures import Texture, atlas_cell

Point = tuple[float, float, float]
Colour = str | RGB


_SCALES = {Texture.FABRIC: 0.3, Texture.WOOD: 0.7}
"""Metres that a texture covers on furniture, where it is not 1."""


_GRAINED = ("walnut", "mahogany", "pine", "brown")
"""Tones of wood that show its grain; painted wood does not."""


@dataclass
class Polygon:
    """A convex polygon, counter-clockwise seen from outside.

    Attributes:
        points: corners in metres.
        uv: texture coordinates of the corners, v downwards as in glTF.
        colour: palette colour, tone or RGB.
        texture: what multiplies the colour.
        shades: factors (one a corner) on top of the lighting, None for 1.
    """

    points: Sequence[Point]
    uv: Sequence[tuple[float, float]]
    colour: Colour
    texture: Texture
    shades: Sequence[float] | None = None


@dataclass
class Model:
    """Polygons in a local frame: the floor is y = 0, the front faces -z, the footprint is centred on the origin.

    Attributes:
        width: metres along x.
        depth: metres along z.
        height: metres.
        polygons: what is drawn.
    """

    width: float = 0.0
    depth: float = 0.0
    height: float = 0.0
    polygons: list[Polygon] = field(default_factory=list)

    def polygon(self, points: Sequence[Point], colour: Colour, texture: Texture = Texture.PLAIN) -> None:
        """Adds a convex polygon whose texture repeats every metre along its first edge and across it."""
        if texture == Texture.WOOD and colour not in _GRAINED:
            texture = Texture.PLAIN
        a, b, d = (np.asarray(points[k], dtype=np.float64) for k in (0, 1, -1))
        along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
        across = d - a - along * float((d - a) @ along)
        across = across / max(float(np.linalg.norm(across)), 1e-9)
        offsets = np.asarray(points, dtype=np.float64) - a
        uv = np.stack([offsets @ along, -(offsets @ across)], -1)
        self.polygons.append(Polygon(points, uv.tolist(), colour, texture))

    def picture(self, a: Point, b: Point, c: Point, d: Point, cell: str, colour: Colour = "pure") -> None:
        """Adds a quadrilateral (bottom left, bottom right, top right, top left) that shows a cell of an atlas."""
        texture, (u0, v0, u1, v1) = atlas_cell(cell)
        self.polygons.append(Polygon((a, b, c, d), ((u0, v1), (u1, v1), (u1, v0), (u0, v0)), colour, texture))

    def quad(
        self,
        a: Point,
        b: Point,
        c: Point,
        d: Point,
        colour: Colour,
        texture: Texture = Texture.PLAIN,
        scale: float = 1.0,
    ) -> None:
        """Adds a rectangle (bottom left, bottom right, top right, top left) with a texture `scale` metres wide."""
        if texture == Texture.WOOD and colour not in _GRAINED:
            texture = Texture.PLAIN
        scale = scale * _SCALES.get(texture, 1.0)
        w = math.dist(a, b) / scale
        h = math.dist(a, d) / scale
        self.polygons.append(Polygon((a, b, c, d), ((0.0, h), (w, h), (w, 0.0), (0.0, 0.0)), colour, texture))

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        texture: Texture = Texture.PLAIN,
        hide: str = "d",
    ) -> None:
        """Adds a box; `hide` names faces left out: f(ront, -z), b(ack, +z), l(eft, -x), r(ight, +x), u(p), d(own)."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        faces = {
            "b": ((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)),
            "f": ((x1, y0, z0), (x0, y0, z0), (x0, y1, z0), (x1, y1, z0)),
            "r": ((x1, y0, z1), (x1, y0, z0), (x1, y1, z0), (x1, y1, z1)),
            "l": ((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)),
            "u": ((x0, y1, z1), (x1, y1, z1), (x1, y1, z0), (x0, y1, z0)),
            "d": ((x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)),
        }
        for name, corners in faces.items():
            if name not in hide:
                self.quad(*corners, colour, texture)

    def front(
        self, x: tuple[float, float], y: tuple[float, float], z: float, cell: str, colour: Colour = "pure"
    ) -> None:
        """Adds a picture on a plane that faces -z."""
        self.picture((x[1], y[0], z), (x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z), cell, colour)

    def cylinder(
        self,
        centre: tuple[float, float],
        radius: float,
        y: tuple[float, float],
        colour: Colour,
        sides: int = 8,
        top_radius: float | None = None,
        texture: Texture = Texture.PLAIN,
        cap: bool = True,
    ) -> None:
        """Adds an upright cylinder or cone without its underside."""
        upper = radius if top_radius is None else top_radius
        angles = [2.0 * math.pi * (k + 0.5) / sides for k in range(sides)]
        low = [(centre[0] + radius * math.cos(t), y[0], centre[1] + radius * math.sin(t)) for t in angles]
        high = [(centre[0] + upper * math.cos(t), y[1], centre[1] + upper * math.sin(t)) for t in angles]
        for k in range(sides):
            j = (k + 1) % sides
            if upper > 1e-6:
                self.quad(low[j], low[k], high[k], high[j], colour, texture)
            else:
                self.polygon((low[j], low[k], (centre[0], y[1], centre[1])), colour, texture)
        if cap and upper > 1e-6:
            self.polygon(tuple(reversed(high)), colour, texture)

    def ellipsoid(self, centre: Point, radii: Point, colour: Colour, sides: int = 6, rings: int = 3) -> None:
        """Adds an ellipsoid of `rings` bands."""
        (cx, cy, cz), (rx, ry, rz) = centre, radii

        def at(ring: int, side: int) -> Point:
            t, p = math.pi * ring / rings, 2.0 * math.pi * side / sides
            return cx + rx * math.sin(t) * math.cos(p), cy + ry * math.cos(t), cz + rz * math.sin(t) * math.sin(p)

        for ring in range(rings):
            for side in range(sides):
                corners = [at(ring + 1, side + 1), at(ring + 1, side), at(ring, side), at(ring, side + 1)]
                if ring == 0:
                    corners = corners[:3]
                elif ring == rings - 1:
                    corners = corners[1:]
                self.polygon(corners, colour)

    def grid(
        self,
        place: Callable[[float, float], Point],
        us: Sequence[float],
        vs: Sequence[float],
        colour: Colour,
        texture: Texture,
        scale: float = 1.0,
    ) -> None:
        """Adds a grid of rectangles; `place` maps (u, v) in metres to a point, u to the right and v up (seen from its
        front), and the texture is laid out in the same u and v."""
        for u0, u1 in pairwise(us):
            for v0, v1 in pairwise(vs):
                corners = ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
                uv = [(u / scale, -v / scale) for u, v in corners]
                self.polygons.append(Polygon([place(u, v) for u, v in corners], uv, colour, texture))

    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner of the smallest box that holds all polygons."""
        points = np.asarray([q for p in self.polygons for q in p.points])
        (x0, y0, z0), (x1, y1, z1) = points.min(0).tolist(), points.max(0).tolist()
        return (x0, y0, z0), (x1, y1, z1)

    def main_colour(self) -> str | None:
        """The palette name that covers at least half of the area seen from the front, the sides and above, if one
        does."""
        shares: dict[str, float] = {}
        for p in self.polygons:
            name = colour_name(p.colour) if isinstance(p.colour, str) and not p.texture.is_picture else ""
            shares[name] = shares.get(name, 0.0) + _visible_area(p.points)
        name, share = max(shares.items(), key=lambda item: item[1])
        return name if name and share >= 0.5 * sum(shares.values()) else None


def _visible_area(points: Sequence[Point]) -> float:
    """Area of a polygon, 0 if it faces backwards (+z) or downwards."""
    ax, ay, az = points[0]
    sx = sy = sz = 0.0
    for (bx, by, bz), (cx, cy, cz) in pairwise(points[1:]):
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        sx, sy, sz = sx + uy * vz - uz * vy, sy + uz * vx - ux * vz, sz + ux * vy - uy * vx
    area = 0.5 * math.sqrt(sx * sx + sy * sy + sz * sz)
    return 0.0 if max(sz, -sy) > 1.8 * area else area


@dataclass(frozen=True)
class MeshArrays:
    """Triangles sorted by texture; the GLB keeps this order.

    Attributes:
        vertices: float32 (V, 3), metres.
        uv: float32 (V, 2).
        colours: uint8 (V, 3).
        triangles: int32 (T, 3).
        texture_ids: int32 (T,), index into the flat's textures.
        object_ids: int32 (T,), `SceneObject.id`.
    """

    vertices: NDArray[np.float32]
    uv: NDArray[np.float32]
    colours: NDArray[np.uint8]
    triangles: NDArray[np.int32]
    texture_ids: NDArray[np.int32]
    object_ids: NDArray[np.int32]


@dataclass(frozen=True)
class VertexData:
    """Per vertex: the unit normal (V, 3) of its polygon, a factor (V,), its object and its texture (V,)."""

    normals: NDArray[np.float64]
    shades: NDArray[np.float64]
    object_ids: NDArray[np.int64]
    texture_ids: NDArray[np.int64]


class MeshBuilder:
    """Collects placed models and turns them into arrays."""

    def __init__(self) -> None:
        self._points: list[Point] = []  # each in its model's frame
        self._placements: list[tuple[float, float, Point, int]] = []  # (cosine, sine, offset, points) of each model
        self._uv: list[tuple[float, float]] = []
        self._rgb: list[RGB] = []
        self._counts: list[int] = []
        self._textures: list[int] = []
        self._objects: list[int] = []
        self._shades: list[float] = []

    def add(self, model: Model, object_id: int, offset: Point = (0.0, 0.0, 0.0), yaw: float = 0.0) -> None:
        """Adds a model, turned by `yaw` (radians, counter-clockwise from above) and moved by `offset`."""
        before = len(self._points)
        for p in model.polygons:
            rgb = colour_rgb(p.colour) if isinstance(p.colour, str) else p.colour
            self._points.extend(p.points)
            self._uv.extend(p.uv)
            n = len(p.points)
            self._rgb.extend([rgb] * n)
            self._shades.extend(p.shades if p.shades is not None else [1.0] * n)
            self._counts.append(n)
            self._textures.append(int(p.texture))
            self._objects.append(object_id)
        cosine, sine = round(math.cos(yaw), 12), round(math.sin(yaw), 12)
        self._placements.append((cosine, sine, offset, len(self._points) - before))

    def arrays(self) -> tuple[MeshArrays, VertexData]:
        """The arrays, with unshaded colours, and what the lighting needs to know of each vertex."""
        points = self._placed_points()
        counts = np.asarray(self._counts)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        fans = counts - 2
        polygon = np.repeat(np.arange(len(counts)), fans)
        step = np.arange(len(polygon)) - np.repeat(np.cumsum(fans) - fans, fans)
        triangles = np.stack([starts[polygon], starts[polygon] + step + 1, starts[polygon] + step + 2], -1)
        corners = points[triangles]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.add.reduceat(cross, np.cumsum(fans) - fans, axis=0)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        keep = np.linalg.norm(cross, axis=1) > 1e-8
        textures = np.asarray(self._textures)[polygon]
        order = np.flatnonzero(keep)[np.argsort(textures[keep], kind="stable")]
        arrays = MeshArrays(
            vertices=points.astype(np.float32),
            uv=np.asarray(self._uv, dtype=np.float32),
            colours=np.asarray(self._rgb, dtype=np.uint8),
            triangles=triangles[order].astype(np.int32),
            texture_ids=textures[order].astype(np.int32),
            object_ids=np.asarray(self._objects)[polygon][order].astype(np.int32),
        )
        return arrays, VertexData(
            normals=np.repeat(normals, counts, axis=0),
            shades=np.asarray(self._shades),
            object_ids=np.repeat(np.asarray(self._objects), counts),
            texture_ids=np.repeat(np.asarray(self._textures), counts),
        )

    def _placed_points(self) -> NDArray[np.float64]:
        """All points (V, 3), turned and moved with their models."""
        x, y, z = np.asarray(self._points, dtype=np.float64).T
        placements = [(cosine, sine, *offset) for cosine, sine, offset, _ in self._placements]
        counts = [count for *_, count in self._placements]
        cosine, sine, ox, oy, oz = np.repeat(np.asarray(placements, dtype=np.float64), counts, axis=0).T
        return np.stack([cosine * x + sine * z + ox, y + oy, cosine * z - sine * x + oz], axis=-1)
