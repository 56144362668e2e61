"""What a simulator knows about a frame and the agent does not: targets of the auxiliary losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import DatasetError
from streamvln_gym.expert import GeodesicFollower
from streamvln_gym.flats.room_types import ROOM_TYPES
from streamvln_gym.scene_graph import SceneGraph
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.simulators.embedded.semantics import CLASS_NAMES

ROOM_NAMES = ("", "hallway", *(room.name for room in ROOM_TYPES))
"""Room types by id; 0 is a doorway, or a scene without a scene graph."""
CLASSES = len(CLASS_NAMES)
DEPTH_LEVELS_PER_METRE = 25.0
POSE_TARGETS = 5
PRIVILEGED_SENSORS = ("rgb", "depth", "semantic")
_SPACING = 0.5  # metres between the points of the way that are looked up; walls are thinner, rooms are not


@dataclass(frozen=True)
class AuxiliaryConfig:
    """Weights of the auxiliary losses beside the loss of the actions; 0 leaves one out.

    Attributes:
        vision: class and depth of every patch, from the vision tower's features.
        pose: bearing and length of the way, the start's place and the room, from the hidden state that decides an
            answer's first action.
    """

    vision: float = 0.3
    pose: float = 0.2

    def __post_init__(self) -> None:
        for name in ("vision", "pose"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"AuxiliaryConfig.{name} must not be negative, got {getattr(self, name)}")

    @property
    def wanted(self) -> bool:
        return self.vision > 0.0 or self.pose > 0.0


@dataclass(frozen=True)
class Privileged:
    """Targets of one frame, or of several where the arrays have one more leading axis.

    Attributes:
        patch_class: uint8 (patches,), class id (`semantics.CLASS_NAMES`) at the centre of each of the vision tower's
            patches, row-major; 0 is "nothing".
        patch_depth: uint8 (patches,), depth there in 1/25 m.
        pose: float32 (5,): sine and cosine of the bearing of the expert's way (from the heading, left positive), its
            remaining length in units of 10 m, and the start's place (ahead, right) in units of 10 m.
        rooms: uint8 (2,), indices of `ROOM_NAMES`: the room the agent stands in, and the next one on the expert's way
            (the same one, if the way ends there).
    """

    patch_class: NDArray[np.uint8]
    patch_depth: NDArray[np.uint8]
    pose: NDArray[np.float32]
    rooms: NDArray[np.uint8]

    @classmethod
    def stack(cls, records: list[Privileged]) -> Privileged:
        """Frames of an episode as one record."""
        return cls(**{item.name: np.stack([getattr(r, item.name) for r in records]) for item in fields(cls)})

    def save(self, path: Path) -> None:
        """Writes an episode's record as a compressed npz file, the same bytes for the same values."""
        with path.open("wb") as file:  # numpy stamps no times into the archive
            np.savez_compressed(file, **{item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Privileged:
        """Reads an episode's record.

        Raises:
            DatasetError: the file is missing or malformed.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(**{item.name: content[item.name] for item in fields(cls)})
        except FileNotFoundError as error:
            raise DatasetError(
                f"there are no auxiliary targets {path}: record with them (--privileged True, or in dagger "
                "--pictures.privileged True), or train without auxiliary losses"
            ) from error
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DatasetError(
                f"{path} cannot be read as auxiliary targets: {error}; record with them, or train without auxiliary "
                "losses"
            ) from error


def patch_targets(
    pictures: Mapping[str, NDArray[Any]], patches_per_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class and depth at the patches' centres.

    Args:
        pictures: "semantic" (H, W, 1) int32 and "depth" (H, W, 1) metres of one frame.
        patches_per_side: of the vision tower.

    Returns:
        `Privileged.patch_class` and `Privileged.patch_depth`.
    """
    pixels = patch_centres(pictures["depth"].shape[:2], patches_per_side)
    classes = pictures["semantic"][..., 0][pixels].ravel()
    levels = np.minimum(pictures["depth"][..., 0][pixels].ravel() * DEPTH_LEVELS_PER_METRE, 255.0)
    # Scenes may have classes beyond the fixed ones.
    return np.where(classes < CLASSES, classes, 0).astype(np.uint8), levels.astype(np.uint8)


@lru_cache
def patch_centres(size: tuple[int, int], patches_per_side: int) -> tuple[NDArray[np.int64], ...]:
    """Rows (patches, 1) and columns (1, patches) of the patches' centres in a picture of (height, width) pixels."""
    centres = (np.arange(patches_per_side) + 0.5) / patches_per_side
    return np.ix_(*((centres * length).astype(int) for length in size))


def pose_targets(follower: GeodesicFollower, state: AgentState, start: AgentState) -> NDArray[np.float32]:
    """`Privileged.pose` in `state` of an episode that began at `start`."""
    bearing = follower.bearing(state)
    east, _, south = (start.position - state.position).tolist()
    c, s = math.cos(state.yaw), math.sin(state.yaw)
    ahead, right = -(s * east + c * south), c * east - s * south
    way = (math.sin(bearing), math.cos(bearing), follower.remaining(state) / 10.0)
    return np.array([*way, ahead / 10.0, right / 10.0], dtype=np.float32)


def room_targets(graph: SceneGraph | None, follower: GeodesicFollower, state: AgentState) -> NDArray[np.uint8]:
    """`Privileged.rooms` in `state`."""
    if graph is None:
        return np.zeros(2, dtype=np.uint8)
    here = graph.room_at(float(state.position[0]), float(state.position[2]))
    ahead = here
    for point in follower.points_ahead(state, _SPACING):
        room = graph.room_at(point[0], point[2])
        if room is not None and room != here:
            ahead = room
            break
    names = ("" if room is None else graph.rooms[room].type for room in (here, ahead))
    return np.array([ROOM_NAMES.index(name) if name in ROOM_NAMES else 0 for name in names], dtype=np.uint8)
