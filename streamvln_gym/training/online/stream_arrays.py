"""The streams' shared arrays: what each shows, what it is to do and what it did."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.task import MEMORY_KINDS
from streamvln_gym.training.privileged import POSE_TARGETS

RESULTS = ("success", "spl", "navigation_error", "oracle_success", "steps", "stopped", "memory_kind")
KINDS = ("", *MEMORY_KINDS)
INSTRUCTION_BYTES = 4096
SCENE_BYTES = 256
POLICY, EXPERT = 0, 1


class StreamArrays:
    """The streams' shared arrays, one row per stream; what a frame shows, and what was done after it.

    Attributes:
        rgb: uint8 (streams, size, size, 3).
        patch_class, patch_depth: uint8 (streams, patches); pose: float32 (streams, 5); rooms: uint8 (streams, 2). See
            `Privileged`.
            Pictures and patches are filled by workers that draw.
        scene: bytes (streams,), the id of the episode's scene.
        place: float64 (streams, 4), the position and the yaw; mirrored: bool (streams,), the episode is played in the
            mirror. Both are filled by workers that do not draw.
        active: bool (streams,), False for a stream that rests.
        instruction: uint8 (streams, 4096), the episode's instruction in UTF-8, filled up with zeros.
        started: bool (streams,), the frame is an episode's first.
        actions: int8 (streams, chunk), the policy's; driver: int8 (streams,), who drives.
        executed, labels: int8 (streams, chunk), -1 where there is none; of the chunk before the present frame.
        finished: bool (streams,), the episode before the present frame is over.
        progress: float32 (streams,), metres by which the chunk made the way shorter; of free streams.
        results: float32 (streams, 7), see `RESULTS`, of an episode that was evaluated; of one that ended in a free
            stream its success only.
    """

    def __init__(self, streams: int, size: int, patches: int, chunk: int, memory: SharedMemory | None = None) -> None:
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "place": (np.float64, (streams, 4)),
            "scene": (f"S{SCENE_BYTES}", (streams,)),
            "mirrored": (np.bool_, (streams,)),
            "rgb": (np.uint8, (streams, size, size, 3)),
            "results": (np.float32, (streams, len(RESULTS))),
            "pose": (np.float32, (streams, POSE_TARGETS)),
            "progress": (np.float32, (streams,)),
            "active": (np.bool_, (streams,)),
            "instruction": (np.uint8, (streams, INSTRUCTION_BYTES)),
            "patch_class": (np.uint8, (streams, patches)),
            "patch_depth": (np.uint8, (streams, patches)),
            "rooms": (np.uint8, (streams, 2)),
            "started": (np.bool_, (streams,)),
            "finished": (np.bool_, (streams,)),
            "actions": (np.int8, (streams, chunk)),
            "driver": (np.int8, (streams,)),
            "executed": (np.int8, (streams, chunk)),
            "labels": (np.int8, (streams, chunk)),
        }
        sizes = {
            name: -(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64 for name, (kind, shape) in shapes.items()
        }
        self.memory = memory or SharedMemory(create=True, size=sum(sizes.values()))
        self.owner = memory is None
        offset = 0
        for name, (kind, shape) in shapes.items():
            setattr(self, name, np.ndarray(shape, kind, self.memory.buf, offset))
            offset += sizes[name]

    place: NDArray[np.float64]
    scene: NDArray[np.bytes_]
    mirrored: NDArray[np.bool_]
    rgb: NDArray[np.uint8]
    results: NDArray[np.float32]
    pose: NDArray[np.float32]
    progress: NDArray[np.float32]
    active: NDArray[np.bool_]
    instruction: NDArray[np.uint8]
    patch_class: NDArray[np.uint8]
    patch_depth: NDArray[np.uint8]
    rooms: NDArray[np.uint8]
    started: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    actions: NDArray[np.int8]
    driver: NDArray[np.int8]
    executed: NDArray[np.int8]
    labels: NDArray[np.int8]

    def text(self, row: int) -> str:
        """The instruction of a stream."""
        return self.instruction[row].tobytes().rstrip(b"\0").decode()

    def close(self) -> None:
        for name in StreamArrays.__annotations__:
            setattr(self, name, None)  # views keep the memory open
        self.memory.close()
        if self.owner:
            self.memory.unlink()
