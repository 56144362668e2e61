"""Draws docs/images/episode.png: the shipped checkpoint in an episode that needs memory, with its panel.

    python tools/draw_episode.py

The agent plays the episode, and one step of it is kept. Run it again after a new checkpoint: it says whether the
episode succeeded, and ends without a picture if not. The milliseconds in the picture are those of the run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import tyro
from PIL import Image

import streamvln_gym  # noqa: F401 (registers the environments)
from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.devices import one_torch_thread
from streamvln_gym.video import picture_of


@dataclass(frozen=True)
class DrawConfig:
    """What is drawn.

    Attributes:
        episode: id in the flats' val_unseen split.
        step: environment step that is kept; a negative one counts from the end, where -1 is the end itself.
        out: the picture.
    """

    episode: str = "20005003"
    step: int = -1
    out: Path = Path("docs/images/episode.png")


def draw(config: DrawConfig) -> None:
    """Plays the episode and writes the picture."""
    env = gym.make("StreamVLN-Flats-v0", render_mode="rgb_array")
    agent = StreamVLNAgent.from_pretrained().watch()
    observation, info = env.reset(options={"episode_id": config.episode})
    agent.reset()
    intrinsics, pictures, finished = info["intrinsics"], [], False
    with one_torch_thread():
        while not finished:
            action = agent.act({**observation, "intrinsics": intrinsics})
            pictures.append(picture_of(env, agent.view))
            observation, _, terminated, truncated, info = env.step(action)
            finished = terminated or truncated
    pictures.append(picture_of(env, agent.view))
    if not info["success"]:
        sys.exit(f"the agent fails in episode {config.episode} now: choose another one with --episode")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures[config.step]).save(config.out, optimize=True)
    print(f"{config.out}: episode {config.episode}, {len(pictures) - 1} steps, {config.out.stat().st_size // 1024} KB")


if __name__ == "__main__":
    draw(tyro.cli(DrawConfig))
