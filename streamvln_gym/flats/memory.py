"""Checks on the rendered reference path that an episode's cue has left the window when it is needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvln_gym.expert import Demonstration
from streamvln_gym.flats.proposals import Proposal
from streamvln_gym.flats.sight import Sight
from streamvln_gym.scene_graph import SceneGraph

WINDOW_STEPS = 32
_PIXELS = 4  # of a picture's 19,200: fewer say nothing
_VISIT_METRES = 0.6
_DOOR_METRES = 1.0


@dataclass(frozen=True)
class MemoryNeed:
    """Why an episode needs memory.

    Attributes:
        kind: one of `task.MEMORY_KINDS`.
        decision_step: the step at which the cue decides what to do next.
        cue_last_seen: the last step before it whose picture shows the cue; at least 32 steps earlier.
    """

    kind: str
    decision_step: int
    cue_last_seen: int


def memory_need(graph: SceneGraph, sight: Sight, proposal: Proposal, demonstration: Demonstration) -> MemoryNeed | None:
    """Looks for the cue in the demonstration's pictures.

    Returns:
        None if the proposal is no memory task, the cue is never seen, or it is still (or again) in sight within the
        32 steps that end at the decision.
    """
    kind = proposal.task.kind
    if kind is None or proposal.decision is None:
        return None
    decision = _decision_step(proposal, demonstration)
    if decision is None or decision < WINDOW_STEPS:
        return None
    cue = np.zeros(len(graph.objects), dtype=bool)
    cue[list(proposal.cue_objects)] = True
    if proposal.cue_room is not None:
        cue[[o.id for o in graph.objects if o.room == proposal.cue_room]] = True
    window = range(decision, decision - WINDOW_STEPS, -1)
    if any(sight.shows(step, cue, _PIXELS) for step in window):
        return None
    for step in range(decision - WINDOW_STEPS, -1, -1):
        if sight.shows(step, cue, _PIXELS):
            return MemoryNeed(kind, decision, step)
    return None


def _decision_step(proposal: Proposal, demonstration: Demonstration) -> int | None:
    """The step with which the last (for a return: the first) stay near the place of the decision begins."""
    assert proposal.decision is not None and proposal.task.kind is not None
    is_return = proposal.task.kind == "return"
    distances = np.linalg.norm(demonstration.positions[:, [0, 2]] - np.array(proposal.decision), axis=1)
    near = distances <= (_VISIT_METRES if is_return else _DOOR_METRES)
    begins = np.nonzero(near & ~np.concatenate([[False], near[:-1]]))[0]
    if not len(begins):
        return None
    return int(begins[0] if is_return else begins[-1])
