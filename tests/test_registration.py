"""Ids, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import pytest

import streamvln_gym  # noqa: F401  (registers the ids)
from streamvln_gym.registration import IDS, register_environments


@pytest.mark.parametrize("env_id", sorted(IDS))
def test_ids_are_registered_without_a_time_limit(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert spec.entry_point == "streamvln_gym.env:VLNEnv"
    assert spec.max_episode_steps is None


def test_registering_twice_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    register_environments()
    assert not recwarn.list


def test_import_brings_no_heavy_module() -> None:
    heavy = ("torch", "numba", "trimesh", "scipy", "shapely", "PIL", "transformers")
    code = f"import streamvln_gym, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_making_an_environment_brings_no_heavy_module(tiny_flats) -> None:
    code = (
        "import sys, gymnasium, streamvln_gym\n"
        f"env = gymnasium.make('StreamVLN-Flats-v0', dataset={str(tiny_flats.episodes_path)!r})\n"
        "print([m for m in ('torch', 'numba', 'trimesh') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_module_prefix_form_makes_an_environment(tiny_flats) -> None:
    env = gym.make("streamvln_gym:StreamVLN-Flats-v0", dataset=tiny_flats.episodes_path)
    assert env.unwrapped.dataset.name == "tiny"
    env.close()
