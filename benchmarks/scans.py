"""Scans at their size: first and later loads, frames per second on one core, memory of further processes.

    python benchmarks/scans.py                        # a generated Z-up building of 3 million triangles
    python benchmarks/scans.py --triangles 1000000
    python benchmarks/scans.py scan.glb               # a scan of your own, from random poses in its bounding box

Frames are timed by the processor time of the one thread that draws them, the best of some rounds for each pose; loads
by processor time and by the clock.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from render import cpu_name, random_poses
from scan_scene import Building, walk_poses, write_scan

from streamvln_gym.cache import CACHE_VARIABLE
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.simulators.embedded.renderer import Renderer, compile_kernels
from streamvln_gym.simulators.embedded.scene import load_scene
from streamvln_gym.simulators.embedded.scene_cache import load_drawable, scans_folder

CAMERA = CameraConfig()


def private_and_shared() -> tuple[float, float, float]:
    """This process's private, shared and proportional memory, MB (Linux only)."""
    sizes: dict[str, float] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, amount = line.partition(":")
        sizes[name] = int(amount.split()[0]) / 1000
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return private, sizes["Shared_Clean"] + sizes["Shared_Dirty"], sizes["Pss"]


def poses_of(path: Path, count: int) -> list:
    """Poses of walks through the generated building, or random ones."""
    if path.name == "building.glb":
        return walk_poses(Building(), count)
    return random_poses(load_scene(path), count)


def draw_as_further_process(path: Path, poses: int) -> None:
    """Maps the prepared scene, draws, and says what memory that took beyond an idle renderer's."""
    compile_kernels()
    before = private_and_shared()
    start, clock = time.process_time(), time.perf_counter()
    renderer = Renderer(load_drawable(path))
    print(f"  load in a further process: {time.process_time() - start:.3f} s processor, "
          f"{time.perf_counter() - clock:.3f} s clock")  # fmt: skip
    for position, yaw in poses_of(path, poses):
        renderer.render(position, yaw, CAMERA)
    after = private_and_shared()
    print(f"  its memory: {after[0]:.0f} MB private ({after[0] - before[0]:+.0f} by the scene), "
          f"{after[1]:.0f} MB shared, {after[2]:.0f} MB proportional")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glb", nargs="?", type=Path, help="a scan; by default a generated building")
    parser.add_argument("--triangles", type=int, default=3_100_000, help="of the generated building, about")
    parser.add_argument("--poses", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--further", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.further:
        draw_as_further_process(arguments.glb, arguments.poses)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        path = arguments.glb
        if path is None:
            path = Path(folder) / "building.glb"
            write_scan(path, Building(arguments.triangles))
        measure(path, arguments.poses, arguments.rounds)


def measure(path: Path, count: int, rounds: int) -> None:
    print(f"{cpu_name()}, {path.name}, {path.stat().st_size / 1e6:.0f} MB")
    compile_kernels()
    start, clock = time.process_time(), time.perf_counter()
    drawable = load_drawable(path)
    mesh = drawable if isinstance(drawable, RenderMesh) else RenderMesh.build(drawable)  # a small file is not cached
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"  first load: {time.process_time() - start:.2f} s processor, {time.perf_counter() - clock:.2f} s clock, "
          f"{peak:.1f} GB at most")  # fmt: skip
    sizes = sum(file.stat().st_size for file in scans_folder().glob("*.mesh"))
    texels = mesh.mip_maps.texels.size * 3 / 4  # of the largest mip levels
    print(f"  {len(mesh.triangles)} triangles, {texels * 3 / 1e6:.0f} MB of pictures, cache {sizes / 1e6:.0f} MB")
    renderer, poses = Renderer(mesh), poses_of(path, count)
    for sensors in (("rgb", "depth"), ("depth",)):
        best = np.full(len(poses), math.inf)
        for _ in range(rounds):
            for number, (position, yaw) in enumerate(poses):
                start = time.process_time()
                renderer.render(position, yaw, CAMERA, sensors)
                best[number] = min(best[number], time.process_time() - start)
        print(f"  640x480 {'+'.join(sensors)}: {1 / best.mean():.1f} frames/s (slowest pose {1 / best.max():.1f})")
    sys.stdout.flush()
    command = [sys.executable, __file__, str(path), "--further", "--poses", str(count)]
    subprocess.run(command, check=True)  # while this process has the scene mapped


if __name__ == "__main__":
    main()
