"""Navigation mesh: agreement with habitat's recorded answers, and timings of queries and of building.

    taskset -c 0 python benchmarks/navigation.py

Timings are the least of several rounds, Python overhead included.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from streamvln_gym.geometry import forward_vector, quaternion_to_yaw
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh, compile_kernels
from streamvln_gym.simulators.embedded.navmesh_builder import Rect, build_navigation_mesh, walkable_area

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden_habitat" / "navigation"
STEP = 0.25
TURN = math.radians(15.0)
WALL = 0.12


def forward(position: np.ndarray, yaw: float) -> np.ndarray:
    return position + STEP * forward_vector(yaw)


def replay_walk(mesh: NavigationMesh, golden: dict[str, np.ndarray], walk: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and collided flags of a recorded walk's actions, run freely from its start."""
    position = golden["walk_pos"][walk, 0].astype(np.float64)
    yaw = quaternion_to_yaw(golden["walk_start_rot"][walk])
    positions, flags = [], []
    for action in golden["walk_act"][walk]:
        collided = False
        if action == 1:
            position, collided = mesh.try_step(position, forward(position, yaw))
        else:
            yaw += TURN if action == 2 else -TURN
        positions.append(position)
        flags.append(collided)
    return np.array(positions), np.array(flags)


def agreement(name: str) -> str:
    """One row of the table: greatest differences from habitat on one flat."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        golden = {key: archive[key] for key in archive.files}
    mesh = NavigationMesh.from_polygons(
        golden["poly_vertices"], golden["poly_index"], golden["poly_neighbour"].astype(np.int32) - 1
    )
    starts, yaws = golden["step_start"].astype(np.float64), golden["step_yaw"].astype(np.float64)
    steps = [mesh.try_step(start, forward(start, yaw)) for start, yaw in zip(starts, yaws, strict=True)]
    step_error = np.abs(np.array([end for end, _ in steps]) - golden["step_end"]).max()
    same = [np.array([collided for _, collided in steps]) == golden["step_collided"]]
    walk_error = 0.0
    for walk in range(len(golden["walk_act"])):
        positions, flags = replay_walk(mesh, golden, walk)
        walk_error = max(walk_error, np.abs(positions - golden["walk_pos"][walk, 1:]).max())
        same.append(flags == golden["walk_collided"][walk])
    pairs = zip(golden["geo_start"], golden["geo_end"], strict=True)
    geodesic_error = np.abs([mesh.geodesic_distance(a, b) for a, b in pairs] - golden["geo_dist"])
    snapped = np.array([mesh.snap_point(point) for point in golden["snap_in"]])
    snap_error = np.abs(snapped - golden["snap_out"]).max()
    obstacle = [mesh.distance_to_obstacle(p) for p in golden["points"]] - golden["points_obstacle_dist"]
    return (
        f"{name:6}{len(mesh.polygons):9}{step_error:11.1e}{walk_error:11.1e}{np.concatenate(same).mean():10.2%}"
        f"{geodesic_error.max():12.1e}{(geodesic_error < 1e-3).mean():9.1%}{snap_error:10.1e}"
        f"{np.abs(obstacle).max():11.1e}"
    )


def flat_plan(seed: int, columns: int = 7, furniture: int = 60) -> tuple[list[Rect], list[Rect], list[Rect]]:
    """Floors, doorways and obstacles of a flat: two rows of rooms along a hallway."""
    rng = np.random.default_rng(seed)
    width = 4.0 * columns
    floors: list[Rect] = [(0.0, 4.5, width, 6.0)]
    doorways: list[Rect] = []
    obstacles: list[Rect] = []
    for z0, z1, door_z in ((0.0, 4.5 - WALL, 4.5 - WALL), (6.0 + WALL, 10.5, 6.0)):
        cuts = np.concatenate([[0.0], np.arange(1, columns) * 4.0 + rng.uniform(-0.5, 0.5, columns - 1), [width]])
        for x0, x1 in itertools.pairwise(cuts):
            floors.append((x0 + WALL / 2, z0, x1 - WALL / 2, z1))
            door_x = rng.uniform(x0 + 0.7, x1 - 0.7)
            doorways.append((door_x - 0.45, door_z, door_x + 0.45, door_z + WALL))
    for k in range(furniture):
        x0, z0, x1, z1 = floors[1 + k % (2 * columns)]
        w, d = rng.uniform(0.4, 1.3, 2)
        x, z = rng.uniform(x0, x1 - w), rng.uniform(z0 + 0.6, z1 - d - 0.6)
        obstacles.append((x, z, x + w, z + d))
    return floors, doorways, obstacles


def microseconds(call: Callable, *arguments: Sequence) -> float:
    """Mean time of a call over the arguments, the least of 15 rounds, microseconds."""
    best = math.inf
    for _ in range(15):
        started = time.perf_counter()
        for values in zip(*arguments, strict=True):
            call(*values)
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / len(arguments[0])


def print_timings() -> None:
    plan = flat_plan(0)
    mesh = build_navigation_mesh(walkable_area(*plan))
    rng = np.random.default_rng(0)
    points = [mesh.random_point(rng, island=mesh.largest_island) for _ in range(400)]
    ends = [forward(point, yaw) for point, yaw in zip(points, rng.uniform(0.0, 2.0 * math.pi, 400), strict=True)]
    walls = [mesh.move_along_surface(point, point + np.array([1.5, 0.0, 0.0])) for point in points]
    goals = points[::-1]
    lengths = [mesh.geodesic_distance(a, b) for a, b in zip(points, goals, strict=True)]
    print(f"\nflat of 14 rooms, {len(plan[2])} pieces of furniture: {len(mesh.polygons)} polygons, "
          f"goals {np.mean(lengths):.1f} m away on average")  # fmt: skip
    for name, call, arguments in (
        ("try_step", mesh.try_step, (points, ends)),
        ("geodesic_distance", mesh.geodesic_distance, (points, goals)),
        ("find_path", mesh.find_path, (points, goals)),
        ("snap_point", mesh.snap_point, (points,)),
        ("snap_point (at a wall)", mesh.snap_point, (walls,)),
        ("is_navigable", mesh.is_navigable, (points,)),
        ("distance_to_obstacle", mesh.distance_to_obstacle, (points,)),
        ("random_point", lambda _: mesh.random_point(rng), (points,)),
    ):
        print(f"  {name:24}{microseconds(call, *arguments):7.1f} us")
    building = microseconds(lambda number: build_navigation_mesh(walkable_area(*plan)), (0,))
    print(f"  {'build from the plan':24}{building / 1e3:7.1f} ms")


def main() -> None:
    started = time.perf_counter()
    compile_kernels()
    print(f"kernels ready after {time.perf_counter() - started:.2f} s\n")
    print("greatest difference from habitat, metres")
    print("flat   polygons       step       walk  collided    geodesic   < 1 mm      snap   obstacle")
    for path in sorted(GOLDEN.glob("flat*.npz")):
        print(agreement(path.stem))
    print_timings()


if __name__ == "__main__":
    main()
