"""The environment ids."""

from __future__ import annotations

import gymnasium as gym

ENTRY_POINT = "streamvln_gym.env:VLNEnv"
IDS = {
    "StreamVLN-R2R-v0": {"dataset": "auto", "auto_dataset": "r2r"},
    "StreamVLN-RxR-v0": {"dataset": "auto", "auto_dataset": "rxr"},
    "StreamVLN-Flats-v0": {"dataset": "flats"},
}
"""Default arguments by id. "auto" takes the downloaded dataset if it is on disk, otherwise the flats with a warning."""


def register_environments() -> None:
    """Registers the ids, once; without `max_episode_steps`, because the environment truncates by itself."""
    for env_id, kwargs in IDS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=ENTRY_POINT, kwargs=dict(kwargs))
