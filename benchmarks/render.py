"""Speed of the embedded renderer (RGB and depth, one core), and of embree through embreex on the same frames.

    python benchmarks/render.py                      # the recorded flats in tests/data
    python benchmarks/render.py flat.glb --up y      # a scene of your own, from random poses in its bounding box

Each figure is the best of several rounds over all poses. For steady figures pin the process to one core, for example
with `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.renderer import Renderer, compile_kernels
from streamvln_gym.simulators.embedded.scene import Scene, load_glb

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "data" / "golden_habitat" / "render"
AGENT_VFOV = math.degrees(2 * math.atan(math.tan(math.radians(79 / 2)) * 480 / 640))
CAMERAS = {
    "640x480": CameraConfig(640, 480),
    "224x224": CameraConfig(224, 224),
    "128x128": CameraConfig(128, 128),
    "112x112, 2x2 samples": CameraConfig(112, 112, vfov=AGENT_VFOV, supersampling=2),
    "112x112, 3x3 samples": CameraConfig(112, 112, vfov=AGENT_VFOV, supersampling=3),
}
Pose = tuple[NDArray[np.float64], float]


def seconds_per_frame(draw: Callable[[NDArray[np.float64], float], object], poses: list[Pose], rounds: int) -> float:
    """The best mean time of one frame over `rounds` rounds through the poses."""
    best = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        for position, yaw in poses:
            draw(position, yaw)
        best = min(best, (time.perf_counter() - start) / len(poses))
    return best


def draw_frame(renderer: Renderer, camera: CameraConfig, position: NDArray[np.float64], yaw: float) -> object:
    """Our frame."""
    return renderer.render(position, yaw, camera)


def embree_drawer(scene: Scene, camera: CameraConfig) -> Callable[[NDArray[np.float64], float], object]:
    """A function that ray casts a frame with embree and shades it: vertex colour x nearest texel."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    embree = EmbreeScene()
    TriangleMesh(embree, scene.triangles)
    height, width = camera.height, camera.width
    fx, fy = camera.focal_lengths
    columns, rows = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([columns / fx, -rows / fy, np.full(rows.shape, -1.0)], axis=-1).reshape(-1, 3).astype(np.float32)
    sizes = np.array([texture.shape[:2] for texture in scene.textures])
    starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))[:-1]])
    texels = np.concatenate([texture.reshape(-1, 3) for texture in scene.textures]).astype(np.float32) / 255

    def draw(position: NDArray[np.float64], yaw: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        directions = rays @ yaw_matrix(yaw).T.astype(np.float32)
        eye = np.asarray(position + np.array([0, camera.mount_height, 0]), np.float32)
        hits = embree.run(np.tile(eye, (len(rays), 1)), directions, output=1)
        triangle = hits["primID"]
        depth = np.where(triangle >= 0, np.minimum(hits["tfar"], camera.max_depth), camera.max_depth)
        weights = np.stack([1 - hits["u"] - hits["v"], hits["u"], hits["v"]], axis=1)[:, None, :]
        uv = (weights @ scene.uvs[triangle])[:, 0]
        colour = (weights @ scene.colours[triangle])[:, 0]
        texture = scene.texture_index[triangle]
        size = sizes[texture]
        texel = ((uv - np.floor(uv)) * size[:, ::-1]).astype(np.int64)
        colour *= texels[starts[texture] + np.minimum(texel[:, 1], size[:, 0] - 1) * size[:, 1] + texel[:, 0]]
        colour[triangle < 0] = 0
        return colour.astype(np.uint8).reshape(height, width, 3), depth.reshape(height, width, 1)

    return draw


def golden_scenes() -> list[tuple[str, Scene, list[Pose]]]:
    """The recorded flats with poses from walks through them."""
    scenes = []
    for path in sorted(GOLDEN.glob("*.glb")):
        recorded = np.load(path.with_suffix(".npz"))
        pairs = zip(recorded["walk_position"], recorded["walk_yaw"], strict=True)
        scenes.append((path.name, load_glb(path), [(np.float64(position), float(yaw)) for position, yaw in pairs]))
    return scenes


def random_poses(scene: Scene, count: int) -> list[Pose]:
    """Poses on the floor of a scene's bounding box."""
    rng = np.random.default_rng(0)
    low, high = scene.bounds
    positions = rng.uniform(low, high, (count, 3))
    positions[:, 1] = low[1] + 0.2
    return [(position, rng.uniform(-math.pi, math.pi)) for position in positions]


def cpu_name() -> str:
    """The processor's name, as the operating system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glb", nargs="?", type=Path, help="a scene; by default the recorded flats")
    parser.add_argument("--up", choices=("y", "z"), default="y", help="the scene's up axis")
    parser.add_argument("--poses", type=int, default=60, help="random poses in a scene of your own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-embree", action="store_true", help="leave embree out")
    arguments = parser.parse_args()

    print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {cpu_name()}, one core, RGB and depth")
    start = time.perf_counter()
    compile_kernels()
    print(f"compiling or loading the kernels: {time.perf_counter() - start:.2f} s")
    if arguments.glb is None:
        scenes = golden_scenes()
    else:
        start = time.perf_counter()
        scene = load_glb(arguments.glb, arguments.up)
        print(f"loading {arguments.glb.name}: {time.perf_counter() - start:.3f} s")
        scenes = [(arguments.glb.name, scene, random_poses(scene, arguments.poses))]

    times: dict[str, list[float]] = {}
    for name, scene, poses in scenes:
        start = time.perf_counter()
        renderer = Renderer(scene)
        print(f"{name}: {len(scene.triangles)} triangles, renderer built in {time.perf_counter() - start:.3f} s")
        for label, camera in CAMERAS.items():
            draw = partial(draw_frame, renderer, camera)
            times.setdefault(label, []).append(seconds_per_frame(draw, poses, arguments.rounds))
        if not arguments.no_embree:
            cast = embree_drawer(scene, CAMERAS["640x480"])
            times.setdefault("640x480, embreex", []).append(seconds_per_frame(cast, poses, arguments.rounds))
    print(f"\n{'picture':24}{'frames/s':>10}{'ms':>8}")
    for label, measured in times.items():
        mean = float(np.mean(measured))
        print(f"{label:24}{1 / mean:10.0f}{1000 * mean:8.2f}")
    if "640x480, embreex" in times:
        print(f"embreex / ours: {np.mean(times['640x480, embreex']) / np.mean(times['640x480']):.1f} times the time")


if __name__ == "__main__":
    main()
