"""Observation spaces, and an instruction space that survives Gymnasium's shared memory."""

from __future__ import annotations

import math
import multiprocessing
import string
from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from streamvln_gym.simulators.base import CameraConfig

VISUAL_SENSORS = ("rgb", "depth", "semantic")
"""Sensors that the simulator renders."""
SENSORS = (*VISUAL_SENSORS, "instruction", "gps", "compass", "camera_pose")
"""Every sensor name."""
DEFAULT_SENSORS = tuple(name for name in SENSORS if name != "semantic")

POSITION_LIMIT = 1000.0
"""Metres: bound of the Boxes that hold positions."""

_PRINTABLE = frozenset(string.printable)


class InstructionText(spaces.Text):
    """Text whose charset always holds printable ASCII, and which shared-memory vector environments show unspoilt.

    Gymnasium's `AsyncVectorEnv` reads a `Text` of its shared memory once, at construction, and shows that for ever.
    The handlers below read a live sequence instead, whose (deep) copy is the tuple of str that one expects. It also
    says, as `Text` does not, what array it takes (of objects, one each): so stable-baselines3's `DummyVecEnv` holds it.

    Args:
        max_length: characters, of the longest instruction.
        charset: the characters that occur; printable ASCII is added.
        seed: of `sample`.
    """

    def __init__(
        self, max_length: int, charset: Iterable[str] = "", seed: int | np.random.Generator | None = None
    ) -> None:
        super().__init__(max_length, min_length=0, charset=frozenset(charset) | _PRINTABLE, seed=seed)
        self._shape, self.dtype = (), np.dtype(object)

    def __repr__(self) -> str:
        return f"InstructionText({self.max_length}, {len(self.character_set)} characters)"


class SharedInstructions(Sequence[str]):
    """The instructions in the memory that workers share: reads what they wrote last; a copy is a tuple of str.

    Args:
        memory: int32 (n * (1 + max_length)): per environment the length, then the code points.
        n: number of environments.
    """

    def __init__(self, memory: Any, n: int) -> None:
        self._rows = np.frombuffer(memory.get_obj(), dtype=np.int32).reshape(n, -1)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return row[1 : 1 + row[0]].tobytes().decode("utf-32-le")

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __copy__(self) -> tuple[str, ...]:
        return tuple(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)


@create_shared_memory.register(InstructionText)
def _create_instruction_memory(space: InstructionText, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array(np.dtype(np.int32).char, n * (1 + space.max_length))


@read_from_shared_memory.register(InstructionText)
def _read_instructions(space: InstructionText, shared_memory: Any, n: int = 1) -> SharedInstructions:
    return SharedInstructions(shared_memory, n)


@write_to_shared_memory.register(InstructionText)
def _write_instruction(space: InstructionText, index: int, value: str, shared_memory: Any) -> None:
    codes = np.frombuffer(value.encode("utf-32-le"), dtype=np.int32)
    size = 1 + space.max_length
    row = np.frombuffer(shared_memory.get_obj(), dtype=np.int32)[index * size : (index + 1) * size]
    row[0] = len(codes)
    row[1 : 1 + len(codes)] = codes


def check_sensors(sensors: Iterable[str]) -> tuple[str, ...]:
    """The sensors as a tuple, in the order of `SENSORS`.

    Raises:
        ValueError: a name is unknown or given twice, or there is none.
        TypeError: it is no sequence.
    """
    if isinstance(sensors, str):
        raise ValueError(f"sensors must be a sequence of names such as ({sensors!r},), got the string {sensors!r}")
    if not isinstance(sensors, Iterable):
        raise TypeError(f"sensors must be a sequence of names such as ('rgb', 'instruction'), got {sensors!r}")
    names = tuple(sensors)
    unknown = [name for name in names if name not in SENSORS]
    if unknown:
        raise ValueError(f"unknown sensor {unknown[0]!r}: choose from {', '.join(SENSORS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"sensors must be at least one name, each given once, got {names!r}")
    return tuple(name for name in SENSORS if name in names)


def observation_space(
    sensors: Sequence[str], camera: CameraConfig, charset: Iterable[str], max_length: int
) -> spaces.Dict:
    """The environment's observation space.

    Args:
        sensors: names out of `SENSORS`.
        camera: gives the pictures' size and the depth range.
        charset: characters of the dataset's instructions.
        max_length: length of its longest instruction, characters.
    """
    picture = (camera.height, camera.width)
    limit = POSITION_LIMIT
    built: dict[str, spaces.Space] = {
        "rgb": spaces.Box(0, 255, (*picture, 3), np.uint8),
        "depth": spaces.Box(0.0, camera.max_depth, (*picture, 1), np.float32),
        "semantic": spaces.Box(0, np.iinfo(np.int32).max, (*picture, 1), np.int32),
        "instruction": InstructionText(max(1, max_length), charset),
        "gps": spaces.Box(-limit, limit, (2,), np.float32),
        "compass": spaces.Box(-math.pi, math.pi, (1,), np.float32),
        "camera_pose": spaces.Box(-limit, limit, (4, 4), np.float32),
    }
    return spaces.Dict({name: built[name] for name in sensors})
