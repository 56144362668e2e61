"""Who drives: every rule with hand-made policies, on made-up states and in the tiny flats."""

import math

import numpy as np
import pytest

from streamvln_gym.expert import GeodesicFollower, demonstrate, expert_for
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.training.episode_recording import EpisodeRecording, recording_env
from streamvln_gym.training.policy_recorder import DrivenEpisode
from streamvln_gym.training.recorder import RecordConfig
from streamvln_gym.training.takeover import (
    DisagreementRule,
    Helm,
    KeepConfig,
    Mixing,
    Moment,
    StopRule,
    TakeOverConfig,
    make_helm,
)
from streamvln_gym.training.trajectory_writer import TrajectoryWriter

STOP, FORWARD, LEFT, RIGHT = range(4)


def moment(label=FORWARD, distance=9.0, visited=0, steps=100):
    return Moment(label, distance, visited, lambda: steps)


def never():
    return Mixing(0.0, "chunk", np.random.default_rng(0))


def drive(helm, chunks, policy=LEFT, size=4, **state):
    """Who drove each action, "p" or "e", of a policy that always does the same."""
    drivers = []
    for _ in range(chunks):
        helm.start_chunk(moment(**state))
        for _ in range(size):
            before = helm.expert_steps
            helm.choose(policy, moment(**state))
            drivers.append("e" if helm.expert_steps > before else "p")
        drivers.append(" ")
    return "".join(drivers).split()


# ------------------------------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize(("beta", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.3, 250, 350)])
def test_chunks_are_drawn(beta, least, most):
    mixing = Mixing(beta, "chunk", np.random.default_rng(1))
    assert least <= sum(mixing.claims(moment()) for _ in range(1000)) <= most
    assert mixing.whole_episode == (beta == 1.0)


@pytest.mark.parametrize(("beta", "least", "most"), [(0.0, 0, 0), (1.0, 200, 200), (0.3, 40, 80)])
def test_episodes_are_drawn_as_a_whole(beta, least, most):
    drawn = [Mixing(beta, "episode", np.random.default_rng(seed)) for seed in range(200)]
    assert least <= sum(mixing.whole_episode for mixing in drawn) <= most
    for mixing in drawn:
        assert {mixing.claims(moment()) for _ in range(20)} == {mixing.whole_episode}


def test_the_expert_drives_whole_chunks():
    helm = make_helm(0.5, "chunk", TakeOverConfig(None, None, None), np.random.default_rng(0))
    assert set(drive(helm, 40)) == {"pppp", "eeee"}
    assert helm.take_overs == 0, "drawing is no take-over"
    assert helm.asks_policy
    assert not make_helm(1.0, "chunk", TakeOverConfig(), np.random.default_rng(0)).asks_policy


# ------------------------------------------------------------------------------------------------- disagreement


def test_more_than_twelve_differing_steps_and_the_expert_takes_over_for_a_chunk():
    """12 after three chunks are not enough, 16 after four are; then it counts anew."""
    helm = Helm(never(), [DisagreementRule(12, None)])
    assert drive(helm, 10) == ["pppp"] * 4 + ["eeee"] + ["pppp"] * 4 + ["eeee"]
    assert (helm.take_overs, helm.expert_steps) == (2, 8)


def test_steps_that_agree_do_not_count():
    helm = Helm(never(), [DisagreementRule(12, 0.8)])
    assert drive(helm, 20, policy=FORWARD, steps=1) == ["pppp"] * 20


def test_differing_steps_need_not_follow_each_other():
    rule = DisagreementRule(2, None)
    for action in (LEFT, FORWARD, FORWARD, RIGHT, FORWARD):
        rule.note(action, moment(), by_expert=False)
    assert not rule.claims(moment())
    rule.note(STOP, moment(), by_expert=False)
    assert rule.claims(moment())
    rule.note(FORWARD, moment(), by_expert=True)
    assert not rule.claims(moment())


def test_more_than_a_share_of_the_way_to_the_next_waypoint():
    """0.8 of 5 steps are 4, and 4 are not more than 4; of 4 steps 3.2."""
    assert drive(Helm(never(), [DisagreementRule(None, 0.8)]), 3, steps=5) == ["pppp", "pppp", "eeee"]
    assert drive(Helm(never(), [DisagreementRule(None, 0.8)]), 4, steps=4) == ["pppp", "eeee", "pppp", "eeee"]


def test_a_waypoint_begins_a_new_count_of_the_share_only():
    rule = DisagreementRule(5, 0.8)
    for step in range(4):
        rule.note(LEFT, moment(visited=step // 2, steps=3), by_expert=False)
    assert not rule.claims(moment()), "2 of 2.4 on each leg"
    rule.note(LEFT, moment(visited=1, steps=3), by_expert=False)
    assert rule.claims(moment()), "3 of 2.4"
    rule = DisagreementRule(5, 0.8)
    for step in range(6):
        rule.note(LEFT, moment(visited=step // 2, steps=3), by_expert=False)
    assert rule.claims(moment()), "6 in all"


def test_the_way_is_measured_where_the_counting_begins():
    """And not at every step: it costs a walk of the expert."""
    asked = []
    rule = DisagreementRule(12, 0.8)

    def steps():
        asked.append(1)
        return 10

    for _ in range(5):
        rule.note(LEFT, Moment(FORWARD, 9.0, 0, steps), by_expert=False)
    assert len(asked) == 1
    rule.note(LEFT, Moment(FORWARD, 9.0, 0, steps), by_expert=True)
    rule.note(LEFT, Moment(FORWARD, 9.0, 0, steps), by_expert=False)
    assert len(asked) == 2


# --------------------------------------------------------------------------------------------------------- stops


def test_a_stop_far_from_the_goal_gives_the_rest_of_the_chunk_and_the_next_to_the_expert():
    helm = Helm(never(), [StopRule(3.0)])
    helm.start_chunk(moment())
    assert [helm.choose(action, moment()) for action in (LEFT, STOP, -1, -1)] == [LEFT, FORWARD, FORWARD, FORWARD]
    assert helm.by_expert
    assert drive(helm, 3) == ["eeee", "pppp", "pppp"]
    assert (helm.take_overs, helm.expert_steps) == (1, 7)


@pytest.mark.parametrize(("distance", "executed"), [(2.99, STOP), (3.0, FORWARD), (math.inf, FORWARD)])
def test_how_far_is_far(distance, executed):
    helm = make_helm(0.0, "chunk", TakeOverConfig(), np.random.default_rng(0))
    helm.start_chunk(moment(distance=distance))
    assert helm.choose(STOP, moment(distance=distance)) == executed


def test_several_chunks():
    assert drive(Helm(never(), [DisagreementRule(3, None)], chunks=2), 5) == ["pppp", "eeee", "eeee", "pppp", "eeee"]
    helm = Helm(never(), [StopRule(3.0)], chunks=2)
    helm.start_chunk(moment())
    helm.choose(STOP, moment())
    assert drive(helm, 3) == ["eeee", "eeee", "pppp"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["pppp"] * 4 + ["eeee"]),
        ({"differing_steps": 3}, ["pppp", "eeee", "pppp", "eeee", "pppp"]),
        ({"differing_steps": None}, ["pppp"] * 5),
        ({"differing_steps": None, "waypoint_share": 0.01}, ["pppp", "eeee", "pppp", "eeee", "pppp"]),
    ],
)
def test_configured(settings, expected):
    helm = make_helm(0.0, "chunk", TakeOverConfig(**settings), np.random.default_rng(0))
    assert drive(helm, 5) == expected


@pytest.mark.parametrize("name", ["differing_steps", "waypoint_share", "stop_distance"])
def test_take_over_numbers_are_not_negative(name):
    with pytest.raises(ValueError, match=rf"TakeOverConfig\.{name} must be at least 0"):
        TakeOverConfig(**{name: -1})
    with pytest.raises(ValueError, match=r"TakeOverConfig\.chunks must be at least 1"):
        TakeOverConfig(chunks=0)


# --------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("distance", "length", "reference", "message"),
    [
        (3.0, 10.0, 5.0, None),
        (3.01, 5.0, 5.0, "dropped: it ended 3.01 m from the goal, more than 3 m"),
        (math.inf, 5.0, 5.0, "dropped: it ended inf m from the goal"),
        (math.nan, 5.0, 5.0, "dropped: it ended nan m from the goal"),
        (1.0, 10.01, 5.0, "dropped: its path of 10.01 m is longer than 10.00 m"),
    ],
)
def test_episodes_are_kept_or_dropped(distance, length, reference, message):
    reason = KeepConfig().why_not(distance, length, reference)
    assert reason is None if message is None else reason.startswith(message)
    assert KeepConfig(None, None).why_not(distance, length, reference) is None


def test_keep_numbers_are_not_negative():
    with pytest.raises(ValueError, match=r"KeepConfig\.path_ratio must not be negative, got -1"):
        KeepConfig(path_ratio=-1)


# ----------------------------------------------------------------------------------------------- in the tiny flats


def play(tiny_flats, tmp_path, policy, episode_id="10", max_steps=200, **take_over):
    """Drives an episode with `policy(chunk number)`; returns it and how many actions each chunk had."""
    config = RecordConfig(
        tmp_path, str(tiny_flats.episodes_path), "tiny", driver="streamvln", width=32, height=24, max_steps=max_steps
    )
    env = recording_env(config)
    helm = make_helm(0.0, "chunk", TakeOverConfig(**take_over), np.random.default_rng(0))
    counts = []
    with TrajectoryWriter(tmp_path, "x") as writer:
        episode = env.dataset.episode(episode_id)
        driven = DrivenEpisode(EpisodeRecording(config, env, episode, writer), helm, 4)
        while not driven.finished:
            driven.look()
            driven.play(policy(len(counts)))
            counts.append(driven.n_executed)
    replayed = recording_env(config)
    replayed.reset(options={"episode_id": episode_id})
    expert = expert_for(replayed.simulator, replayed.episode, lenient=True)
    for label, action in zip(driven.recording.labels, driven.recording.executed, strict=True):
        assert expert.next_action(replayed.simulator.state) == label, "labels are the expert's, whoever drives"
        replayed.advance(action)
    replayed.close()
    return driven, counts


def test_a_policy_that_stops_at_once_is_driven_to_the_goal(tiny_flats, tmp_path):
    """Nearer than 3 m its STOP counts."""
    driven, counts = play(tiny_flats, tmp_path, lambda number: [STOP])
    recording = driven.recording
    assert counts[:-1] == [4] * (len(counts) - 1) and counts[-1] == 1
    assert recording.executed[:-1] == recording.labels[:-1]
    assert recording.executed[-1] == STOP != recording.labels[-1]
    assert 2 < driven.distance < 3
    assert driven.helm.take_overs >= 3


def test_without_the_rule_it_stops_there(tiny_flats, tmp_path):
    driven, _ = play(tiny_flats, tmp_path, lambda number: [STOP], stop_distance=None)
    assert driven.recording.executed == [STOP]
    assert driven.recording.labels[0] != STOP


def test_the_way_back_counts_where_an_episode_returns(tiny_flats, tmp_path):
    """Episode 30 ends where it begins: a STOP at the start is no STOP at the goal."""
    driven, _ = play(tiny_flats, tmp_path, lambda number: [STOP], "30")
    assert len(driven.recording.executed) > 40
    assert driven.distance < 3


def test_who_turns_round_where_the_metrics_are_content_is_not_sent_back(tiny_flats, tmp_path):
    """Episode 30 is driven to within 3 m of its turning point, and back: its STOP counts, and the labels agree."""
    env = recording_env(RecordConfig(tmp_path / "plan", str(tiny_flats.episodes_path), "tiny", width=32, height=24))
    env.reset(options={"episode_id": "30"})
    way, simulator = env.episode, env.simulator
    there = GeodesicFollower(simulator, [way.via[0]], goal_radius=2.5)
    out = demonstrate(simulator, simulator.state, there)
    turned = AgentState(out.positions[-1], float(out.yaws[-1]))
    back = demonstrate(simulator, turned, GeodesicFollower(simulator, [way.reference_path[3], way.goals[0].position]))
    env.close()
    plan = [*out.actions[:-1], *back.actions]
    chunks = [plan[begin : begin + 4] for begin in range(0, len(plan), 4)]
    driven, _ = play(
        tiny_flats, tmp_path, lambda number: chunks[number], "30", differing_steps=None, waypoint_share=None
    )
    assert driven.recording.executed == plan
    assert driven.recording.labels[-1] == STOP
    assert driven.distance < 1
    assert driven.helm.take_overs == 0


def test_a_policy_that_turns_to_and_fro_is_brought_on(tiny_flats, tmp_path):
    """Chunks are whole; the expert gets one after each with more than two steps that differ."""
    driven, counts = play(tiny_flats, tmp_path, lambda number: [LEFT, RIGHT] * 2, differing_steps=2)
    assert set(counts[:-1]) == {4}
    assert driven.helm.take_overs > 3
    assert driven.recording.executed[-1] == STOP and driven.distance <= 0.25
    assert 0 < driven.helm.expert_steps < len(driven.recording.executed)


def test_a_policy_that_does_not_stop_is_cut_off(tiny_flats, tmp_path):
    driven, _ = play(tiny_flats, tmp_path, lambda number: [LEFT] * 4, max_steps=30, differing_steps=None)
    assert len(driven.recording.executed) == 30


def test_answers_of_other_lengths(tiny_flats, tmp_path):
    """Unconstrained answers: shorter ones end the chunk, longer ones are executed."""
    driven, counts = play(
        tiny_flats, tmp_path, lambda number: [LEFT] * (1 + number), max_steps=9, differing_steps=None,
        waypoint_share=None,
    )  # fmt: skip
    assert counts == [1, 2, 3, 3]
    assert len(driven.recording.executed) == 9


def test_the_experts_steps_to_the_next_waypoint(tiny_flats):
    env = tiny_flats.make()
    env.reset(options={"episode_id": "10"})
    expert = expert_for(env.simulator, env.episode)
    told = expert.steps_to_waypoint(env.simulator.state)
    assert expert.visited == 0
    walked = 0
    while True:
        action = expert.next_action(env.simulator.state)
        if expert.visited:
            break
        env.advance(action)
        walked += 1
    assert told == walked > 5
    rest = expert.steps_to_waypoint(env.simulator.state)
    assert expert.steps_to_waypoint(env.simulator.state, limit=3) == 3
    while (action := expert.next_action(env.simulator.state)) != STOP:
        env.advance(action)
        rest -= 1
    assert rest == 0
    env.close()
