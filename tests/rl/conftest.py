"""Thin networks as checkpoint folders, environments around the tiny flats, and the policy on both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from tests.conftest import TinyFlats
from tests.thin_network import thin_parts

pytest.importorskip("stable_baselines3")


def make_agent(seed: int = 1, layers: int = 2, image_size: int = 112) -> StreamVLNAgent:
    """A thin, narrow network whose answers depend on what it sees, and which counts as trained."""
    model, processor = thin_parts(0.3, narrow=True, layers=layers, seed=seed, image_size=image_size)
    processor.config.trained = model.config.trained = True
    return StreamVLNAgent(model, processor)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def agent() -> StreamVLNAgent:
    return make_agent()


@pytest.fixture(scope="session")
def checkpoint(agent: StreamVLNAgent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's folder."""
    folder = tmp_path_factory.mktemp("thin")
    agent.save_pretrained(folder)
    return folder


@pytest.fixture
def make_env(tiny_flats: TinyFlats, agent: StreamVLNAgent) -> Callable[..., Any]:
    """Makes `SlowFastObservation` environments; arguments go to it, but for `max_steps`."""
    from streamvln_gym.rl import SlowFastObservation

    def make(max_steps: int = 120, of: StreamVLNAgent = agent, **settings: Any) -> SlowFastObservation:
        env = tiny_flats.make(max_steps=max_steps, sensors=("rgb", "instruction"))
        return SlowFastObservation(env, of.processor, **settings)

    return make


@pytest.fixture
def make_policy(checkpoint: Path) -> Callable[..., Any]:
    """Makes policies for an environment's spaces."""
    from streamvln_gym.rl import StreamVLNActorCriticPolicy

    def make(env: Any, **settings: Any) -> StreamVLNActorCriticPolicy:
        settings = {"checkpoint": checkpoint, **settings}
        return StreamVLNActorCriticPolicy(env.observation_space, env.action_space, lambda _: 1e-4, **settings)

    return make


def batch(*observations: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Observations as a policy's tensors."""
    return {key: torch.from_numpy(np.stack([obs[key] for obs in observations])) for key in observations[0]}
