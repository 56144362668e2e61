"""Worker processes of online DAgger: each simulates some streams; pictures and actions lie in shared memory."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import DatasetError, StreamVLNGymError
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.flats.task import MEMORY_KINDS
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.training.online.config import MAX_STEPS, CollectConfig
from streamvln_gym.training.online.mirrored_streams import mirror_chunk, mirror_frame, mirror_place, mirror_text
from streamvln_gym.training.online.scenes import open_training_data
from streamvln_gym.training.online.streams import NOTHING, EpisodeSupply, Stream
from streamvln_gym.training.privileged import (
    POSE_TARGETS,
    PRIVILEGED_SENSORS,
    patch_targets,
    pose_targets,
    room_targets,
)

RESULTS = ("success", "spl", "navigation_error", "oracle_success", "steps", "stopped", "memory_kind")
KINDS = ("", *MEMORY_KINDS)
INSTRUCTION_BYTES = 4096
SCENE_BYTES = 256
POLICY, EXPERT = 0, 1


class WorkerError(StreamVLNGymError):
    """A worker process failed or was killed."""


@dataclass(frozen=True)
class StreamsSpec:
    """What a worker needs to know.

    Attributes:
        data: see `OnlineConfig.data`.
        split: of the dataset.
        scenes: how many scenes the dataset is opened with, None for its own number.
        training_scenes: scene ids this worker trains on.
        first: index of its first stream.
        streams: how many it has.
        image_size: side of the pictures.
        patches_per_side: of the vision tower.
        chunk_size: actions of a turn.
        seed: of its draws.
        config: how to collect.
        free: how many of its streams, the first ones, are free, see `ReinforceConfig`.
        mirrored: share of their episodes that is played in the mirror, see `mirrored_streams`.
        draws: whether it draws the pictures; otherwise it says where each stream stands, and hands over its scenes.
    """

    data: str
    split: str
    scenes: int | None
    training_scenes: tuple[str, ...]
    first: int
    streams: int
    image_size: int
    patches_per_side: int
    chunk_size: int
    seed: tuple[int, ...]
    config: CollectConfig
    free: int = 0
    mirrored: float = 0.0
    draws: bool = True


@dataclass(frozen=True)
class DrawableScene:
    """What a scene's pictures are drawn from, handed over by a worker that does not draw.

    Attributes:
        key: the scene's id as in `StreamArrays.scene`.
        mesh: its triangles.
        class_ids: class of each instance.
    """

    key: bytes
    mesh: RenderMesh
    class_ids: NDArray[np.int32]


class StreamArrays:
    """The streams' shared arrays, one row per stream; what a frame shows, and what was done after it.

    Attributes:
        rgb: uint8 (streams, size, size, 3).
        patch_class, patch_depth: uint8 (streams, patches); pose: float32 (streams, 5); rooms: uint8 (streams, 2). See
            `Privileged`.
            Pictures and patches are filled by workers that draw.
        place: float64 (streams, 4), the position and the yaw; scene: bytes (streams,), the scene's id; mirrored: bool
            (streams,), the episode is played in the mirror. All three are filled by workers that do not draw.
        active: bool (streams,), False for a stream that rests.
        instruction: uint8 (streams, 4096), the episode's instruction in UTF-8, filled up with zeros.
        started: bool (streams,), the frame is an episode's first.
        actions: int8 (streams, chunk), the policy's; driver: int8 (streams,), who drives.
        executed, labels: int8 (streams, chunk), -1 where there is none; of the chunk before the present frame.
        finished: bool (streams,), the episode before the present frame is over.
        progress: float32 (streams,), metres by which the chunk made the way shorter; of free streams.
        results: float32 (streams, 7), see `RESULTS`; of an episode that was evaluated, or that ended in a free stream.
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


class WorkerPool:
    """The worker processes. Every `post` is answered once; `wait` returns when all have answered.

    Args:
        specs: one per worker.

    Attributes:
        streams: of all workers.
        free: bool (streams,), which are free.
    """

    def __init__(self, specs: Sequence[StreamsSpec]) -> None:
        first = specs[0]
        self.workers = len(specs)
        self.streams = sum(spec.streams for spec in specs)
        self.free = np.concatenate([np.arange(spec.streams) < spec.free for spec in specs])
        self.arrays = StreamArrays(self.streams, first.image_size, first.patches_per_side**2, first.chunk_size)
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for spec in specs:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(spec, theirs, self.arrays.memory.name, self.streams), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._specs = list(specs)

    def train(self, longest: int) -> None:
        """Lets every stream start a training episode, of a demonstration of at most `longest` actions."""
        self._post([("train", longest)] * len(self._specs))

    def turn(self, longest: int = 0) -> None:
        """Lets every stream execute `arrays.actions`; `longest` is for the training episodes that start."""
        self._post([("turn", longest)] * len(self._specs))

    def evaluate(self, episode_ids: Sequence[str], max_steps: int) -> NDArray[np.int64]:
        """Lets the streams start these episodes (at most one each); which stream got which, -1 for none."""
        given = np.full(self.streams, -1, dtype=np.int64)
        lists: list[list[str | None]] = [[] for _ in self._specs]
        for number, episode_id in enumerate(episode_ids):
            worker = number % len(self._specs)
            given[self._specs[worker].first + len(lists[worker])] = number
            lists[worker].append(episode_id)
        self._post([("evaluate", ids, max_steps) for ids in lists])
        return given

    def wait(self) -> list[DrawableScene]:
        """Waits for every worker's answer.

        Returns:
            The scenes that streams have come into, from workers that do not draw.

        Raises:
            WorkerError: a worker failed, or was killed.
        """
        scenes: list[DrawableScene] = []
        for number, connection in enumerate(self._connections):
            try:
                answer = connection.recv()
            except (EOFError, ConnectionError) as error:
                raise self._died(number) from error
            if isinstance(answer, str):
                raise WorkerError(f"worker process {number} failed:\n{answer}")
            scenes += answer
        return scenes

    def close(self) -> None:
        """Ends the processes and frees the shared memory."""
        for connection in self._connections:
            try:
                connection.send(("quit",))
            except (BrokenPipeError, ConnectionError):
                continue  # that worker is dead already
            connection.close()  # a worker that waits for its answer to be taken ends, too
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
        self.arrays.close()

    def _died(self, number: int) -> WorkerError:
        self._processes[number].join(1.0)
        code = self._processes[number].exitcode
        return WorkerError(
            f"worker process {number} died (exit code {code}; out of memory?): run the same command again to go on "
            "from the last saved state, or use fewer workers or streams"
        )

    def _post(self, messages: Sequence[tuple[Any, ...]]) -> None:
        for number, (connection, message) in enumerate(zip(self._connections, messages, strict=True)):
            try:
                connection.send(message)
            except (BrokenPipeError, ConnectionError) as error:
                raise self._died(number) from error


def _serve(spec: StreamsSpec, connection: Connection, memory: str, streams: int) -> None:
    """A worker's life."""
    os.nice(5)  # the network's process must not wait for a core
    os.environ["NUMBA_NUM_THREADS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"  # a worker that builds a flat is silent
    shared = SharedMemory(memory)
    arrays = StreamArrays(streams, spec.image_size, spec.patches_per_side**2, spec.chunk_size, shared)
    try:
        worker = _Worker(spec, arrays)
        while True:
            message = connection.recv()
            if message[0] == "quit":
                return
            getattr(worker, message[0])(*message[1:])
            connection.send(worker.hand_over())
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the trainer is gone
    except Exception:  # reported to the trainer, which raises it
        connection.send(traceback.format_exc())


class _Worker:
    """Serves `WorkerPool`'s messages."""

    def __init__(self, spec: StreamsSpec, arrays: StreamArrays) -> None:
        from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

        self._spec = spec
        self._arrays = arrays
        self._rows = range(spec.first, spec.first + spec.streams)
        self._dataset = open_training_data(spec.data, spec.split, spec.scenes)
        camera = CameraConfig.of_size(spec.image_size, spec.image_size, spec.config.supersampling)
        simulator = EmbeddedSimulator(camera, cached_triangles=50_000 * max(spec.config.shelf, 4))
        self._simulator = simulator
        rng = np.random.default_rng(spec.seed)
        rescued = rng.random(spec.streams) < spec.config.rescued_streams
        self._streams = [Stream(simulator, self._dataset, spec.config, rescued=bool(r)) for r in rescued]
        self._supply = EpisodeSupply(self._dataset, spec.training_scenes, spec.config, rng)
        if spec.config.builders and isinstance(self._dataset, FlatsDataset):
            self._supply.ready = self._dataset.is_built
        self._training = True
        self._rng = rng
        self._mirrored = np.zeros(spec.streams, dtype=bool)  # whose present episode is played in the mirror
        self._handed_over: dict[str, DrawableScene | None] = {}  # scenes that streams are in; None where it was done

    def train(self, longest: int) -> None:
        self._training, self._longest = True, longest
        for row, stream in zip(self._rows, self._streams, strict=True):
            stream.max_steps = MAX_STEPS
            self._begin(row, stream)

    def evaluate(self, episode_ids: list[str], max_steps: int) -> None:
        self._training = False
        self._mirrored[:] = False
        for k, (row, stream) in enumerate(zip(self._rows, self._streams, strict=True)):
            stream.max_steps = max_steps
            stream.begin(self._dataset.episode(episode_ids[k]) if k < len(episode_ids) else None)
            self._show(row, stream, started=True)

    def hand_over(self) -> list[DrawableScene]:
        """The scenes that streams have come into since the last call. A scene that all have left will come anew."""
        present = {stream.episode.scene_id for stream in self._streams if stream.episode is not None}
        coming = [scene for name, scene in self._handed_over.items() if name in present and scene is not None]
        self._handed_over = {name: None for name in self._handed_over if name in present}
        return coming

    def turn(self, longest: int) -> None:
        self._longest = longest
        both = zip(self._rows, self._streams, strict=True)
        playing = [(stream.episode.scene_id, row, stream) for row, stream in both if stream.episode is not None]
        # Scene by scene: what a scene is drawn from then lies in the processor's cache, which saves a tenth.
        for _, row, stream in sorted(playing, key=lambda one: one[:2]):
            if not self._training:
                self._play(row, stream)
            elif row - self._spec.first < self._spec.free:
                self._roam(row, stream)
            else:
                self._drive(row, stream)

    def _drive(self, row: int, stream: Stream) -> None:
        arrays = self._arrays
        executed, labels, over = stream.drive(arrays.actions[row], arrays.driver[row] == EXPERT)
        _fill(arrays.executed[row], executed)
        _fill(arrays.labels[row], labels)
        arrays.finished[row] = over
        if over:
            self._begin(row, stream)
        else:
            self._show(row, stream, started=False)

    def _roam(self, row: int, stream: Stream) -> None:
        arrays = self._arrays
        mirrored = self._mirrored[row - self._spec.first]
        actions = arrays.actions[row].tolist()
        executed, arrays.progress[row], over = stream.roam(mirror_chunk(actions) if mirrored else actions)
        _fill(arrays.executed[row], mirror_chunk(executed) if mirrored else executed)
        _fill(arrays.labels[row], [])
        arrays.finished[row] = over
        if over:
            assert stream.episode is not None
            self._note_result(row, stream)
            self._supply.note(stream.episode, stream.metrics.result["success"] > 0.5)
            self._begin(row, stream)
        else:
            self._show(row, stream, started=False)

    def _play(self, row: int, stream: Stream) -> None:
        arrays = self._arrays
        executed, over = stream.play(arrays.actions[row])
        _fill(arrays.executed[row], executed)
        arrays.finished[row] = over
        if over:
            self._note_result(row, stream)
            stream.begin(None)
        self._show(row, stream, started=False)

    def _note_result(self, row: int, stream: Stream) -> None:
        assert stream.episode is not None
        result = stream.metrics.result
        kind = KINDS.index(stream.episode.needs_memory) if stream.episode.needs_memory in KINDS else 0
        stopped = self._arrays.executed[row].tolist().count(0) > 0
        self._arrays.results[row] = [*(float(result[name]) for name in RESULTS[:5]), stopped, kind]

    def _begin(self, row: int, stream: Stream) -> None:
        place = row - self._spec.first
        self._mirrored[place] = place < self._spec.free and self._rng.random() < self._spec.mirrored
        stream.begin(self._supply.next(self._longest))
        self._show(row, stream, started=True)

    def _show(self, row: int, stream: Stream, started: bool) -> None:
        arrays, mirrored = self._arrays, self._mirrored[row - self._spec.first]
        arrays.started[row] = started
        arrays.active[row] = stream.episode is not None
        if stream.episode is None:
            return
        if started:
            words = stream.episode.instruction.text
            text = (mirror_text(words) if mirrored else words).encode()
            if len(text) > INSTRUCTION_BYTES:
                raise DatasetError(
                    f"the instruction of episode {stream.episode.episode_id} is too long: {len(text)} bytes"
                )
            arrays.instruction[row] = 0
            arrays.instruction[row, : len(text)] = np.frombuffer(text, np.uint8)
        if not self._spec.draws:
            self._say_where(row, stream)
        elif not self._training:
            arrays.rgb[row] = stream.look(("rgb",))["rgb"]
        else:
            pictures = stream.look(PRIVILEGED_SENSORS)
            arrays.rgb[row] = pictures["rgb"]
            arrays.patch_class[row], arrays.patch_depth[row] = patch_targets(pictures, self._spec.patches_per_side)
            if mirrored:
                mirror_frame(arrays.rgb[row], arrays.patch_class[row], arrays.patch_depth[row])
        if not self._training:
            return
        stream.follower.advance(stream.state)
        arrays.pose[row] = pose_targets(stream.follower, stream.state, stream.start)
        arrays.rooms[row] = room_targets(self._simulator.scene_graph, stream.follower, stream.state)
        if mirrored:
            mirror_place(arrays.pose[row])

    def _say_where(self, row: int, stream: Stream) -> None:
        """Writes what somebody else needs to draw a stream's picture."""
        assert stream.episode is not None
        name, arrays = stream.episode.scene_id, self._arrays
        arrays.place[row, :3], arrays.place[row, 3] = stream.state.position, stream.state.yaw
        arrays.mirrored[row] = self._mirrored[row - self._spec.first]
        arrays.scene[row] = name.encode()
        if name not in self._handed_over:
            stream.enter()
            simulator = self._simulator
            if simulator.class_ids is None:
                raise DatasetError(f"scene {name} has no instances, which are needed to draw it on a GPU")
            if len(name.encode()) > SCENE_BYTES:
                raise DatasetError(f"the scene id {name} is too long: {len(name.encode())} bytes")
            self._handed_over[name] = DrawableScene(name.encode(), simulator.renderer.mesh, simulator.class_ids)


def _fill(row: NDArray[np.int8], values: Sequence[int]) -> None:
    row[:] = NOTHING
    row[: len(values)] = values
