"""Observation spaces and the instruction in shared memory."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.spaces import DEFAULT_SENSORS, SENSORS, InstructionText, check_sensors, observation_space

HINDI = "दरवाज़े से निकलकर"


def test_instruction_holds_ascii_and_the_datasets_characters() -> None:
    space = InstructionText(40, HINDI)
    assert "Walk out; turn left.\n" in space and HINDI in space and "" in space
    assert "日" not in space and "a" * 41 not in space
    assert InstructionText(40, HINDI) == space != InstructionText(41, HINDI)
    assert space.sample() in space


def test_shared_memory_shows_what_was_written_last() -> None:
    space = InstructionText(30, HINDI)
    memory = create_shared_memory(space, n=3, ctx=multiprocessing)
    live = read_from_shared_memory(space, memory, n=3)
    assert live == ("", "", "")
    write_to_shared_memory(space, 1, HINDI, memory)
    write_to_shared_memory(space, 2, "a" * 30, memory)
    assert list(live) == ["", HINDI, "a" * 30]
    kept = copy.deepcopy(live)
    write_to_shared_memory(space, 1, "b", memory)
    assert kept == ("", HINDI, "a" * 30) and isinstance(kept, tuple)
    assert live[1] == "b" and live[1:] == ("b", "a" * 30) and len(live) == 3
    assert copy.copy(live) == pickle.loads(pickle.dumps(live)) == ("", "b", "a" * 30)
    assert repr(live) == repr(("", "b", "a" * 30))


def test_shared_memory_works_inside_a_dict() -> None:
    space = spaces.Dict({"instruction": InstructionText(5), "x": spaces.Box(0, 1, (2,), np.float32)})
    memory = create_shared_memory(space, n=2, ctx=multiprocessing)
    live = read_from_shared_memory(space, memory, n=2)
    write_to_shared_memory(space, 1, {"instruction": "go", "x": np.ones(2, np.float32)}, memory)
    assert live["instruction"] == ("", "go") and live["x"][1].tolist() == [1.0, 1.0]
    assert copy.deepcopy(live)["instruction"] == ("", "go")


def test_observation_space_has_the_sensors_shapes_and_types() -> None:
    space = observation_space(SENSORS, CameraConfig(width=64, height=48, max_depth=5.0), "", 100)
    assert {name: (sub.shape, sub.dtype) for name, sub in space.items() if name != "instruction"} == {
        "rgb": ((48, 64, 3), np.uint8),
        "depth": ((48, 64, 1), np.float32),
        "semantic": ((48, 64, 1), np.int32),
        "gps": ((2,), np.float32),
        "compass": ((1,), np.float32),
        "camera_pose": ((4, 4), np.float32),
    }
    assert space["depth"].high.max() == 5.0 and np.isfinite(space["gps"].high).all()
    assert "semantic" not in DEFAULT_SENSORS


@pytest.mark.parametrize(
    ("sensors", "words"),
    [
        (("rgb", "lidar"), "unknown sensor 'lidar': choose from rgb"),
        ("rgb", "must be a sequence of names such as \\('rgb',\\)"),
        ((), "at least one name"),
        (("rgb", "rgb"), "each given once"),
    ],
)
def test_wrong_sensors_are_refused(sensors, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_sensors(sensors)
