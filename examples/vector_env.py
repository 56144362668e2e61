"""Four environments in four processes, and which of their observations start an episode.

python examples/vector_env.py
"""

import time

import gymnasium as gym
import numpy as np

import streamvln_gym  # noqa: F401  (registers the environment ids)
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.vector import EpisodeStarts

NUM_ENVS, STEPS = 4, 200


def main() -> None:
    FlatsDataset("val_unseen", scenes=4).build()  # once, in parallel; otherwise every process builds what it needs
    envs = gym.make_vec(
        "StreamVLN-Flats-v0",
        num_envs=NUM_ENVS,
        vectorization_mode="async",
        split="val_unseen",
        scenes=4,
        camera=CameraConfig(width=224, height=224),
        sensors=("rgb", "instruction"),
    )
    starts = EpisodeStarts.of(envs)
    rng = np.random.default_rng(0)
    obs, infos = envs.reset(seed=0)
    episode_starts = starts.reset()
    finished = 0
    began = time.perf_counter()
    for _ in range(STEPS):
        for k in np.flatnonzero(episode_starts):
            print(f"env {k}: {obs['instruction'][k]}")
        actions = rng.choice(4, size=NUM_ENVS, p=[0.02, 0.68, 0.15, 0.15])  # your policy here
        obs, rewards, terminations, truncations, infos = envs.step(actions)
        episode_starts = starts.update(terminations, truncations)
        finished += int(np.sum(terminations | truncations))
    seconds = time.perf_counter() - began
    print(f"\n{NUM_ENVS * STEPS / seconds:.0f} environment steps/s, {finished} episodes finished")
    envs.close()


if __name__ == "__main__":
    main()
