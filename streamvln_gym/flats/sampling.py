"""Draws the episodes of one flat: tasks, demonstrations, memory checks and instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.episodes import Episode, Goal, Instruction, position
from streamvln_gym.errors import NavigationError, SceneError
from streamvln_gym.expert import Demonstration, GeodesicFollower, demonstrate
from streamvln_gym.flats.clauses import ReturnToStart
from streamvln_gym.flats.files import INSTRUCTIONS_PER_PATH, PATHS_PER_SCENE
from streamvln_gym.flats.memory import MemoryNeed, memory_need
from streamvln_gym.flats.places import Places
from streamvln_gym.flats.proposals import (
    Proposal,
    propose_counting,
    propose_plain,
    propose_return,
    propose_same_as,
    propose_second_room,
)
from streamvln_gym.flats.sight import ObjectBoxes, Sight
from streamvln_gym.flats.task import Task
from streamvln_gym.flats.writer import Written, write_instructions
from streamvln_gym.geometry import path_length, yaw_to_quaternion
from streamvln_gym.metrics import drop_repeats
from streamvln_gym.scene_graph import SceneGraph
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

_MIN_MEMORY_PATHS, _MAX_MEMORY_PATHS = 2, 3
_MAX_ACTIONS = 200
_MIN_SPL = 0.95

# With the number of proposals to draw. Few flats offer the rare kinds, so they may come to the maximum; the common one
# succeeds nearly always and fills up to the minimum.
_RARE = ((propose_second_room, 400), (propose_same_as, 300))
_RAREST = (propose_counting, 400)
_COMMON = (propose_return, 120)


@dataclass(frozen=True)
class _Trial:
    """A task that has passed every check."""

    proposal: Proposal
    demonstration: Demonstration
    need: MemoryNeed | None
    instructions: list[Written]


def sample_episodes(simulator: EmbeddedSimulator, graph: SceneGraph, scene_id: str, first_id: int) -> list[Episode]:
    """Draws the episodes of the flat that `simulator` has loaded.

    Args:
        simulator: its scene is the flat.
        graph: the flat's scene graph.
        scene_id: as the episodes shall name it.
        first_id: id of the first episode; it also seeds the draw.

    Returns:
        `EPISODES_PER_SCENE` episodes, `INSTRUCTIONS_PER_PATH` in a row for each path.

    Raises:
        SceneError: the flat does not offer that many tasks.
    """
    rng = np.random.default_rng([first_id, 7])
    places = Places(graph, simulator.navmesh)
    boxes = ObjectBoxes.of(simulator.renderer.scene, len(graph.objects))
    trials: list[_Trial] = []
    rare = [_RARE[k] for k in rng.permutation(len(_RARE))]
    for (proposer, draws), most in (
        *((kind, _MAX_MEMORY_PATHS) for kind in (_RAREST, _RAREST, *rare)),
        *((_COMMON, _MIN_MEMORY_PATHS) for _ in range(_MIN_MEMORY_PATHS)),
    ):
        if len(trials) < most:
            trials += _try_out(simulator, places, boxes, proposer, draws, rng)
    if len(trials) < _MIN_MEMORY_PATHS:
        raise SceneError(f"{graph.name} offers only {len(trials)} paths that need memory")
    for _ in range(40):
        if len(trials) == PATHS_PER_SCENE:
            break
        trials += _try_out(simulator, places, boxes, propose_plain, 60, rng)
    if len(trials) < PATHS_PER_SCENE:
        raise SceneError(f"{graph.name} offers only {len(trials)} of {PATHS_PER_SCENE} paths")
    return [
        _episode(trial, written, scene_id, first_id, path_index, path_index * INSTRUCTIONS_PER_PATH + k)
        for path_index, trial in enumerate(trials)
        for k, written in enumerate(trial.instructions)
    ]


def _try_out(
    simulator: EmbeddedSimulator,
    places: Places,
    boxes: ObjectBoxes,
    proposer: Callable[..., Proposal | None],
    draws: int,
    rng: np.random.Generator,
) -> list[_Trial]:
    """The first of `draws` proposals that passes every check, in a list; an empty list if none does."""
    for _ in range(draws):
        proposal = proposer(places, rng)
        if proposal is None:
            continue
        demonstration = _demonstrate(simulator, proposal)
        if demonstration is None:
            continue
        need, sight = None, Sight(simulator.renderer, boxes, demonstration)
        if proposal.task.kind is not None:
            need = memory_need(places.graph, sight, proposal, demonstration)
            if need is None:
                continue
        way_back = need.decision_step if need is not None and need.kind == "return" else None
        seen = sight.objects(way_back)
        if not all(item in seen for item in _told_objects(proposal.task)):
            continue  # nobody can stop at what is never seen
        instructions = write_instructions(places.graph, proposal.task, INSTRUCTIONS_PER_PATH, rng, seen)
        if instructions is not None:
            return [_Trial(proposal, demonstration, need, instructions)]
    return []


def _told_objects(task: Task) -> set[int]:
    """Ids of the objects that every instruction for a task names: those visited, and the one to stop at."""
    stop = None if isinstance(task.stop, ReturnToStart) else task.stop.object_id
    return {*task.visits.values(), *(() if stop is None else (stop,))}


def _demonstrate(simulator: EmbeddedSimulator, proposal: Proposal) -> Demonstration | None:
    """The expert's run along the path, or None if it is too long or not nearly the shortest."""
    start = AgentState.from_rotation(proposal.path[0], yaw_to_quaternion(proposal.task.start_yaw))  # as it will be read
    try:
        run = demonstrate(simulator, start, GeodesicFollower(simulator, proposal.path[1:]), _MAX_ACTIONS)
    except NavigationError:  # more than _MAX_ACTIONS: too long for an episode
        return None
    shortest = path_length(proposal.path)
    return run if shortest / max(shortest, path_length(run.positions)) >= _MIN_SPL else None


def _episode(
    trial: _Trial, written: Written, scene_id: str, first_id: int, path_index: int, episode_index: int
) -> Episode:
    proposal = trial.proposal
    info: dict = {"style": written.style}
    if trial.need is not None:
        info["needs_memory"] = trial.need.kind
        info["decision_step"] = trial.need.decision_step
        info["cue_last_seen"] = trial.need.cue_last_seen
    if len(proposal.via):
        info["via"] = [_rounded(point) for point in proposal.via]
    path = [_rounded(point) for point in proposal.path]
    return Episode(
        episode_id=str(first_id + episode_index),
        trajectory_id=str(first_id + path_index),
        scene_id=scene_id,
        start_position=position(path[0]),
        start_rotation=tuple(float(v) for v in yaw_to_quaternion(proposal.task.start_yaw)),  # type: ignore[arg-type]
        instruction=Instruction(written.text, language="en-US"),
        goals=(Goal(position(path[-1])),),
        reference_path=tuple(position(point) for point in path),
        geodesic_distance=round(path_length(proposal.path), 6),
        gt_locations=tuple(position(_rounded(point)) for point in drop_repeats(trial.demonstration.positions)),
        gt_actions=trial.demonstration.actions,
        info=info,
    )


def _rounded(point: NDArray) -> list[float]:
    return [round(float(value), 6) for value in point]
