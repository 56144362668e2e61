"""What a worker process does with its streams, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import DatasetError
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.training.online.config import MAX_STEPS, CollectConfig
from streamvln_gym.training.online.mirrored_streams import mirror_chunk, mirror_frame, mirror_place, mirror_text
from streamvln_gym.training.online.scenes import open_training_data
from streamvln_gym.training.online.stream_arrays import (
    EXPERT,
    INSTRUCTION_BYTES,
    KINDS,
    RESULTS,
    SCENE_BYTES,
    StreamArrays,
)
from streamvln_gym.training.online.streams import NOTHING, EpisodeSupply, Stream
from streamvln_gym.training.privileged import PRIVILEGED_SENSORS, patch_targets, pose_targets, room_targets


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

    @property
    def draws(self) -> bool:
        """Whether it draws the pictures; otherwise it says where each stream stands, and hands over its scenes."""
        return self.config.drawn_by == "workers"

    @property
    def camera(self) -> CameraConfig:
        """What the pictures are drawn with."""
        return CameraConfig.of_size(self.image_size, self.image_size, self.config.supersampling)


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


class Worker:
    """Serves `WorkerPool`'s messages `train`, `turn` and `evaluate`; between them, `prepare`.

    Args:
        spec: what it needs to know.
        arrays: of all workers' streams.
    """

    def __init__(self, spec: StreamsSpec, arrays: StreamArrays) -> None:
        from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

        self._spec = spec
        self._arrays = arrays
        self._rows = range(spec.first, spec.first + spec.streams)
        self._dataset = open_training_data(spec.data, spec.split, spec.scenes)
        simulator = EmbeddedSimulator(spec.camera, cached_triangles=50_000 * max(spec.config.shelf, 4))
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

    def prepare(self) -> None:
        """Reads the scene that will be played in next, so that no turn has to wait for it."""
        episode = self._supply.upcoming if self._training else None
        if episode is not None:
            self._simulator.load_scene(Path(self._dataset.scene_path(episode.scene_id)))

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
            succeeded = stream.metrics.succeeded
            arrays.results[row, RESULTS.index("success")] = succeeded
            self._supply.note(stream.episode, succeeded)
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
            arrays.scene[row] = scene = stream.episode.scene_id.encode()
            if len(scene) > SCENE_BYTES:
                raise DatasetError(f"the scene id {stream.episode.scene_id} is too long: {len(scene)} bytes")
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
        if name not in self._handed_over:
            stream.enter()
            simulator = self._simulator
            if simulator.class_ids is None:
                raise DatasetError(f"scene {name} has no instances, which are needed to draw it on a GPU")
            self._handed_over[name] = DrawableScene(name.encode(), simulator.renderer.mesh, simulator.class_ids)


def _fill(row: NDArray[np.int8], values: Sequence[int]) -> None:
    row[:] = NOTHING
    row[: len(values)] = values
