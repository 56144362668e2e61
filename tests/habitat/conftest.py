"""Tests that need habitat-lab, for which `.ci/run` makes an environment; habitat-sim is replaced by our simulator."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamvln_gym.vlnce import VLNCEDataset
from tests.conftest import SMALL_CAMERA, TinyFlats

HAS_LAB = importlib.util.find_spec("habitat") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.habitat)
            if not HAS_LAB:
                item.add_marker(pytest.mark.skip(reason="habitat-lab is not installed (see constraints-habitat.txt)"))


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    """The embedded simulator in habitat-lab's registry."""
    if HAS_LAB:
        from streamvln_gym.habitat_lab import register_embedded_simulator

        register_embedded_simulator()


@pytest.fixture(scope="session")
def plain_dataset(tiny_flats: TinyFlats) -> VLNCEDataset:
    """The tiny flats' episodes."""
    return tiny_flats.dataset


@pytest.fixture
def habitat_env(plain_dataset: VLNCEDataset) -> Iterator[Any]:
    """A `habitat.Env` on the embedded simulator, with gps and compass, episodes in file order."""
    made = make_habitat_env(plain_dataset)
    yield made
    made.close()


def make_habitat_env(dataset: VLNCEDataset, *overrides: str) -> Any:
    import habitat

    from streamvln_gym.habitat_lab.task import habitat_dataset, vln_config

    config = vln_config(
        camera=SMALL_CAMERA,
        overrides=(
            "+habitat/task/lab_sensors@habitat.task.lab_sensors.gps_sensor=gps_sensor",
            "+habitat/task/lab_sensors@habitat.task.lab_sensors.compass_sensor=compass_sensor",
            "habitat.environment.iterator_options.shuffle=False",
            "habitat.environment.iterator_options.group_by_scene=False",
            *overrides,
        ),
    )
    return habitat.Env(config, habitat_dataset(dataset))
