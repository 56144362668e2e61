import math

import gymnasium as gym
import numpy as np
import pytest

from streamvln_gym.agents import OracleAgent
from streamvln_gym.errors import NavigationError
from streamvln_gym.expert import GeodesicFollower, Lenience, demonstrate, expert_for
from streamvln_gym.simulators.base import Action, AgentState


@pytest.fixture
def env(tiny_flats):
    env = tiny_flats.make(sensors=("instruction",))
    yield env
    env.close()


def test_the_oracle_succeeds_along_every_reference_path(env):
    agent = OracleAgent(env)
    for _ in range(len(env.dataset)):
        observation, info = env.reset()
        if not env.episode.goals or not math.isfinite(info["distance_to_goal"]):
            continue
        agent.reset()
        finished = False
        while not finished:
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
            finished = terminated or truncated
        assert info["success"] == 1.0
        assert info["spl"] > 0.9
        assert info["distance_to_goal"] <= 0.25


def test_the_follower_turns_the_short_way_first(env):
    env.reset()
    position = env.simulator.state.position
    straight = GeodesicFollower(env.simulator, [env.episode.goals[0].position])
    path = env.simulator.shortest_path(position, env.episode.goals[0].position)
    towards = math.atan2(-(path[1][0] - path[0][0]), -(path[1][2] - path[0][2]))
    assert straight.next_action(AgentState(position, towards + math.radians(40))) == Action.RIGHT
    assert straight.next_action(AgentState(position, towards - math.radians(40))) == Action.LEFT


def test_next_actions_change_nothing(env):
    env.reset()
    follower = expert_for(env.simulator, env.episode)
    state = env.simulator.state
    first = follower.next_actions(state, 6)
    assert first == follower.next_actions(state, 6)
    assert first[0] == follower.next_action(state)
    assert env.simulator.state is state


def test_the_straight_way_leads_by_way_of_what_the_episode_asks_for(env):
    env.reset(options={"episode_id": "30"})  # to the kitchen, and back to where it started
    assert env.episode.via
    follower = expert_for(env.simulator, env.episode, along_reference=False, waypoint_radius=0.3)
    run = demonstrate(env.simulator, env.simulator.state, follower)
    assert len(run.actions) > 40
    nearest = min(env.simulator.geodesic_distance(place, env.episode.via[0]) for place in run.positions)
    assert nearest <= 0.3
    assert env.simulator.geodesic_distance(run.positions[-1], env.episode.goals[0].position) <= 0.25


def test_leniency_changes_nothing_for_who_goes_the_experts_way(env):
    for episode_id in env.dataset.episode_ids:
        env.reset(options={"episode_id": episode_id})
        start = env.simulator.state
        runs = [
            demonstrate(env.simulator, start, expert_for(env.simulator, env.episode, lenient=lenient))
            for lenient in (False, True)
        ]
        assert runs[0].actions == runs[1].actions


def test_who_cuts_a_corner_is_not_sent_back_to_it(env):
    env.reset(options={"episode_id": "10"})
    simulator = env.simulator
    start, goal = simulator.state, env.episode.goals[0].position
    walked = demonstrate(simulator, start, GeodesicFollower(simulator, [goal]))
    middle = walked.positions[len(walked.positions) // 2]
    beside = simulator.snap_point(middle + [0.0, 0.0, 1.0])
    assert 0.6 < simulator.geodesic_distance(middle, beside) < 1.5
    way = [beside, goal]
    strict, lenient = GeodesicFollower(simulator, way), GeodesicFollower(simulator, way, lenience=Lenience())
    far = GeodesicFollower(simulator, way, lenience=Lenience(near=0.5))
    for position, yaw in zip(walked.positions, walked.yaws, strict=True):
        for follower in (strict, lenient, far):
            follower.advance(AgentState(position, yaw))
        before = lenient.visited
        lenient.next_actions(AgentState(position, yaw), 8)
        assert lenient.visited == before, "what is done in thought only does not count"
    assert [strict.visited, lenient.visited, far.visited] == [0, 1, 0]
    at_the_goal = AgentState(walked.positions[-1], walked.yaws[-1])
    assert lenient.next_action(at_the_goal) == Action.STOP != strict.next_action(at_the_goal)


@pytest.mark.parametrize("radius", [0.3, 1.0])
def test_the_way_points_radius(env, radius):
    env.reset(options={"episode_id": "10"})
    follower = expert_for(env.simulator, env.episode, waypoint_radius=radius)
    door, state = follower.waypoint, env.simulator.state
    distances = [follower.advance(state)]
    while (follower.waypoint == door).all():
        state, _ = env.simulator.try_step(state, follower.next_action(state))
        distances.append(env.simulator.geodesic_distance(state.position, door))
        follower.advance(state)
    assert distances[-1] <= radius < distances[-2]


def test_a_demonstration_ends_in_stop_and_visits_the_way_points(env):
    env.reset()
    run = demonstrate(env.simulator, env.simulator.state, expert_for(env.simulator, env.episode))
    assert run.actions[-1] == Action.STOP
    assert len(run.positions) == len(run.yaws) == len(run.actions)
    for waypoint in env.episode.reference_path:
        assert np.linalg.norm(run.positions - np.array(waypoint), axis=1).min() < 0.75


def test_an_unreachable_way_point_is_named(env, tiny_flats):
    env.reset()
    follower = GeodesicFollower(env.simulator, [(9.4, 0.2, 1.0)])  # the closed room
    with pytest.raises(NavigationError, match=r"cannot reach \[9.4, 0.2, 1.0\]"):
        follower.next_action(env.simulator.state)


def test_no_way_points_are_an_error(env):
    env.reset()
    with pytest.raises(ValueError, match="at least one"):
        GeodesicFollower(env.simulator, [])


def test_too_few_steps_are_an_error(env):
    env.reset()
    with pytest.raises(NavigationError, match="within 2 steps"):
        demonstrate(env.simulator, env.simulator.state, expert_for(env.simulator, env.episode), max_steps=2)


def test_the_oracle_wants_one_environment(env):
    for wrong in (gym.make_vec("CartPole-v1", num_envs=1), gym.make("CartPole-v1"), None):
        with pytest.raises(TypeError, match="reads one VLNEnv"):
            OracleAgent(wrong)


def test_the_oracle_wants_a_reset_first(env):
    with pytest.raises(RuntimeError, match=r"agent\.reset\(\)"):
        OracleAgent(env).act({})
