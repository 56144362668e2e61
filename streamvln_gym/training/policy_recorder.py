"""Records the episodes of one scene with policy and expert taking turns: what each process of a DAgger round does."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamvln_gym.agents.streamvln import StreamVLNAgent
from streamvln_gym.devices import one_torch_thread
from streamvln_gym.digests import episodes_digest
from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.errors import NavigationError
from streamvln_gym.geometry import path_length
from streamvln_gym.training.episode_recording import (
    EpisodeRecording,
    check_has_goal,
    plain_id,
    recording_env,
    trajectory_name,
)
from streamvln_gym.training.lockstep import chunk_size_of, play_together
from streamvln_gym.training.recorder import RecordConfig
from streamvln_gym.training.scene_recorder import load_policy
from streamvln_gym.training.takeover import Helm, KeepConfig, Moment, TakeOverConfig, make_helm
from streamvln_gym.training.trajectory_writer import TrajectoryWriter, is_recorded, mark_skipped

NOTES = "dagger"
"""Key of an episode's file in `episodes/` with what `PolicyRecorder` notes: `steps`, `expert_steps`, `take_overs`."""


@dataclass(frozen=True)
class PolicyRecordConfig:
    """What a DAgger round records.

    Attributes:
        record: folder, data, pictures, and the policy's checkpoint.
        episode_ids: what is played; one trajectory each.
        round_number: makes each round draw anew.
        beta: probability that the expert drives.
        per: what that is drawn for.
        take_over: when the expert takes over besides.
        keep: which episodes are kept.
        batch: episodes of a scene that are played at once.
    """

    record: RecordConfig
    episode_ids: tuple[str, ...]
    round_number: int
    beta: float
    per: Literal["chunk", "episode"]
    take_over: TakeOverConfig
    keep: KeepConfig
    batch: int


class PolicyRecorder:
    """Plays the episodes of scenes in groups of a fixed size, and writes those that are kept.

    A group of which anything is missing is played again as a whole, so that its episodes come out as they would have.

    Args:
        config: of the recording.
    """

    def __init__(self, config: PolicyRecordConfig) -> None:
        self.config = config
        self._policy: StreamVLNAgent = load_policy(config.record.checkpoint, config.record.device)
        first = recording_env(config.record)
        self._dataset = first.dataset
        self._envs = [first, *(recording_env(config.record, self._dataset) for _ in range(config.batch - 1))]

    def close(self) -> None:
        """Frees the scenes."""
        for env in self._envs:
            env.close()

    def process(self, scene_id: str, count: Callable[[int], object]) -> None:
        """Records what is missing of a scene.

        Args:
            scene_id: the scene.
            count: is told the number of episodes after each group.

        Raises:
            DatasetError: the episodes have no goals, or a file cannot be written.
            StreamVLNGymError: the scene cannot be loaded.
        """
        dataset = self._dataset
        episodes = [dataset.episode(name) for name in self.config.episode_ids if dataset.scene_of(name) == scene_id]
        with one_torch_thread(True):
            for begin in range(0, len(episodes), self.config.batch):
                group = episodes[begin : begin + self.config.batch]
                if not all([is_played(self.config.record.out, dataset, episode) for episode in group]):  # looks at all
                    self._record([episode for episode in group if self._has_instruction(episode)])
                count(len(group))

    def _skip(self, episode: Episode, reason: str, notes: dict[str, Any] | None = None) -> None:
        name, origin = trajectory_name(self._dataset, episode), episodes_digest([episode])
        mark_skipped(self.config.record.out, name, reason, notes, origin)

    def _has_instruction(self, episode: Episode) -> bool:
        check_has_goal(self._dataset, episode)
        if episode.instruction.text.strip():
            return True
        self._skip(episode, "its instruction is empty")
        return False

    def _record(self, group: Sequence[Episode]) -> None:
        record, played = self.config.record, []
        with ExitStack() as writers:
            for env, episode in zip(self._envs, group, strict=False):
                name = trajectory_name(self._dataset, episode)
                writer = writers.enter_context(TrajectoryWriter(record.out, name, record.quality))
                try:
                    recording = EpisodeRecording(record, env, episode, writer)
                except NavigationError as error:
                    self._skip(episode, str(error))
                    continue
                helm = self._helm(episode)
                driven = DrivenEpisode(recording, helm, chunk_size_of(self._policy))
                played.append((driven, episode, env, writer))
            play_together(self._policy, [driven for driven, *_ in played])
            for driven, episode, env, writer in played:
                self._publish(driven, episode, env, writer)

    def _helm(self, episode: Episode) -> Helm:
        config = self.config
        seed = [config.record.seed, config.round_number, zlib.crc32(episode.episode_id.encode())]
        return make_helm(config.beta, config.per, config.take_over, np.random.default_rng(seed))

    def _publish(self, driven: DrivenEpisode, episode: Episode, env: VLNEnv, writer: TrajectoryWriter) -> None:
        recording, helm = driven.recording, driven.helm
        if is_played(self.config.record.out, self._dataset, episode):
            return
        if driven.error:
            self._skip(episode, driven.error)
            return
        counts = {"expert_steps": helm.expert_steps, "take_overs": helm.take_overs}
        notes = {NOTES: {"steps": len(recording.executed), **counts}}
        path = episode.reference_path
        reference = path_length(path) if len(path) > 1 else recording.shortest
        if reason := self.config.keep.why_not(driven.distance, recording.info["path_length"], reference):
            self._skip(episode, reason, notes)
            return
        writer.publish(
            plain_id(episode.episode_id),
            [episode.instruction.text],
            recording.labels,
            recording.executed,
            env.camera.intrinsics if self.config.record.depth else None,
            notes,
            episodes_digest([episode]),
        )


def is_played(folder: Path, dataset: EpisodeDataset, episode: Episode) -> bool:
    """Whether a folder has the episode already, or says why not.

    Raises:
        DatasetError: its annotation is damaged, or it is of another episode with the same id.
    """
    return is_recorded(folder, trajectory_name(dataset, episode), episodes_digest([episode]))


class DrivenEpisode:
    """An episode in which policy and expert take turns; a `lockstep.Player`.

    While the expert drives, the policy is asked all the same: it sees what it would see if it drove, on a grid of whole
    chunks, and its answer is not executed.

    Args:
        recording: at its start.
        helm: decides who drives.
        chunk_size: actions of one full answer.

    Attributes:
        error: why the episode cannot be used, "" if it can.
    """

    def __init__(self, recording: EpisodeRecording, helm: Helm, chunk_size: int) -> None:
        self.recording = recording
        self.helm = helm
        self.finished = False
        self.n_executed = 0
        self.error = ""
        self._chunk_size = chunk_size

    @property
    def distance(self) -> float:
        """Geodesic metres to the goal, over the places that are to be visited before."""
        return self.recording.remaining

    @property
    def asks_policy(self) -> bool:
        """Whether the policy may drive in this episode."""
        return self.helm.asks_policy

    def look(self) -> dict[str, Any]:
        """The present observation; the episode is over where the expert is at a loss."""
        try:
            return self.recording.look()
        except NavigationError as error:
            self.finished, self.error = True, str(error)
            return {}

    def play(self, chunk: Sequence[int]) -> None:
        """Executes what is left of the chunk's actions once the helm has judged them."""
        self.helm.start_chunk(self._moment())
        self.n_executed = 0
        while not self.finished:
            if not self.helm.by_expert and self.n_executed >= len(chunk):
                return
            if self.helm.by_expert and self.n_executed >= self._chunk_size:
                return
            if self.n_executed:
                self.look()
                if self.finished:
                    return
            proposed = chunk[self.n_executed] if self.n_executed < len(chunk) else -1
            self.recording.execute(self.helm.choose(proposed, self._moment()))
            self.n_executed += 1
            self.finished = self.recording.finished

    def _moment(self) -> Moment:
        recording, expert = self.recording, self.recording.expert
        state = recording.state
        return Moment(recording.labels[-1], self.distance, expert.visited, lambda: expert.steps_to_waypoint(state))
