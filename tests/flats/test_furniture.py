"""Furniture: sizes, winding, named colours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from streamvln_gym.flats.furniture import BUILDERS, Piece, Style, build
from streamvln_gym.flats.mesh import MeshArrays, MeshBuilder, Model
from streamvln_gym.flats.palette import PALETTE, colour_name, colour_rgb
from tests.flats.colours import nearest_colour


def piece_of(name: str, seed: int = 0) -> Piece:
    rng = np.random.default_rng([seed, len(name)])
    return build(name, rng, Style.sample(rng))


def arrays_of(model: Model) -> MeshArrays:
    builder = MeshBuilder()
    builder.add(model, 0)
    return builder.arrays()[0]


def first_hits(arrays: MeshArrays, origins: np.ndarray, directions: np.ndarray) -> list[tuple[int, float, bool]]:
    """(triangle, distance, whether its front is hit) of each ray that hits something."""
    corners = arrays.vertices[arrays.triangles].astype(np.float64)
    a, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(e1, e2)
    hits = []
    for origin, direction in zip(origins, directions, strict=True):
        h = np.cross(direction, e2)
        det = (e1 * h).sum(1)
        inverse = 1.0 / np.where(np.abs(det) > 1e-12, det, np.inf)
        s = origin - a
        u = (s * h).sum(1) * inverse
        q = np.cross(s, e1)
        v = (q @ direction) * inverse
        t = (e2 * q).sum(1) * inverse
        t = np.where((np.abs(det) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6), t, np.inf)
        if np.isfinite(t).any():
            k = int(np.argmin(t))
            front = bool((normals[np.flatnonzero(t <= t[k] + 1e-7)] @ direction < 0).any())
            hits.append((k, float(t[k]), front))
    return hits


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_pieces_show_their_front_faces_outwards(name: str) -> None:
    piece = piece_of(name)
    arrays = arrays_of(piece.model)
    rng = np.random.default_rng(1)
    (x0, y0, z0), (x1, y1, z1) = piece.bounds
    targets = rng.uniform((x0, y0, z0), (x1, y1, z1), (60, 3))
    offsets = rng.normal(size=(60, 3))
    offsets[:, 1] = np.abs(offsets[:, 1]) if piece.mount != "ceiling" else -np.abs(offsets[:, 1])
    offsets[:, 2] = -np.abs(offsets[:, 2]) - 0.2  # seen from the front: backs at walls need no faces
    offsets *= 4.0 / np.linalg.norm(offsets, axis=1, keepdims=True)
    hits = first_hits(arrays, targets + offsets, -offsets / 4.0)
    assert len(hits) >= 3
    assert np.mean([front for _, _, front in hits]) >= 0.95


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_pieces_have_sensible_sizes(name: str) -> None:
    for seed in range(4):
        piece = piece_of(name, seed)
        (_, y0, _), _ = piece.bounds
        width, depth, height = piece.size
        assert -0.05 <= y0 <= 0.15
        assert 0.05 <= width <= 2.6 and 0.01 <= depth <= 2.2 and 0.01 <= height <= 2.2
        assert len(arrays_of(piece.model).triangles) <= 260
        assert piece.colour is None or piece.colour in PALETTE


@pytest.mark.parametrize("colour", sorted(PALETTE))
def test_a_box_of_a_colour_has_that_colour(colour: str) -> None:
    rng = np.random.default_rng(3)
    assert build("box", rng, Style.sample(rng), colour=colour).colour == colour


def test_colours_are_told_apart_even_when_shaded() -> None:
    for name, rgb in PALETTE.items():
        for factor in (1.0, 0.9, 0.8):
            assert nearest_colour(np.array(rgb) * factor) == name or name == "white"


def test_unknown_names_are_errors() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no furniture is called 'throne'"):
        build("throne", rng, Style.sample(rng))
    with pytest.raises(ValueError, match="unknown colour 'ultraviolet'"):
        colour_rgb("ultraviolet")
    assert colour_name("walnut") == "brown"


def test_vivid_colours_are_used_evenly() -> None:
    rng = np.random.default_rng(5)
    counts = Counter(build("armchair", rng, Style.sample(rng)).colour for _ in range(400))
    assert len(counts) >= 12
    assert max(counts.values()) < 90


def test_model_primitives_enclose_their_volume() -> None:
    def volume(arrays: MeshArrays) -> float:
        corners = arrays.vertices[arrays.triangles].astype(np.float64)
        return float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6.0)

    box, ball, column = Model(), Model(), Model()
    box.box((-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5), "red", hide="")
    ball.ellipsoid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "red", sides=16, rings=12)
    column.cylinder((0.0, 0.0), 1.0, (0.0, 1.0), "red", sides=16)
    assert volume(arrays_of(box)) == pytest.approx(2.0)
    assert volume(arrays_of(ball)) == pytest.approx(4.19, rel=0.1)
    assert volume(arrays_of(column)) == pytest.approx(3.14, rel=0.05)  # its open bottom lies at y = 0
