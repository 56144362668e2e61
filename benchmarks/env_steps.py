"""Steps per second of the environment on one core, reset time, overhead without rendering, memory.

    taskset -c 0 python benchmarks/env_steps.py [--dataset DIR_OR_FILE] [--scenes N] [--steps N]

Every figure is the best of several runs of random actions (no STOP), RGB-D, in one process without torch.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

from streamvln_gym.env import VLNEnv
from streamvln_gym.simulators.base import CameraConfig

TARGETS = {(640, 480): 100.0, (224, 224): 450.0, (128, 128): 900.0}  # steps/s
TARGET_OVERHEAD = 250e-6  # seconds
TARGET_RSS = 400.0  # MB
REPEATS = 5
WARM_UP = 20


def play(env: VLNEnv, actions: np.ndarray, rendered: bool) -> float:
    """Seconds per step, resets not counted; the best of `REPEATS` parts of the actions."""
    seconds = []
    env.reset()
    for part in np.array_split(actions, REPEATS):
        spent = 0.0
        for action in part:
            begin = time.perf_counter()
            result = env.step(int(action)) if rendered else env.advance(int(action))
            spent += time.perf_counter() - begin
            if result[-2]:  # truncated
                env.reset()
        seconds.append(spent / len(part))
    return min(seconds)


def reset_seconds(env: VLNEnv, count: int) -> tuple[float, float]:
    """Median seconds of a reset into the same scene, and into another scene that is not loaded."""
    same, other = [], []
    scenes = list(dict.fromkeys(env.dataset.scene_of(episode_id) for episode_id in env.dataset.episode_ids))
    for _ in range(count):
        for scene in scenes:
            env.simulator.close()
            begin = time.perf_counter()
            env.reset(options={"scene_id": scene})
            other.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            env.reset(options={"scene_id": scene})
            same.append(time.perf_counter() - begin)
    return statistics.median(same), statistics.median(other)


def resident_megabytes() -> float:
    """The process's largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="flats", help="as VLNEnv's argument")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    dataset = Path(options.dataset) if Path(options.dataset).exists() else options.dataset
    actions = np.random.default_rng(0).choice([1, 1, 1, 2, 3], options.steps)
    for (width, height), target in TARGETS.items():
        env = VLNEnv(dataset=dataset, scenes=options.scenes, camera=CameraConfig(width=width, height=height))
        play(env, actions[:WARM_UP], rendered=True)
        speed = 1.0 / play(env, actions, rendered=True)
        print(f"{width}x{height} RGB-D: {speed:7.1f} steps/s (target {target:.0f})", flush=True)
        env.close()
    env = VLNEnv(dataset=dataset, scenes=options.scenes)
    play(env, actions[:WARM_UP], rendered=False)
    overhead = play(env, np.tile(actions, 5), rendered=False)
    print(f"step without rendering: {overhead * 1e6:.0f} us (target {TARGET_OVERHEAD * 1e6:.0f})")
    same, other = reset_seconds(env, 2)
    print(f"reset at 640x480: {same * 1e3:.1f} ms in the same scene, {other * 1e3:.1f} ms into another")
    loaded = "with" if "torch" in sys.modules else "without"
    print(f"resident memory: {resident_megabytes():.0f} MB {loaded} torch (target {TARGET_RSS:.0f})")


if __name__ == "__main__":
    main()
