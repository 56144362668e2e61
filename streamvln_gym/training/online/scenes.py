"""Which scenes an online training plays in, and which it keeps for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import TrainingError
from streamvln_gym.selection import open_dataset
from streamvln_gym.training.online.config import OnlineConfig


@dataclass(frozen=True)
class Scenes:
    """Scene ids of a training.

    Attributes:
        training: in the order in which they are played.
        held_out: those that are evaluated in.
        evaluated: ids of the episodes that are evaluated.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    evaluated: tuple[str, ...]


def open_training_data(data: str, split: str, scenes: int | None) -> EpisodeDataset:
    """The dataset that online training draws from."""
    return open_dataset(data, split, Path("data"), scenes, "r2r")


def split_scenes(config: OnlineConfig, done: int) -> Scenes:
    """Shuffles the scenes, and sets some apart.

    Args:
        config: of the training.
        done: updates that earlier calls have made; a training that goes on plays in another order.

    Raises:
        TrainingError: more scenes are to be held out than there are.
    """
    dataset = open_training_data(config.data, config.split, config.scenes)
    scenes = list(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    if config.held_out and len(scenes) <= config.held_out:
        raise TrainingError(
            f"{config.data}/{config.split} has {len(scenes)} scenes, {config.held_out} of which would be held out: use "
            "more scenes or a smaller held_out"
        )
    first = len(scenes) - config.held_out if config.held_out else 0
    held_out = scenes[first:]
    training = scenes[:first] or scenes
    order = np.random.default_rng([config.seed, done]).permutation(len(training))
    chosen = set(held_out)
    ids = [episode_id for episode_id in dataset.episode_ids if dataset.scene_of(episode_id) in chosen]
    # Evenly over scenes and episodes, where not all are evaluated.
    if len(ids) > config.evaluate_at_most:
        ids = [ids[k] for k in np.linspace(0, len(ids) - 1, config.evaluate_at_most).round().astype(int)]
    return Scenes(tuple(training[k] for k in order), tuple(held_out), tuple(ids))
