"""The rule of the expert's turns, and its compiled form on a navigation mesh."""

import math

import numpy as np
import pytest

from streamvln_gym.expert import demonstrate, expert_for
from streamvln_gym.simulators import heading
from streamvln_gym.simulators.base import AgentState


@pytest.fixture
def simulator(tiny_flats):
    env = tiny_flats.make(sensors=("instruction",))
    env.reset()
    yield env.simulator
    env.close()


def test_the_mesh_answers_as_the_rule_does(simulator):
    rng = np.random.default_rng(5)
    mesh, answers = simulator.navmesh, []
    for _ in range(300):
        position, goal = (mesh.random_point(rng) for _ in range(2))
        state = AgentState(position, float(rng.uniform(-math.pi, math.pi)))
        distance = simulator.geodesic_distance(position, goal)
        answers.append(simulator.best_turns(state, goal, distance))
        assert answers[-1] == heading.best_turns(simulator, state, goal, distance)
    assert {-11, 11} <= set(answers) and all(-12 < turns <= 12 for turns in answers)


def test_fewest_turns_that_gain_what_a_step_can(simulator):
    points = [simulator.navmesh.random_point(np.random.default_rng(k)) for k in range(40)]
    start = points[0]
    ways = [simulator.shortest_path(start, point) for point in points[1:]]
    goal = max((way[1] for way in ways if way is not None), key=lambda corner: math.dist(corner, start))
    towards = math.atan2(start[0] - goal[0], start[2] - goal[2])
    for off, turns in ((5.0, 0), (-5.0, 0), (43.0, -3), (-43.0, 3), (179.0, -12)):
        state = AgentState(start, towards + math.radians(off))
        assert simulator.best_turns(state, goal, simulator.geodesic_distance(start, goal)) in (turns, turns + 24), off


def test_a_simulator_without_the_compiled_rule_has_the_same_expert(tiny_flats):
    env = tiny_flats.make(sensors=("instruction",))
    env.reset()

    class OnesOwn:
        """What a user's simulator must have."""

        def __init__(self):
            for name in ("try_step", "geodesic_distance", "shortest_path"):
                setattr(self, name, getattr(env.simulator, name))

    runs = [
        demonstrate(simulator, env.simulator.state, expert_for(simulator, env.episode))
        for simulator in (env.simulator, OnesOwn())
    ]
    assert runs[0].actions == runs[1].actions and len(runs[0].actions) > 10
    env.close()


def test_a_goal_that_cannot_be_reached_asks_for_no_turn(simulator):
    start = simulator.navmesh.random_point(np.random.default_rng(0))
    nowhere = np.array([500.0, 0.0, 500.0])
    assert simulator.best_turns(AgentState(start, 0.3), nowhere, math.inf) == 0
    assert heading.best_turns(simulator, AgentState(start, 0.3), nowhere, math.inf) == 0
