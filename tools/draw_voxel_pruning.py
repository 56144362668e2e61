"""Draws which patches of a window's eight history frames voxel pruning keeps: `docs/images/voxel_pruning_*.png`.

python tools/draw_voxel_pruning.py [--episode ID] [--window-start STEP]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import streamvln_gym  # noqa: F401  (registers the environments)
from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.models import StreamVLNConfig
from streamvln_gym.models.voxel_pruning import VoxelPruning, patch_points, token_centres

IMAGES = Path(__file__).parents[1] / "docs" / "images"
VOXEL_SIZES = (0.25, 0.5)
FRAME = (280, 210)  # pixels
CAPTION = 16  # pixels
COLUMNS = 4


def history(env: gym.Env, episode_id: str, start: int) -> tuple[list[int], list[NDArray], NDArray]:
    """Steps, pictures and points of the frames that the window at step `start` shows, along the expert's path."""
    obs, info = env.reset(options={"episode_id": episode_id})
    actions = env.unwrapped.episode.gt_actions  # type: ignore[attr-defined]
    if len(actions) <= start:
        raise ValueError(f"episode {episode_id} has only {len(actions)} actions: choose an earlier --window-start")
    config = StreamVLNConfig.full_size()
    steps, centres = history_steps(start, config.num_history), token_centres(config)
    pictures, points = [], []
    for step in range(start):
        if step in steps:
            pictures.append(obs["rgb"])
            points.append(patch_points(obs["depth"], info["intrinsics"], obs["camera_pose"], centres))
        obs = env.step(actions[step])[0]
    return steps, pictures, np.stack(points)


def draw_frame(picture: NDArray, keep: NDArray, caption: str) -> Image.Image:
    """The picture with dropped patches (side, side) bool darkened, and a line of text above it."""
    shown = Image.fromarray(picture).resize(FRAME, Image.Resampling.LANCZOS)
    config = StreamVLNConfig.full_size()
    covered = config.patches_per_side * config.vision_config.patch_size / config.image_size
    xs, ys = (np.round(np.arange(len(keep) + 1) * covered / len(keep) * length).astype(int) for length in FRAME)
    pixels = np.array(shown, dtype=np.float32)
    for row, column in zip(*np.nonzero(~keep), strict=True):
        patch = pixels[ys[row] : ys[row + 1], xs[column] : xs[column + 1]]
        patch *= 0.18
        patch[0], patch[:, 0] = 0.0, 0.0
    canvas = Image.new("RGB", (FRAME[0], FRAME[1] + CAPTION), "white")
    canvas.paste(Image.fromarray(pixels.astype(np.uint8)), (0, CAPTION))
    ImageDraw.Draw(canvas).text((4, 2), caption, fill="black")
    return canvas


def main() -> None:
    """Draws one picture for each voxel size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episode", default=None, help="episode id of val_unseen; default: the first one long enough")
    parser.add_argument("--window-start", type=int, default=32)
    options = parser.parse_args()
    env = gym.make("StreamVLN-Flats-v0", split="val_unseen")
    dataset = env.unwrapped.dataset  # type: ignore[attr-defined]
    long_enough = (e for e in dataset.episode_ids if len(dataset.episode(e).gt_actions or ()) > options.window_start)
    episode_id = options.episode or next(long_enough)
    steps, pictures, points = history(env, episode_id, options.window_start)
    for size in VOXEL_SIZES:
        keep = VoxelPruning(voxel_size=size).keep(points, steps)
        side = round(keep.shape[1] ** 0.5)
        rows = -(-len(steps) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * FRAME[0], rows * (FRAME[1] + CAPTION)), "white")
        for index, (step, picture, mask) in enumerate(zip(steps, pictures, keep, strict=True)):
            tile = draw_frame(picture, mask.reshape(side, side), f"step {step}: {mask.sum()} of {mask.size} tokens")
            sheet.paste(tile, (index % COLUMNS * FRAME[0], index // COLUMNS * (FRAME[1] + CAPTION)))
        path = IMAGES / f"voxel_pruning_{round(size * 100):03d}cm.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.quantize(96).save(path, optimize=True)
        print(f"episode {episode_id}, window at step {options.window_start}, voxels of {size} m: {keep.sum()} of")
        print(f"{keep.size} tokens stay ({1 - keep.mean():.1%} saved), {path}, {path.stat().st_size / 1e3:.0f} kB")
    env.close()


if __name__ == "__main__":
    main()
