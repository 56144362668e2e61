"""Views per second that a GPU draws of the flats, and how they differ from a CPU core's.

    python benchmarks/render_gpu.py [--views 1872] [--scenes 24] [--size 112] [--supersampling 1]

The views are spread over the reference paths of flats of `train` (built on first use), all drawn in one call.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from streamvln_gym.selection import open_dataset
from streamvln_gym.simulators.base import AgentState, CameraConfig
from streamvln_gym.simulators.embedded.gpu_renderer import GpuRenderer
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

COMPARED = 200  # views
ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=1872)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--supersampling", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    camera = CameraConfig.of_size(options.size, options.size, options.supersampling)
    simulator, renderer = EmbeddedSimulator(camera), GpuRenderer(camera, torch.device(options.device))
    dataset = open_dataset("flats", "train", Path("data"), options.scenes, "r2r")
    rng = np.random.default_rng(0)
    episodes = [dataset.episode(str(name)) for name in rng.choice(dataset.episode_ids, options.views)]
    episodes.sort(key=lambda episode: episode.scene_id)
    states = [
        AgentState(np.array(e.reference_path[rng.integers(len(e.reference_path))]), 6.3 * rng.random())
        for e in episodes
    ]
    for scene in dict.fromkeys(episode.scene_id for episode in episodes):
        simulator.load_scene(Path(dataset.scene_path(scene)))
        assert simulator.class_ids is not None
        renderer.add(scene, simulator.renderer.mesh, simulator.class_ids)
    keys = [episode.scene_id for episode in episodes]
    positions, yaws = np.array([state.position for state in states]), np.array([state.yaw for state in states])
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        views = renderer.render(keys, positions, yaws)
        if torch.device(options.device).type == "cuda":
            torch.cuda.synchronize(options.device)
        times.append(time.perf_counter() - begun)
    best = min(times)
    size = f"{options.size}x{options.size}"
    print(f"GPU: {best * 1e3:.1f} ms for {options.views} views of {size}, {options.views / best:,.0f}/s")
    compared = np.unique(rng.integers(options.views, size=COMPARED))
    errors, seconds = [], 0.0
    for k in compared:
        simulator.load_scene(Path(dataset.scene_path(keys[k])))
        simulator.set_state(states[k])
        begun = time.perf_counter()
        expected = simulator.observe(("rgb", "depth", "semantic"))
        seconds += time.perf_counter() - begun
        colour = np.abs(views.rgb[k].cpu().numpy().astype(int) - expected["rgb"])
        depth = np.abs(views.depth[k].cpu().numpy() - expected["depth"][..., 0])
        classes = views.classes[k].cpu().numpy() != expected["semantic"][..., 0]
        errors.append([colour.mean(), (colour.max(2) > 8).mean(), (depth > 0.01).mean(), classes.mean()])
    mean = np.mean(errors, axis=0)
    print(f"one CPU core: {len(compared) / seconds:,.0f}/s")
    print(
        f"of {len(compared)} views: colours differ by {mean[0]:.3f} levels, by more than 8 in {mean[1]:.3%} of the "
        f"pixels, depth by more than 1 cm in {mean[2]:.3%}, classes in {mean[3]:.3%}"
    )


if __name__ == "__main__":
    main()
