"""Navigation meshes built from scenes: agreement with habitat's recorded ones, and how long building takes.

    taskset -c 0 python benchmarks/navmesh.py [--large]

The meshes are built of the flats' GLBs with habitat's default settings; answers are compared with habitat's recorded
ones, not with those of the recorded mesh. Times are CPU seconds of one thread, the least of three rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from streamvln_gym.geometry import forward_vector, quaternion_to_yaw
from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES
from streamvln_gym.simulators.embedded.detour_file import TileSet
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.recast.build import build_tiles
from streamvln_gym.simulators.embedded.scene import load_glb

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden_habitat"
FLATS = ("flat0", "flat1", "flat3", "flat4")
TURN = np.radians(TURN_DEGREES)


def forward(position: np.ndarray, yaw: float) -> np.ndarray:
    return position + FORWARD_METRES * forward_vector(yaw)


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of a call, the least of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def main_island(mesh: NavigationMesh) -> shapely.Geometry:
    """The main island seen from above."""
    chosen = np.flatnonzero(mesh.islands == mesh.largest_island)
    rows = [mesh.polygons[p, : mesh.vertex_counts[p]] for p in chosen]
    return shapely.union_all([shapely.Polygon(mesh.vertices[row][:, [0, 2]]) for row in rows])


def replay(mesh: NavigationMesh, start: np.ndarray, yaw: float, actions: np.ndarray) -> tuple[np.ndarray, float]:
    """Where recorded actions lead on a mesh, and the metres travelled."""
    position, length = start.astype(np.float64), 0.0
    for action in actions:
        if action == 1:
            reached, _ = mesh.try_step(position, forward(position, yaw))
            length += float(np.linalg.norm(reached - position))
            position = reached
        else:
            yaw += TURN if action == 2 else -TURN
    return position, length


def oracle_agreement(mesh: NavigationMesh, runs: dict[str, np.ndarray]) -> tuple[float, float]:
    """Share of habitat's oracle runs with the same success when replayed, and the greatest difference of SPL."""
    same, worst = [], 0.0
    for k in range(len(runs["start"])):
        actions = runs["actions"][runs["offsets"][k] : runs["offsets"][k + 1]]
        yaw = quaternion_to_yaw(runs["rot"][k])
        end, length = replay(mesh, runs["start"][k], yaw, actions)
        shortest = mesh.geodesic_distance(runs["start"][k], runs["goal"][k])
        success = bool(runs["stopped"][k]) and mesh.geodesic_distance(end, runs["goal"][k]) < 0.25
        recorded = bool(runs["stopped"][k]) and float(runs["final_geodesic"][k]) < 0.25
        spl = success * shortest / max(shortest, length)
        recorded_spl = recorded * float(runs["geodesic"][k]) / max(float(runs["geodesic"][k]), float(runs["length"][k]))
        same.append(success == recorded)
        worst = max(worst, abs(spl - recorded_spl))
    return float(np.mean(same)), worst


def agreement(mesh: NavigationMesh, golden: dict[str, np.ndarray], runs: dict[str, np.ndarray]) -> dict[str, float]:
    """How a built mesh compares with habitat's recorded one and with habitat's recorded answers."""
    recorded = NavigationMesh.from_polygons(
        golden["poly_vertices"], golden["poly_index"], golden["poly_neighbour"].astype(np.int32) - 1
    )
    own, theirs = main_island(mesh), main_island(recorded)
    pairs = zip(golden["geo_start"], golden["geo_end"], strict=True)
    distances = np.array([mesh.geodesic_distance(start, end) for start, end in pairs])
    geodesic = np.abs(distances - golden["geo_dist"]) / golden["geo_dist"]
    starts, yaws = golden["step_start"].astype(np.float64), golden["step_yaw"].astype(np.float64)
    steps = [mesh.try_step(start, forward(start, yaw)) for start, yaw in zip(starts, yaws, strict=True)]
    off = np.linalg.norm(np.array([end for end, _ in steps]) - golden["step_end"], axis=1)
    same, spl = oracle_agreement(mesh, runs)
    return {
        "iou": own.intersection(theirs).area / own.union(theirs).area,
        "geodesic_mean": float(geodesic.mean()),
        "geodesic_max": float(geodesic.max()),
        "steps_within_1cm": float((off <= 0.01).mean()),
        "collided_agrees": float((np.array([collided for _, collided in steps]) == golden["step_collided"]).mean()),
        "oracle_success": same,
        "oracle_spl": spl,
    }


def load_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Habitat's recorded answers and oracle runs of one flat."""
    with np.load(GOLDEN / "navigation" / f"{name}.npz") as archive:
        golden = {key: archive[key] for key in archive.files}
    with np.load(GOLDEN / "navmesh" / "oracle.npz") as archive:
        runs = {key[len(name) + 1 :]: archive[key] for key in archive.files if key.startswith(name)}
    return golden, runs


def large_scene(target: int = 1_000_000) -> np.ndarray:
    """About `target` triangles of a house of 20 x 20 x 6 m: two storeys of finely meshed slabs, walls and furniture."""
    rng = np.random.default_rng(0)
    boxes = [((0, -0.2, 0), (20, 0, 20)), ((0, 2.8, 0), (16, 3, 20))]
    for y in (0.0, 3.0):
        boxes += [((x, y, 0), (x + 0.1, y + 2.7, 8)) for x in range(0, 20, 4)]
        boxes += [((x, y, 10), (x + 0.1, y + 2.7, 20)) for x in range(2, 20, 4)]
        for _ in range(150):
            x, z = rng.uniform(0.5, 18.5, 2)
            w, h, d = rng.uniform(0.3, 1.2, 3)
            boxes.append(((x, y, z), (x + w, y + h, z + d)))
    area = sum(_area(*box) for box in boxes)
    spacing = (2.0 * area / target) ** 0.5
    return np.concatenate([_meshed_box(np.array(box, float), spacing, rng) for box in boxes])


def _area(low: tuple[float, ...], high: tuple[float, ...]) -> float:
    w, h, d = np.subtract(high, low)
    return 2.0 * float(w * h + h * d + d * w)


def _meshed_box(box: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """The sides of a box (low and high corner) as a grid of uneven triangles, like a scan's."""
    low, high = box
    parts = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for level, flip in ((low[axis], True), (high[axis], False)):
            a = np.linspace(low[u], high[u], max(int((high[u] - low[u]) / spacing), 1) + 1)
            b = np.linspace(low[v], high[v], max(int((high[v] - low[v]) / spacing), 1) + 1)
            grid = np.empty((len(a), len(b), 3))
            grid[..., axis] = level + rng.uniform(-0.01, 0.01, grid.shape[:2])
            grid[..., u], grid[..., v] = np.meshgrid(a, b, indexing="ij")
            p, q, r, s = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
            corners = np.concatenate([np.stack([p, q, r], 2), np.stack([p, r, s], 2)]).reshape(-1, 3, 3)
            parts.append(corners[:, ::-1] if flip else corners)
    return np.concatenate(parts).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also time a scene of about a million triangles")
    options = parser.parse_args()
    print(
        "flat   polygons  file's bytes       IoU  geodesic mean      max  steps <= 1 cm  collided  oracle    SPL off"
        "  CPU s"
    )
    for name in FLATS:
        triangles = load_glb(GOLDEN / "render" / f"{name}.glb", up="y").triangles
        tiles = build_tiles(triangles)
        same = tiles.to_bytes() == (GOLDEN / "navmesh" / f"{name}.navmesh").read_bytes()
        mesh, took = tiles.mesh(), seconds(lambda triangles=triangles: build_tiles(triangles))
        row = agreement(mesh, *load_golden(name))
        print(
            f"{name:6}{len(mesh.polygons):9}{'the same' if same else 'differ':>14}{row['iou']:10.5f}"
            f"{row['geodesic_mean']:15.4%}{row['geodesic_max']:9.3%}{row['steps_within_1cm']:15.1%}"
            f"{row['collided_agrees']:10.1%}{row['oracle_success']:8.0%}{row['oracle_spl']:11.1e}{took:7.2f}"
        )
    reading = seconds(lambda: TileSet.read(GOLDEN / "navmesh" / "flat4.navmesh").mesh())
    print(f"reading flat4.navmesh: {reading * 1e3:.1f} ms CPU")
    if options.large:
        triangles = large_scene()
        started = time.process_time()
        mesh = build_tiles(triangles).mesh()
        print(
            f"{len(triangles)} triangles, 20 x 20 x 6 m: {len(mesh.polygons)} polygons, {len(mesh.island_areas)} "
            f"islands, {time.process_time() - started:.1f} s CPU"
        )


if __name__ == "__main__":
    main()
