"""Plays groups of episodes in one process: one environment a place in the batch, one agent for all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from streamvln_gym.devices import one_torch_thread
from streamvln_gym.env import VLNEnv
from streamvln_gym.episode_run import EpisodeRun, needs_picture
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.failures import failure_kind
from streamvln_gym.evaluation.run_folder import video_file
from streamvln_gym.evaluation.shards import encode
from streamvln_gym.evaluation.work import Group
from streamvln_gym.geometry import wrap_angle
from streamvln_gym.rollout import env_options, episode_record, make_agent, random_agent


class Played(NamedTuple):
    """A finished episode.

    Attributes:
        episode_id: which.
        success: None where the episode has no goal.
        record: its line of `episodes.jsonl`.
        timing: its line of `timings.jsonl`.
        known: whether its result was there already.
    """

    episode_id: str
    success: float | None
    record: bytes
    timing: bytes
    known: bool


def open_environment(config: EvaluationConfig, **options: Any) -> gym.Env:
    """An environment over the evaluation's data.

    Raises:
        StreamVLNGymError: data or simulator cannot be had; the message says what to do.
    """
    # Gymnasium's checker does not get over a reset that fails, as with a broken scene, which others follow.
    return gym.make(config.env, disable_env_checker=True, **{**env_options(config), **options})


class Player:
    """Plays episodes with the evaluation's agent.

    Args:
        config: who plays what.
        fingerprint: of the run.
        worker: the name that timings bear.
        device: of the agent, in place of the configuration's.
    """

    def __init__(self, config: EvaluationConfig, fingerprint: str, worker: str, device: str | None = None) -> None:
        self.config = config
        self.fingerprint = fingerprint
        self.worker = worker
        sensors: tuple[str, ...] = ("instruction",)
        self._agent: Any = None
        self._label = ""
        if config.agent == "streamvln":
            self._agent, self._label = make_agent(config, None, device)
            sensors = ("rgb", "instruction", *(("depth", "camera_pose") if self._agent.needs_geometry else ()))
        options: dict[str, Any] = {"sensors": sensors, "camera": config.camera}
        options["render_mode"] = "rgb_array" if config.videos else None
        first = open_environment(config, **options)
        self.dataset: EpisodeDataset = first.unwrapped.dataset  # type: ignore[attr-defined]
        others = [VLNEnv(self.dataset, max_steps=config.max_steps, **options) for _ in range(config.batch - 1)]
        self._envs: list[gym.Env] = [first, *others]
        if self._agent is None:
            self._agent, self._label = make_agent(config, first)

    def play(self, group: Group) -> Iterator[Played]:
        """The group's episodes as they end; those that are known and not to be filmed play along unnamed."""
        network = self.config.agent == "streamvln"
        with one_torch_thread(network), ExitStack() as films:  # the thread: sums come out the same in every process
            runs, begun = [], time.perf_counter()
            for env, episode_id in zip(self._envs, group.episode_ids, strict=False):
                film = video_file(self.config.out, episode_id) if episode_id in group.filmed else None
                runs.append(films.enter_context(EpisodeRun(env, episode_id, film, self._label)))
            if self.config.agent == "random":  # drawn anew for every episode, so that its company does not matter
                self._agent = random_agent(self.config.seed, group.episode_ids[0])
            calls = _play_batch(self._agent, runs) if self.config.batch > 1 else _play_alone(self._agent, runs[0])
            for run, part in zip(runs, calls, strict=True):
                episode_id = run.episode.episode_id
                seconds = time.perf_counter() - begun
                record = self._record(run)
                timing = {"key": record["key"], "calls": part, "seconds": round(seconds, 3), "worker": self.worker}
                known = episode_id in group.known
                yield Played(episode_id, record.get("success"), encode(record), encode(timing), known)

    def close(self) -> None:
        """Frees the scenes."""
        for env in self._envs:
            env.close()

    def _record(self, run: EpisodeRun) -> dict[str, Any]:
        """A finished episode's line: the same bytes whoever played it."""
        episode, states = run.episode, run.base.trajectory
        found = episode_record(episode, run.info, run.actions)
        instruction = episode.instruction.extra.get("instruction_id")
        record = {
            "fingerprint": self.fingerprint,
            "key": [episode.scene_id, episode.episode_id, 0 if instruction is None else instruction],
            **found,
            "needs_memory": found["needs_memory"] or None,
            "stopped": run.stopped,
            "trajectory": [_millimetres(state.position) for state in states],
            "headings": [round(float(np.degrees(wrap_angle(state.yaw))), 1) for state in states],
            "start": _millimetres(states[0].position),
            "goal": _millimetres(episode.goals[0].position) if episode.goals else None,
            "reference_path": [_millimetres(point) for point in episode.reference_path],
            "via": [_millimetres(point) for point in episode.via],
            "geodesic_distance": episode.geodesic_distance,
        }
        if episode.instruction.language:
            record["language"] = episode.instruction.language
        if self._label:
            record["note"] = self._label
        graph = getattr(run.base.simulator, "scene_graph", None)
        record["failure"] = failure_kind(record, graph) if episode.reference_path else None
        return record


def _play_alone(agent: Any, run: EpisodeRun) -> list[list[list[Any]]]:
    """Plays an episode step by step; only what the agent looks at is rendered.

    Returns:
        The model calls, see `_call`, of the one episode; a call's time is the agent's since the call before, as it
        prepares the next window in between.
    """
    agent.reset()
    calls, last, spent = [], getattr(agent, "last_call", None), 0.0
    while not run.finished:
        observation, begun = run.observation, time.perf_counter()
        action = agent.act(observation)
        spent += time.perf_counter() - begun
        call = getattr(agent, "last_call", None)
        if call is not last:
            calls.append(_call(agent.stream, spent))
            last, spent = call, 0.0
        run.step(action, needs_picture(agent))
    return [calls]


def _play_batch(agent: Any, runs: list[EpisodeRun]) -> list[list[list[Any]]]:
    """Plays episodes side by side: those whose decided actions are used up call the network together.

    Returns:
        The model calls, see `_call`, of each episode; a call's time is that of all that were made together.
    """
    agent.reset()
    starts, active = np.ones(len(runs), bool), np.ones(len(runs), bool)
    calls: list[list[list[Any]]] = [[] for _ in runs]
    last: list[Any] = [None] * len(runs)
    while active.any():
        observations = [{} if run.finished else run.observation for run in runs]
        begun = time.perf_counter()
        actions = agent.act_batch(observations, starts, active)
        seconds = time.perf_counter() - begun
        starts = np.zeros(len(runs), bool)
        for slot in np.flatnonzero(active).tolist():
            stream = agent.batch.streams[slot]
            if stream.last_call is not last[slot]:
                calls[slot].append(_call(stream, seconds))
                last[slot] = stream.last_call
            runs[slot].step(actions[slot], needs_picture(stream))
            active[slot] = not runs[slot].finished
    return calls


def _call(stream: Any, seconds: float) -> list[Any]:
    """A stream's latest model call: step, milliseconds, positions in the KV cache after it, embeddings prefilled, and
    whether it opened a window."""
    call = stream.last_call
    opened = call.step == stream.window.start
    return [call.step, round(1000 * seconds, 2), call.kv_after, call.prefill_length, opened]


def _millimetres(point: Any) -> list[float]:
    return [round(float(value), 3) + 0.0 for value in point]  # + 0.0: no -0.0
