"""NavigationMesh: habitat's recorded answers, several levels, islands, bad input, files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import NavigationError, SceneError
from streamvln_gym.geometry import forward_vector, quaternion_to_yaw
from streamvln_gym.simulators.embedded import detour, detour_path
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh, compile_kernels

GOLDEN = Path(__file__).parents[1] / "data" / "golden_habitat" / "navigation"
FLATS = ("flat0", "flat1", "flat3", "flat4")
STEP = 0.25
TURN = math.radians(15.0)


@pytest.fixture(scope="module", params=FLATS)
def recorded(request) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{request.param}.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def mesh(recorded) -> NavigationMesh:
    neighbours = recorded["poly_neighbour"].astype(np.int32) - 1
    return NavigationMesh.from_polygons(recorded["poly_vertices"], recorded["poly_index"], neighbours)


def forward(position: np.ndarray, yaw: float) -> np.ndarray:
    return position + STEP * forward_vector(yaw)


class TestAgainstHabitat:
    def test_single_steps(self, recorded, mesh):
        starts, yaws = recorded["step_start"].astype(np.float64), recorded["step_yaw"].astype(np.float64)
        results = [mesh.try_step(start, forward(start, yaw)) for start, yaw in zip(starts, yaws, strict=True)]
        np.testing.assert_allclose([end for end, _ in results], recorded["step_end"], rtol=0, atol=1e-5)
        np.testing.assert_array_equal([collided for _, collided in results], recorded["step_collided"])

    def test_free_running_walks(self, recorded, mesh):
        for walk in range(len(recorded["walk_act"])):
            position = recorded["walk_pos"][walk, 0].astype(np.float64)
            yaw = quaternion_to_yaw(recorded["walk_start_rot"][walk])
            positions, flags = [], []
            for action in recorded["walk_act"][walk]:
                collided = False
                if action == 1:
                    position, collided = mesh.try_step(position, forward(position, yaw))
                else:
                    yaw += TURN if action == 2 else -TURN
                positions.append(position)
                flags.append(collided)
            np.testing.assert_allclose(positions, recorded["walk_pos"][walk, 1:], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(flags, recorded["walk_collided"][walk])

    def test_geodesic_distances(self, recorded, mesh):
        pairs = zip(recorded["geo_start"], recorded["geo_end"], strict=True)
        distances = [mesh.geodesic_distance(start, end) for start, end in pairs]
        np.testing.assert_allclose(distances, recorded["geo_dist"], rtol=0, atol=1e-4)

    def test_path_points(self, recorded, mesh):
        offsets = recorded["path_offsets"]
        for i in range(len(offsets) - 1):
            path = mesh.find_path(recorded["geo_start"][i], recorded["geo_end"][i])
            np.testing.assert_allclose(path, recorded["path_points"][offsets[i] : offsets[i + 1]], rtol=0, atol=1e-5)

    def test_snap_navigable_island(self, recorded, mesh):
        points = recorded["snap_in"]
        np.testing.assert_allclose([mesh.snap_point(p) for p in points], recorded["snap_out"], rtol=0, atol=1e-5)
        on_main = [mesh.snap_point(p, island=mesh.largest_island) for p in points]
        np.testing.assert_allclose(on_main, recorded["snap_out_main"], rtol=0, atol=1e-5)
        np.testing.assert_array_equal([mesh.is_navigable(p) for p in points], recorded["snap_navigable"])
        np.testing.assert_array_equal([mesh.island_of(p) for p in points], recorded["snap_island"])

    def test_distance_to_obstacle(self, recorded, mesh):
        distances = [mesh.distance_to_obstacle(p) for p in recorded["points"]]
        np.testing.assert_allclose(distances, recorded["points_obstacle_dist"], rtol=0, atol=1e-5)

    def test_top_down_map(self, recorded, mesh):
        rows, columns = recorded["topdown_shape"]
        expected = np.unpackbits(recorded["topdown_bits"], count=rows * columns).reshape(rows, columns).astype(bool)
        origin = recorded["scene_bounds"][0].astype(np.float64)
        js, i_s = np.mgrid[1:rows:4, 2:columns:4]
        for j, i in zip(js.ravel(), i_s.ravel(), strict=True):
            point = np.array([origin[0] + (i + 0.5) * 0.05, 0.2, origin[2] + (j + 0.5) * 0.05])
            navigable = mesh.is_navigable(point, max_y_delta=0.1) and mesh.island_of(point) == mesh.largest_island
            assert navigable == expected[j, i], f"cell {j}, {i}"

    def test_neighbours_and_islands_can_be_derived(self, recorded, mesh):
        derived = NavigationMesh.from_polygons(recorded["poly_vertices"], recorded["poly_index"].astype(np.int32))
        np.testing.assert_array_equal(derived.neighbours, mesh.neighbours)
        np.testing.assert_array_equal(derived.islands, recorded["poly_island"])

    def test_random_walk_stays_on_the_mesh(self, mesh):
        rng = np.random.default_rng(7)
        position = mesh.random_point(rng, island=mesh.largest_island)
        for turn in rng.normal(0.0, 0.7, size=3000).cumsum():
            position, _ = mesh.try_step(position, forward(position, float(turn)))
            assert mesh.is_navigable(position)
            assert mesh.island_of(position) == mesh.largest_island

    def test_distances_are_plausible(self, mesh):
        rng = np.random.default_rng(8)
        points = [mesh.random_point(rng, island=mesh.largest_island) for _ in range(120)]
        ratios = []
        for a, b, c in zip(points, points[1:], points[2:], strict=False):
            ab, ba, bc, ac = (mesh.geodesic_distance(*pair) for pair in ((a, b), (b, a), (b, c), (a, c)))
            assert ab >= np.linalg.norm(a - b) - 1e-9
            assert mesh.geodesic_distance(a, a) == 0.0
            assert ac <= 1.3 * (ab + bc)
            ratios.append(abs(ab - ba) / ab)
        assert np.quantile(ratios, 0.95) < 0.1  # A* over edge midpoints is not symmetric; neither is habitat's


def two_floors() -> NavigationMesh:
    """A room, a ramp up along x from x = 4 to 8, and an upper floor that leads back over the room."""
    vertices = [
        [0, 0, 0], [4, 0, 0], [4, 0, 2], [0, 0, 2],
        [8, 3, 0], [8, 3, 2], [10, 3, 0], [10, 3, 2],
        [10, 3, 4], [8, 3, 4], [0, 3, 4], [0, 3, 2], [4, 3, 2], [0, 3, 0], [4, 3, 0],
    ]  # fmt: skip
    polygons = [[0, 3, 2, 1], [1, 2, 5, 4], [4, 5, 7, 6], [5, 9, 8, 7], [12, 11, 10, 9, 5], [13, 11, 12, 14]]
    return NavigationMesh.from_polygons(vertices, [row + [-1] * (6 - len(row)) for row in polygons])


def squares(gap: float = 0.0) -> NavigationMesh:
    """Two unit squares side by side along x that are no neighbours of each other."""
    vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]]
    vertices += [[x + 1 + gap, y, z] for x, y, z in vertices]
    walls = np.full((2, 4), -1)
    return NavigationMesh.from_polygons(vertices, np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), walls)


class TestLevels:
    def test_snap_takes_the_level_of_the_point(self):
        mesh = two_floors()
        assert len(mesh.island_areas) == 1
        np.testing.assert_allclose(mesh.snap_point([1.0, 0.3, 1.0]), [1.0, 0.0, 1.0])
        np.testing.assert_allclose(mesh.snap_point([1.0, 2.8, 1.0]), [1.0, 3.0, 1.0])
        assert mesh.is_navigable([1.0, 3.1, 1.0]) and not mesh.is_navigable([1.0, 1.5, 1.0])

    def test_walks_up_the_ramp_without_collision(self):
        mesh = two_floors()
        position = np.array([3.1, 0.0, 1.0])
        heights = []
        for _ in range(23):
            position, collided = mesh.try_step(position, position + np.array([STEP, 0.0, 0.0]))
            assert not collided
            heights.append(position[1])
        assert heights[0] == 0.0 and heights[-1] == 3.0
        on_ramp = [h for h in heights if 0.0 < h < 3.0]
        np.testing.assert_allclose(np.diff(on_ramp), STEP * 3.0 / 4.0)

    def test_path_between_the_levels(self):
        mesh = two_floors()
        path = mesh.find_path([1.0, 0.0, 1.0], [1.0, 3.0, 1.0])
        np.testing.assert_allclose(path[[0, -1]], [[1.0, 0.0, 1.0], [1.0, 3.0, 1.0]])
        length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        assert mesh.geodesic_distance([1.0, 0.0, 1.0], [1.0, 3.0, 1.0]) == pytest.approx(length)
        assert 14.0 < length < 20.0

    def test_random_points_are_uniform_by_area(self):
        mesh = two_floors()
        rng = np.random.default_rng(0)
        points = np.array([mesh.random_point(rng) for _ in range(4000)])
        assert all(mesh.is_navigable(p, max_y_delta=1e-6) for p in points)
        total = mesh.island_areas.sum()
        assert np.mean(points[:, 1] == 0.0) == pytest.approx(8.0 / total, abs=0.03)
        corridor = (points[:, 2] > 2.0) & (points[:, 0] < 8.0)
        assert corridor.mean() == pytest.approx(16.0 / total, abs=0.03)


class TestIslands:
    def test_no_path_to_another_island(self):
        mesh = squares(gap=0.5)
        a, b = [0.5, 0.0, 0.5], [2.0, 0.0, 0.5]
        assert mesh.find_path(a, b) is None
        assert mesh.geodesic_distance(a, b) == math.inf
        assert mesh.geodesic_distance(a, [b, [0.5, 0.0, 0.9]]) == pytest.approx(0.4)
        assert (mesh.island_of(a), mesh.island_of(b)) == (0, 1)
        np.testing.assert_allclose(mesh.snap_point(a, island=1), [1.5, 0.0, 0.5])

    def test_infinitely_thin_wall_is_not_crossed(self):
        mesh = squares()
        rng = np.random.default_rng(3)
        for island, x in ((0, 0.5), (1, 1.5)):
            position = np.array([x, 0.0, 0.5])
            for yaw in rng.uniform(0.0, 2.0 * math.pi, size=500):
                position = mesh.move_along_surface(position, forward(position, yaw))
                assert mesh.island_of(position) == island

    def test_the_nearest_goal_counts(self):
        mesh = two_floors()
        start = [1.0, 0.0, 1.0]
        goals = [[1.0, 3.0, 1.0], [3.0, 0.0, 1.0], [2.0, 0.0, 0.5]]
        assert mesh.geodesic_distance(start, goals) == pytest.approx(math.hypot(1.0, 0.5))
        assert mesh.geodesic_distance(start, [[500.0, 0.0, 0.0], goals[1]]) == pytest.approx(2.0)

    def test_random_point_of_one_island(self):
        mesh = squares(gap=0.5)
        rng = np.random.default_rng(1)
        assert all(mesh.random_point(rng, island=1)[0] >= 1.5 for _ in range(200))


class TestSliding:
    def test_collided_and_slides_along_the_wall(self):
        mesh = squares(gap=0.5)
        end, collided = mesh.try_step([0.9, 0.0, 0.2], [1.1, 0.0, 0.35])
        np.testing.assert_allclose(end, [1.0, 0.0, 0.35])
        assert collided is True
        end, collided = mesh.try_step([0.2, 0.0, 0.2], [0.4, 0.0, 0.35])
        np.testing.assert_allclose(end, [0.4, 0.0, 0.35])
        assert collided is False

    def test_is_clear_is_navigable_and_far_from_walls(self, recorded, mesh):
        rng = np.random.default_rng(0)
        points = [p + rng.normal(0.0, 0.02, 3) for p in recorded["points"][:200]]
        expected = [
            mesh.is_navigable(p) and mesh.island_of(p) == mesh.largest_island and mesh.distance_to_obstacle(p) >= 0.3
            for p in points
        ]
        assert [mesh.is_clear(p, mesh.largest_island, 0.3) for p in points] == expected
        assert 20 < sum(expected) < 180

    def test_distance_to_obstacle_is_capped(self):
        mesh = two_floors()
        assert mesh.distance_to_obstacle([4.0, 0.0, 0.7]) == pytest.approx(0.7)
        assert mesh.distance_to_obstacle([4.0, 0.0, 1.0], max_radius=0.3) == pytest.approx(0.3)


class TestBadInput:
    @pytest.mark.parametrize("point", [[math.nan, 0.0, 0.0], [0.0, math.inf, 0.0], [0.0, 0.0, -math.inf]])
    def test_not_finite(self, point):
        mesh, inside = squares(), [0.5, 0.0, 0.5]
        for call in (mesh.snap_point, mesh.is_navigable, mesh.island_of, mesh.distance_to_obstacle):
            with pytest.raises(ValueError, match="finite"):
                call(point)
        for call in (mesh.try_step, mesh.move_along_surface, mesh.find_path, mesh.geodesic_distance):
            with pytest.raises(ValueError, match="finite"):
                call(point, inside)
            with pytest.raises(ValueError, match="finite"):
                call(inside, point)

    @pytest.mark.parametrize("point", [[0.0, 0.0], [0.0, 0.0, 0.0, 0.0], 1.0, [[0.0, 0.0, 0.0]]])
    def test_wrong_shape(self, point):
        with pytest.raises(ValueError, match="shape"):
            squares().snap_point(point)
        with pytest.raises(ValueError, match="shape"):
            squares().try_step(point, [0.5, 0.0, 0.5])

    @pytest.mark.parametrize("goals", [[], [0.0, 1.0], np.zeros((2, 2)), np.zeros((1, 1, 3))])
    def test_wrong_goals(self, goals):
        with pytest.raises(ValueError, match="goals must have shape"):
            squares().geodesic_distance([0.5, 0.0, 0.5], goals)

    def test_start_off_the_mesh(self):
        mesh, inside, outside = squares(), [0.5, 0.0, 0.5], [-9.0, 0.0, 0.5]
        for call in (mesh.try_step, mesh.move_along_surface, mesh.find_path, mesh.geodesic_distance):
            with pytest.raises(NavigationError, match=r"start \(-9\.000, 0\.000, 0\.500\) is off .* 9\.00 m away"):
                call(outside, inside)
        with pytest.raises(NavigationError, match="off the navigation mesh"):
            mesh.distance_to_obstacle(outside)
        with pytest.raises(NavigationError, match="off the navigation mesh"):
            mesh.geodesic_distance(outside, [inside, inside])
        with pytest.raises(NavigationError, match=r"position .* off the navigation mesh"):
            mesh.best_turns(outside, 0.0, inside, 1.0)
        assert mesh.snap_point(outside) is None
        assert mesh.island_of(outside) == -1
        assert not mesh.is_navigable(outside)
        assert mesh.find_path(inside, outside) is None
        assert mesh.geodesic_distance(inside, outside) == math.inf

    def test_unknown_island(self):
        with pytest.raises(ValueError, match=r"island must lie in 0\.\.1"):
            squares().snap_point([0.5, 0.0, 0.5], island=2)

    def test_input_arrays_are_not_kept(self):
        vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float32)
        mesh = NavigationMesh.from_polygons(vertices, np.array([[0, 1, 2, 3]], dtype=np.int32))
        vertices[:] = 5.0
        np.testing.assert_allclose(mesh.snap_point([0.5, 0.0, 0.5]), [0.5, 0.0, 0.5])
        with pytest.raises(ValueError, match="read-only"):
            mesh.vertices[0] = 1.0

    @pytest.mark.parametrize(
        ("polygons", "message"),
        [
            ([[0, 3, 2, 1]], "clockwise"),
            ([[0, 1, 9]], "refers to vertex 9"),
            ([[0, 1, -1]], "has 2 corners"),
            ([[0, -1, 1, 2]], "followed by -1"),
            ([[0, 1, 1, 2]], "twice"),
            ([[0, 1, 4, 3]], "not convex"),
            ([[0, 1, 2, 3], [0, 1, 4, -1]], "overlap"),
            (np.zeros((0, 6), int), "at least one"),
            (np.zeros((1, 7), int), "n <= 6"),
            (np.zeros((1, 3)), "integers"),
        ],
    )
    def test_wrong_polygons(self, polygons, message):
        vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [0.2, 0, 0.2]]
        with pytest.raises(ValueError, match=message):
            NavigationMesh.from_polygons(vertices, polygons)

    def test_wrong_neighbours(self):
        vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]]
        for neighbours, message in (
            ([[-1, -1, 0], [-1, -1, -1]], "but not back"),
            ([[-1, 1, -1], [0, -1, -1]], "but not back"),
            ([[-1, -1, 2], [-1, -1, -1]], "must lie in"),
            ([[-1, -1, -1]], "rows"),
            ([[-1, -1, -1, 1], [0, -1, -1, -1]], "lacks"),
        ):
            with pytest.raises(ValueError, match=message):
                NavigationMesh.from_polygons(vertices, [[0, 1, 2], [0, 2, 3]], neighbours)
        with pytest.raises(ValueError, match="vertices must have shape"):
            NavigationMesh.from_polygons([[0, 0]], [[0, 1, 2]])
        with pytest.raises(ValueError, match="vertex 1 is not finite"):
            NavigationMesh.from_polygons([[0, 0, 0], [0, math.nan, 1], [1, 0, 1]], [[0, 1, 2]])


def test_compile_kernels_leaves_nothing_to_compile():
    def compiled() -> dict[str, int]:
        kernels = {**vars(detour), **vars(detour_path)}
        return {name: len(k.signatures) for name, k in kernels.items() if hasattr(k, "signatures")}

    compile_kernels()
    before = compiled()
    assert sum(before.values()) > 0
    mesh = two_floors()
    goals = np.array([[1.0, 3.0, 1.0]], dtype=np.float32)
    goals.flags.writeable = False
    read_only = goals.astype(np.float64)
    read_only.flags.writeable = False
    for position in (goals[0], read_only[0], [1, 3, 1], (1.0, 3.0, 1.0)):
        mesh.snap_point(position, island=np.int32(0))
        mesh.is_navigable(position, max_y_delta=1)
        mesh.island_of(position)
        mesh.try_step(position, position)
        mesh.find_path(position, [1, 0, 1])
        mesh.geodesic_distance(position, goals)
        mesh.geodesic_distance(position, read_only)
        mesh.distance_to_obstacle(position, max_radius=1)
    mesh.random_point(np.random.default_rng(0), island=0)
    with pytest.raises(NavigationError):
        mesh.geodesic_distance([99, 0, 0], goals)
    assert compiled() == before


class TestFiles:
    def test_round_trip_is_exact_and_byte_identical(self, tmp_path):
        mesh = two_floors()
        mesh.save(tmp_path / "a.npz")
        loaded = NavigationMesh.load(tmp_path / "a.npz")
        loaded.save(tmp_path / "b.npz")
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]
        for name in ("vertices", "polygons", "neighbours", "islands", "vertex_counts"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(mesh, name))

    def test_missing_file(self, tmp_path):
        with pytest.raises(SceneError, match="no navigation mesh at"):
            NavigationMesh.load(tmp_path / "none.npz")

    def test_truncated_and_corrupt_files(self, tmp_path):
        path = tmp_path / "mesh.npz"
        two_floors().save(path)
        whole = path.read_bytes()
        damaged = [whole[:n] for n in (0, 1, 50, len(whole) // 2, len(whole) - 3)] + [b"not a mesh" * 20]
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        for content in [*damaged, bytes(flipped)]:
            path.write_bytes(content)
            with pytest.raises(SceneError, match=r"mesh\.npz cannot be read .*build the scene again"):
                NavigationMesh.load(path)

    def test_any_flipped_byte_is_an_error_or_harmless(self, tmp_path):
        path = tmp_path / "mesh.npz"
        mesh = two_floors()
        mesh.save(path)
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            flipped = bytearray(whole)
            flipped[place] ^= 0xFF
            path.write_bytes(bytes(flipped))
            try:
                loaded = NavigationMesh.load(path)
            except SceneError:
                continue
            np.testing.assert_array_equal(loaded.vertices, mesh.vertices)
            np.testing.assert_array_equal(loaded.polygons, mesh.polygons)

    def test_other_contents(self, tmp_path):
        path = tmp_path / "mesh.npz"
        np.savez(path, version=np.int32(1), vertices=np.zeros((1, 3)))
        with pytest.raises(SceneError, match="no array 'polygons'"):
            NavigationMesh.load(path)
        np.savez(path, version=np.int32(99), vertices=0, polygons=0, neighbours=0)
        with pytest.raises(SceneError, match="format version is 99"):
            NavigationMesh.load(path)
        np.save(tmp_path / "array.npy", np.zeros(3))
        with pytest.raises(SceneError, match="cannot be read"):
            NavigationMesh.load(tmp_path / "array.npy")
