"""Tokens that voxel pruning saves in the slow memory on the embedded flats, and what pruning costs.

    taskset -c 0 python benchmarks/memory.py [--scenes N] [--windows N]

The expert's paths of val_unseen are walked with a 640x480 camera; at every 32 steps a window opens with eight history
frames of 14x14 tokens each (the published sizes), and the tokens that stay are counted for several voxel sizes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.env import VLNEnv
from streamvln_gym.models import StreamVLNConfig
from streamvln_gym.models.voxel_pruning import VoxelPruning, patch_points, token_centres, voxel_ids
from streamvln_gym.rollout import choose_episodes

VOXEL_SIZES = (0.1, 0.25, 0.5)  # metres
PUBLISHED = {0.25: 0.18, 0.5: 0.37}  # the paper's savings, on its own data


@dataclass(frozen=True)
class Window:
    """The memory of one window.

    Attributes:
        steps: (history,) environment steps.
        points: (history, tokens, 3) metres.
    """

    steps: list[int]
    points: NDArray[np.float32]


def windows(env: VLNEnv, episode_id: str, config: StreamVLNConfig) -> Iterator[Window]:
    """The windows of an episode that have a memory, along the ground-truth actions."""
    _, info = env.reset(options={"episode_id": episode_id})
    actions = env.episode.gt_actions or ()
    starts = range(config.window_steps, len(actions), config.window_steps)
    needed = {step for start in starts for step in history_steps(start, config.num_history)}
    centres = token_centres(config)
    seen = {}
    for step, action in enumerate(actions):
        if step in needed:
            obs = env.observe()
            seen[step] = patch_points(obs["depth"], info["intrinsics"], obs["camera_pose"], centres)
        env.advance(action)
    for start in starts:
        steps = history_steps(start, config.num_history)
        yield Window(steps, np.stack([seen[step] for step in steps]))


def collect(scenes: int, count: int) -> list[Window]:
    """At least `count` windows, from one path after the other, the scenes taking turns."""
    env = VLNEnv(dataset="flats", scenes=scenes, sensors=("depth", "camera_pose"))
    found: list[Window] = []
    paths = set()
    config = StreamVLNConfig.full_size()
    for episode_id in choose_episodes(env.dataset, 0):
        trajectory = env.dataset.episode(episode_id).trajectory_id
        if trajectory not in paths:
            paths.add(trajectory)
            found += windows(env, episode_id, config)
        if len(found) >= count:
            break
    env.close()
    print(f"{len(found)} windows of {len(paths)} paths in {scenes} flats; 8 x 196 = 1,568 tokens each without pruning")
    return found


def within_frames(window: Window, voxel_size: float) -> float:
    """Share of the tokens that are copies of another token of the same frame."""
    copies = 0
    for voxels in voxel_ids(window.points, voxel_size):
        placed = voxels[voxels >= 0]
        copies += len(placed) - len(np.unique(placed))
    return copies / window.points[..., 0].size


def later_frames(window: Window, voxel_size: float) -> float:
    """Share of the tokens whose voxel a later frame of the same period shows."""
    voxels = voxel_ids(window.points, voxel_size)
    steps = np.array(window.steps) // VoxelPruning().window_steps
    shown_again = 0
    for index, frame in enumerate(voxels):
        later = voxels[index + 1 :][steps[index + 1 :] == steps[index]]
        shown_again += int(np.isin(frame[frame >= 0], later).sum())
    return shown_again / voxels.size


def report(found: list[Window]) -> None:
    """Prints the table."""
    columns = ("voxel (m)", "saved", "10 %", "90 %", "frames dropped", "copies in frame", "later frame", "us", "paper")
    print("  ".join(f"{name:>9}" for name in columns))
    for size in VOXEL_SIZES:
        pruning = VoxelPruning(voxel_size=size)
        masks = [pruning.keep(window.points, window.steps) for window in found]
        saved = np.array([1.0 - mask.mean() for mask in masks])
        dropped = np.mean([(~mask.any(axis=1)).sum() for mask in masks])
        inside = np.mean([within_frames(window, size) for window in found])
        spent = []
        for _ in range(5):
            begin = time.perf_counter()
            for window in found:
                pruning.keep(window.points, window.steps)
            spent.append((time.perf_counter() - begin) / len(found))
        later = np.mean([later_frames(window, size) for window in found])
        shares = [saved.mean(), *np.percentile(saved, [10, 90]), inside, later]
        mean, low, high, copies, again = (f"{share:.1%}" for share in shares)
        paper = f"{PUBLISHED[size]:.0%}" if size in PUBLISHED else "-"
        cells = (f"{size:.2f}", mean, low, high, f"{dropped:.2f}", copies, again, f"{min(spent) * 1e6:.0f}", paper)
        widths = (max(len(name), 9) for name in columns)
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--windows", type=int, default=60)
    options = parser.parse_args()
    report(collect(options.scenes, options.windows))


if __name__ == "__main__":
    main()
