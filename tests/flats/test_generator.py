"""Generated flats: determinism, checks, budget, the GLB, colours, the scene graph."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from shapely.geometry import Point, box
from shapely.ops import unary_union

from streamvln_gym.flats.checks import check_flat, walkable_parts
from streamvln_gym.flats.generator import Flat, generate_flat
from streamvln_gym.flats.glb import glb_bytes, write_glb, write_stage_config
from streamvln_gym.flats.palette import PALETTE
from streamvln_gym.scene_graph import SceneGraph
from tests.flats.colours import nearest_colour
from tests.flats.test_furniture import first_hits

SEEDS = range(40)


@pytest.fixture(scope="module")
def flats() -> list[Flat]:
    return [generate_flat(seed) for seed in SEEDS]


def test_same_seed_same_bytes(flats: list[Flat]) -> None:
    for seed in (3, 12):
        again = generate_flat(seed)
        assert glb_bytes(again) == glb_bytes(flats[seed])
        assert again.graph.to_json() == flats[seed].graph.to_json()
    assert glb_bytes(flats[3]) != glb_bytes(flats[4])


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True])
def test_bad_seeds_are_errors(seed: object) -> None:
    with pytest.raises(ValueError, match="a scene seed must be an integer"):
        generate_flat(seed)  # type: ignore[arg-type]


def test_checks_pass(flats: list[Flat]) -> None:
    assert all(check_flat(flat) == [] for flat in flats)
    assert [flat.graph.name for flat in flats[:2]] == ["flat_000000", "flat_000001"]


def test_checks_find_what_is_wrong(flats: list[Flat]) -> None:
    flat = flats[0]
    x, z = flat.graph.doors[0].position
    blocked = replace(flat, obstacles=(*flat.obstacles, (x - 0.6, z - 0.6, x + 0.6, z + 0.6)))
    assert any("door 0 is blocked" in problem for problem in check_flat(blocked))
    objects = list(flat.graph.objects)
    k = next(o.id for o in flat.graph.furnishings if o.mount == "floor" and o.category != "rug")
    a, b, c, d = objects[k].footprint
    objects[k] = replace(objects[k], footprint=(a + 30, b, c + 30, d), colour="ultraviolet")
    problems = check_flat(replace(flat, graph=replace(flat.graph, objects=tuple(objects))))
    assert any("reaches out of" in problem for problem in problems)
    assert any("unknown colour 'ultraviolet'" in problem for problem in problems)


def test_variety(flats: list[Flat]) -> None:
    categories = Counter(o.category for flat in flats for o in flat.graph.furnishings)
    assert len(categories) >= 60
    assert len({room.type for flat in flats for room in flat.graph.rooms}) >= 13
    assert {o.colour for flat in flats for o in flat.graph.furnishings} >= set(PALETTE)
    assert sum(flat.archetype == "corridor" for flat in flats) >= 0.35 * len(flats)
    assert {o.mount for flat in flats for o in flat.graph.furnishings} == {"floor", "wall", "ceiling", "top"}


def test_budget(flats: list[Flat]) -> None:
    counts = np.array([len(flat.mesh.triangles) for flat in flats])
    assert counts.min() >= 2000 and counts.max() <= 13000
    assert np.mean((counts >= 3000) & (counts <= 10500)) >= 0.8
    for flat in flats[:10]:
        assert len(glb_bytes(flat)) <= 1_200_000
        assert len(np.unique(flat.mesh.texture_ids)) <= 16


def test_ways_are_wide(flats: list[Flat]) -> None:
    for flat in flats:
        halls = [room for room in flat.graph.rooms if room.type == "hallway"]
        for hall in halls:
            free = box(*hall.rect).difference(unary_union([box(*rect) for rect in flat.obstacles]))
            openings = unary_union([box(*d).buffer(0.5, join_style="mitre") for d in flat.doorways])
            ways = free.union(openings).buffer(-0.399, join_style="mitre")
            parts = list(getattr(ways, "geoms", [ways]))
            doors = [d for d in flat.graph.doors_of(hall.id) if d.kind == "door"]
            main = max(parts, key=lambda part: sum(part.intersects(Point(d.position).buffer(0.15)) for d in doors))
            assert all(main.intersects(Point(d.position).buffer(0.15)) for d in doors), flat.graph.name


def test_everything_is_seen_from_its_front_and_nothing_is_open(flats: list[Flat]) -> None:
    hits = 0
    wrong: Counter[str] = Counter()
    for flat in flats[:8]:
        rng = np.random.default_rng(flat.graph.seed)
        main = max(walkable_parts(flat), key=lambda part: part.area)
        x0, z0, x1, z1 = main.bounds
        spots = [p for p in rng.uniform((x0, z0), (x1, z1), (200, 2)) if main.contains(Point(p))][:60]
        origins = np.array([(x, 1.45, z) for x, z in spots])
        directions = rng.normal(size=origins.shape) * (1.0, 0.5, 1.0)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        found = first_hits(flat.mesh, origins, directions)
        assert len(found) == len(origins)  # a closed shell: every ray ends somewhere
        hits += len(found)
        wrong.update(flat.graph.objects[flat.mesh.object_ids[k]].category for k, _, front in found if not front)
    assert sum(wrong.values()) <= 0.005 * hits, wrong


def test_glb_round_trip(flats: list[Flat], tmp_path: Path) -> None:
    flat = flats[5]
    path = tmp_path / "flat_000005.glb"
    write_glb(flat, path)
    write_stage_config(path)
    scene = trimesh.load(path, force="scene", process=False)
    meshes = list(scene.geometry.values())
    assert sum(len(mesh.faces) for mesh in meshes) == len(flat.mesh.triangles)
    corners = np.concatenate([np.asarray(mesh.triangles) for mesh in meshes])
    np.testing.assert_allclose(corners, flat.mesh.vertices[flat.mesh.triangles], atol=1e-6)
    assert all(mesh.visual.uv is not None for mesh in meshes)
    document = path.read_bytes()
    length = int.from_bytes(document[12:16], "little")
    tree = json.loads(document[20 : 20 + length])
    assert all("COLOR_0" in p["attributes"] for p in tree["meshes"][0]["primitives"])
    assert all("KHR_materials_unlit" in m["extensions"] for m in tree["materials"])
    config = json.loads((tmp_path / "flat_000005.stage_config.json").read_text())
    assert config["up"] == [0, 1, 0] and config["front"] == [0, 0, -1] and config["shader_type"] == "flat"


def test_triangles_come_in_the_order_of_the_primitives(flats: list[Flat]) -> None:
    for flat in flats[:10]:
        assert (np.diff(flat.mesh.texture_ids) >= 0).all()
        assert set(flat.mesh.object_ids.tolist()) == set(range(len(flat.graph.objects)))


def test_recorded_colours_are_drawn(flats: list[Flat]) -> None:
    """By area, the colour on record is the most frequent among an object's triangles (as shaded)."""
    total = right = 0
    for flat in flats[:12]:
        mesh = flat.mesh
        corners = mesh.vertices[mesh.triangles].astype(np.float64)
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        means = mesh.colours[mesh.triangles].mean(1)
        for o in flat.graph.furnishings:
            if o.colour is None:
                continue
            shares: Counter[str] = Counter()
            for k in np.flatnonzero(mesh.object_ids == o.id):
                shares[nearest_colour(means[k])] += areas[k]
            total += 1
            right += shares.most_common(1)[0][0] == o.colour
    assert right / total > 0.98


def test_footprints_hold_what_is_drawn(flats: list[Flat]) -> None:
    for flat in flats[:6]:
        for o in flat.graph.furnishings:
            points = flat.mesh.vertices[flat.mesh.triangles[flat.mesh.object_ids == o.id]].reshape(-1, 3)
            low, high = points.min(0), points.max(0)
            assert low[0] >= o.footprint[0] - 0.002 and low[2] >= o.footprint[1] - 0.002
            assert high[0] <= o.footprint[2] + 0.002 and high[2] <= o.footprint[3] + 0.002
            assert high[1] <= o.height[1] + 0.002 and low[1] >= o.height[0] - 0.04


def test_scene_graph_round_trip(flats: list[Flat]) -> None:
    for flat in flats[:10]:
        assert SceneGraph.from_json(flat.graph.to_json()) == flat.graph
