"""The environment: contract, frames, ends, info, determinism, and every way to misuse it."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import (
    DatasetError,
    EpisodeNotFoundError,
    NavigationError,
    SimulatorUnavailableError,
)
from streamvln_gym.metrics import METRICS
from streamvln_gym.rewards import RewardConfig
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.spaces import SENSORS
from streamvln_gym.vlnce import VLNCEDataset, write_dataset
from tests.conftest import HEIGHT, SMALL_CAMERA, TinyFlats, copy_of, tiny_episode

STOP, FORWARD, LEFT, RIGHT = range(4)


def walk_to_the_end(env: VLNEnv, actions) -> list[tuple]:
    return [env.step(action) for action in actions]


def test_passes_gymnasiums_checker_without_a_warning(tiny_flats: TinyFlats) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = {"dataset": tiny_flats.episodes_path, "camera": SMALL_CAMERA, "sensors": SENSORS}
        made = gym.make("StreamVLN-Flats-v0", render_mode="rgb_array", **chosen)
        check_env(made.unwrapped)
        made = gym.make("StreamVLN-Flats-v0", **chosen)
        made.reset(seed=1)
        made.step(FORWARD)
        made.close()


def test_observation_is_in_its_space_and_fresh_at_every_step(env: VLNEnv) -> None:
    first, _ = env.reset()
    kept = {name: np.copy(value) for name, value in first.items()}
    second, *_ = env.step(LEFT)
    assert first in env.observation_space and second in env.observation_space
    assert not np.shares_memory(first["rgb"], second["rgb"])
    assert all(np.array_equal(first[name], kept[name]) for name in kept)
    second["rgb"][:] = 0
    assert env.observe()["rgb"].any()


def test_first_observation_stands_at_the_origin(env: VLNEnv) -> None:
    observation, info = env.reset()
    assert observation["gps"].tolist() == [0.0, 0.0] and observation["compass"].tolist() == [0.0]
    expected = [[1, 0, 0, 0], [0, -1, 0, SMALL_CAMERA.mount_height], [0, 0, -1, 0], [0, 0, 0, 1]]
    assert np.allclose(observation["camera_pose"], expected)
    assert np.array_equal(info["intrinsics"], SMALL_CAMERA.intrinsics)


def test_gps_and_compass_use_the_starts_frame(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    """A start that looks along +X (yaw -90 degrees): forward is +X, right is +Z."""
    turned = replace(
        tiny_flats.dataset.episode("40"), start_rotation=(0.0, -math.sqrt(0.5), 0.0, math.sqrt(0.5)), gt_locations=None
    )
    write_dataset(tmp_path / "turned.json.gz", [turned])
    env = tiny_flats.make(dataset=VLNCEDataset.load(tmp_path / "turned.json.gz", tiny_flats.scenes_dir))
    env.reset()
    observation, *_ = env.step(FORWARD)
    assert observation["gps"] == pytest.approx([0.25, 0.0], abs=1e-6)
    assert env.trajectory[-1].position == pytest.approx([2.75, HEIGHT, 1.0], abs=1e-6)
    for _ in range(6):
        observation, *_ = env.step(RIGHT)
    assert observation["compass"] == pytest.approx([-math.pi / 2], abs=1e-6)
    observation, *_ = env.step(FORWARD)
    assert observation["gps"] == pytest.approx([0.25, 0.25], abs=1e-6)


def test_gps_and_compass_are_habitats() -> None:
    """Recorded from habitat-lab: tests/data/lab_sensors.npz, a walk of 100 actions in a recorded flat."""
    from streamvln_gym.geometry import wrap_angle
    from streamvln_gym.simulators.base import AgentState

    recorded = np.load(Path(__file__).parent / "data" / "lab_sensors.npz")
    states = [AgentState.from_rotation(p, r) for p, r in zip(recorded["position"], recorded["rotation"], strict=True)]
    env = object.__new__(VLNEnv)
    env.sensors, env.camera = ("gps", "compass"), CameraConfig()
    from streamvln_gym.env import _Run

    for state, gps, compass in zip(states, recorded["gps"], recorded["compass"], strict=True):
        run = _Run(None, np.empty((0, 3)), None, None, [states[0], state])  # type: ignore[arg-type]
        observed = env._pose_sensors(run)
        assert observed["gps"] == pytest.approx(gps, abs=1e-5)
        assert wrap_angle(float(observed["compass"][0]) - float(compass[0])) == pytest.approx(0.0, abs=1e-5)


def test_camera_pose_turns_pixels_into_points(tiny_flats: TinyFlats) -> None:
    """Back-projected pixels of the floor lie on the floor, seen from several poses, with non-square pixels."""
    camera = CameraConfig(width=64, height=48, hfov=79.0, vfov=120.0)
    env = tiny_flats.make(camera=camera)
    _, info = env.reset()
    inverse = np.linalg.inv(info["intrinsics"])
    for action in (LEFT, FORWARD, LEFT):
        observation, *_ = env.step(action)
        row, column = camera.height - 1, 36
        ray = inverse @ [column, row, 1.0]
        point = observation["camera_pose"] @ [*(ray * observation["depth"][row, column, 0]), 1.0]
        assert point[1] == pytest.approx(-HEIGHT, abs=0.02)  # the mesh lies 0.2 m over the floor


def test_actions_move_a_quarter_of_a_metre_and_turn_fifteen_degrees(env: VLNEnv) -> None:
    env.reset()
    start = env.trajectory[0]
    env.step(FORWARD)
    assert env.trajectory[-1].position == pytest.approx(start.position - (0.0, 0.0, 0.25), abs=1e-6)
    env.step(LEFT)
    assert env.trajectory[-1].yaw == pytest.approx(math.radians(15))
    env.step(RIGHT)
    env.step(RIGHT)
    assert env.trajectory[-1].yaw == pytest.approx(math.radians(-15))


def test_a_wall_stops_the_agent_and_counts_as_a_collision(env: VLNEnv) -> None:
    env.reset(options={"episode_id": "30"})  # faces -Z, the sofa and the wall are 1 m ahead
    infos = [step[-1] for step in walk_to_the_end(env, [FORWARD] * 10)]
    assert infos[-1]["collided"] is True and not infos[0]["collided"]
    assert infos[-1]["collisions"] == sum(info["collided"] for info in infos) > 1


def test_stop_terminates_and_scores(env: VLNEnv) -> None:
    env.reset(options={"episode_id": "10"})
    *_, terminated, truncated, info = env.step(STOP)
    assert (terminated, truncated) == (True, False)
    assert (info["success"], info["steps"]) == (0.0, 1)


def test_expert_succeeds_on_every_episode(env: VLNEnv) -> None:
    for episode_id in env.dataset.episode_ids:
        env.reset(options={"episode_id": episode_id})
        for action in env.episode.gt_actions:
            *_, terminated, _, info = env.step(action)
        assert terminated and info["success"] == 1.0 and info["spl"] >= 0.97 and info["ndtw"] == pytest.approx(1.0)


def test_standing_still_fails_a_return_episode(env: VLNEnv) -> None:
    env.reset(options={"episode_id": "30"})
    *_, info = env.step(STOP)
    assert info["distance_to_goal"] == 0.0 and info["success_rule"] == "via" and info["needs_memory"] == "return"
    assert info["success"] == info["spl"] == info["sdtw"] == info["oracle_success"] == 0.0


def test_obeying_a_return_episode_pays(env: VLNEnv) -> None:
    env.reset(options={"episode_id": "30"})
    way = env.unwrapped._running.metrics.remaining
    assert way > 4.0
    steps = walk_to_the_end(env, env.episode.gt_actions)
    earned = sum(step[1] for step in steps)
    assert earned == pytest.approx(way - steps[-1][-1]["distance_to_goal"] - 0.01 * len(steps) + 2.5, abs=0.02)


def test_truncates_by_itself_after_max_steps(tiny_flats: TinyFlats) -> None:
    env = tiny_flats.make(max_steps=3)
    env.reset()
    ends = [step[2:4] for step in walk_to_the_end(env, [LEFT, LEFT, LEFT])]
    assert ends == [(False, False), (False, False), (False, True)]
    env.reset()
    assert [step[2:4] for step in walk_to_the_end(env, [LEFT, LEFT, STOP])][-1] == (True, False)


def test_info_names_everything_at_every_step(env: VLNEnv) -> None:
    _, info = env.reset()
    for current in (info, env.step(FORWARD)[-1]):
        assert current["dataset"] == "tiny" and current["split"] == "tiny" and current["simulator"] == "embedded"
        assert current["scene_id"] == "flats/tiny_a/tiny_a.glb"
        assert (current["episode_id"], current["trajectory_id"], current["needs_memory"]) == ("10", "1", "")
        assert set(METRICS) <= set(current) and current["distance_to_goal"] == current["navigation_error"]
        assert current["collided"] is False and current["success_rule"] == "goal"


def test_reward_is_progress_minus_time_plus_success(env: VLNEnv) -> None:
    _, before = env.reset(options={"episode_id": "10"})
    *_, after = (step := env.step(FORWARD))
    gained = before["distance_to_goal"] - after["distance_to_goal"]
    assert step[1] == pytest.approx(gained - 0.01)
    assert env.step(LEFT)[1] == pytest.approx(-0.01)
    assert env.step(STOP)[1] == pytest.approx(-0.01)


def test_total_reward_telescopes(env: VLNEnv) -> None:
    _, first = env.reset(options={"episode_id": "10"})
    steps = walk_to_the_end(env, env.episode.gt_actions)
    expected = first["distance_to_goal"] - steps[-1][-1]["distance_to_goal"] - 0.01 * len(steps) + 2.5
    assert sum(step[1] for step in steps) == pytest.approx(expected)


def test_reward_terms() -> None:
    reward = RewardConfig(progress=2.0, step=-1.0, success=10.0)
    assert reward(5.0, 4.0, False) == 1.0 and reward(5.0, 4.0, True) == 11.0
    assert reward(math.inf, 4.0, False) == reward(4.0, math.inf, False) == reward(math.inf, math.inf, False) == -1.0
    assert reward(None, None, False) == -1.0
    with pytest.raises(ValueError, match=r"RewardConfig\.step must be a finite number"):
        RewardConfig(step=math.nan)


def test_unseeded_order_is_file_order_and_seeds_decide_it(tiny_flats: TinyFlats) -> None:
    def order(seed: int | None) -> list[str]:
        env = tiny_flats.make(sensors=("instruction",))
        return [env.reset(seed=seed if k == 0 else None)[1]["episode_id"] for k in range(14)]

    assert order(None) == ["10", "11", "20", "30", "40", "50", "51"] * 2
    assert order(3) == order(3) != order(4)
    assert sorted(order(3)[:7]) == sorted(order(3)[7:]) == sorted(order(None)[:7])


def test_reset_options_choose_episode_and_scene(env: VLNEnv) -> None:
    assert env.reset(options={"episode_id": "50"})[1]["episode_id"] == "50"
    assert env.reset(options={"episode_id": 51})[1]["episode_id"] == "51"
    assert env.reset()[1]["episode_id"] == "10"  # a chosen episode does not move the order on
    assert env.reset(options={"scene_id": "tiny_b"})[1]["episode_id"] == "40"
    assert env.reset(options={"scene_id": "flats/tiny_b/tiny_b.glb"})[1]["episode_id"] == "50"
    assert env.reset(options={"scene_id": "tiny_b", "episode_id": "40"})[1]["episode_id"] == "40"
    assert env.reset(options={})[1]["episode_id"] == "51"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"episode": "10"}, ValueError, "unknown reset option 'episode': the options are episode_id, scene_id"),
        ({"episode_id": "99"}, EpisodeNotFoundError, "no episode '99'; it has 7, such as '10'"),
        ({"scene_id": "tiny_z"}, EpisodeNotFoundError, "no scene 'tiny_z'; it has 2, such as 'tiny_a'"),
        ({"episode_id": "10", "scene_id": "tiny_b"}, EpisodeNotFoundError, "is in scene .*tiny_a.* not in 'tiny_b'"),
        ({"episode_id": True}, TypeError, "must be a str or an int"),
    ],
)
def test_wrong_reset_options_are_refused(env: VLNEnv, options, error, words) -> None:
    with pytest.raises(error, match=words):
        env.reset(options=options)
    with pytest.raises(ResetNeeded):
        env.step(LEFT)


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_integers_of_any_kind_are_actions(env: VLNEnv, action) -> None:
    env.reset()
    assert env.step(action)[-1]["steps"] == 1


@pytest.mark.parametrize("action", [1.0, True, None, "1", np.float32(1), np.array([1]), np.bool_(True), [1]])
def test_other_types_are_no_actions(env: VLNEnv, action) -> None:
    env.reset()
    with pytest.raises(TypeError, match="an action must be an integer"):
        env.step(action)
    assert env.step(LEFT)[-1]["steps"] == 1


@pytest.mark.parametrize("action", [-1, 4, np.int64(17)])
def test_actions_out_of_range_are_refused(env: VLNEnv, action) -> None:
    env.reset()
    with pytest.raises(ValueError, match="unknown action"):
        env.step(action)


def test_steps_outside_an_episode_are_refused(env: VLNEnv) -> None:
    for use in (lambda: env.step(LEFT), lambda: env.episode, lambda: env.observe(), lambda: env.trajectory):
        with pytest.raises(ResetNeeded, match=r"call env\.reset\(\) first"):
            use()
    env.reset()
    env.step(STOP)
    with pytest.raises(ResetNeeded, match="episode is over"):
        env.step(LEFT)
    env.reset()
    env.step(LEFT)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dataset": "r3r"}, DatasetError, "unknown dataset 'r3r': use 'auto', 'flats'"),
        ({"dataset": "nowhere.json.gz"}, DatasetError, "there is no episode file nowhere.json.gz"),
        ({"dataset": 3}, TypeError, "must be a name, a path or an EpisodeDataset"),
        ({"simulator": "habitat"}, SimulatorUnavailableError, "conda install.*simulator='embedded'"),
        ({"simulator": "unity"}, SimulatorUnavailableError, "unknown simulator 'unity'"),
        ({"simulator": 5}, TypeError, "must be a name or a Simulator, got int"),
        ({"simulator": EmbeddedSimulator()}, ValueError, "another camera"),
        ({"sensors": ("rgb", "sonar")}, ValueError, "unknown sensor 'sonar'"),
        ({"max_steps": 0}, ValueError, "max_steps must be a positive integer"),
        ({"max_steps": True}, ValueError, "max_steps must be a positive integer"),
        ({"success_distance": 0.0}, ValueError, "success_distance"),
        ({"success_distance": "3"}, ValueError, "success_distance must be a positive number of metres, got '3'"),
        ({"render_mode": "human"}, ValueError, "render_mode must be 'rgb_array' or None"),
        ({"camera": 3}, TypeError, "camera must be a CameraConfig"),
        ({"camera": {"width": 3.5}}, ValueError, r"CameraConfig.width must be a positive integer, got 3\.5"),
        ({"camera": {"width": True}}, ValueError, "CameraConfig.width must be a positive integer, got True"),
        ({"camera": {"hfov": "wide"}}, ValueError, "hfov must lie between 0 and 180 degrees, got 'wide'"),
        ({"camera": {"mount_height": "a"}}, ValueError, "mount_height must be a finite number of metres, got 'a'"),
        ({"success_distance": math.inf}, ValueError, "success_distance must be a positive number of metres, got inf"),
        ({"data_dir": None}, TypeError, "data_dir must be a folder's path, got None"),
        ({"dataset": "flats", "role": "follower"}, ValueError, "the embedded flats have no roles"),
        ({"dataset": "flats", "scenes": 1.5}, ValueError, "scenes must be a number or a collection, got 1.5"),
        ({"dataset": "flats", "scenes": True}, ValueError, "scenes must be a number or a collection, got True"),
        ({"reward": 2.5}, TypeError, "reward must be a RewardConfig"),
        ({"scenes": ["tiny_q"]}, EpisodeNotFoundError, "no scene 'tiny_q'"),
        ({"scenes": "tiny_a"}, ValueError, "scenes must be a collection"),
    ],
)
def test_wrong_arguments_are_refused(tiny_flats: TinyFlats, arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        tiny_flats.make(**arguments)


@pytest.mark.parametrize(
    "settings",
    [{"width": 0}, {"height": 1.5}, {"hfov": 180.0}, {"vfov": -1.0}, {"min_depth": 5.0, "max_depth": 5.0}],
)
def test_wrong_camera_settings_are_refused(settings) -> None:
    with pytest.raises(ValueError, match="CameraConfig"):
        CameraConfig(**settings)


def test_unknown_ids_and_versions_are_gymnasiums_errors() -> None:
    with pytest.raises(gym.error.NameNotFound):
        gym.make("StreamVLN-Moon-v0")
    with pytest.raises(gym.error.VersionNotFound):
        gym.make("StreamVLN-R2R-v9")


def test_start_off_the_mesh_is_refused(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    outside = tiny_episode(1, "flats/tiny_a/tiny_a.glb", [(1.0, 0.5), (7.0, 2.0)], "You stand in the sofa.")
    env = copy_of(tiny_flats, tmp_path, outside).make()
    with pytest.raises(NavigationError, match=r"episode '1' of x/x cannot start: .* is not on the navigation mesh"):
        env.reset()


def test_unreachable_goal_is_visible_and_spoils_nothing(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    closed = tiny_episode(1, "flats/tiny_a/tiny_a.glb", [(1.0, 3.0), (9.0, 1.0)], "Enter the closed room.")
    env = copy_of(tiny_flats, tmp_path, closed).make()
    _, info = env.reset()
    assert info["distance_to_goal"] == math.inf
    _, reward, *_ = env.step(FORWARD)
    assert reward == pytest.approx(-0.01)
    _, reward, terminated, _, info = env.step(STOP)
    assert terminated and reward == pytest.approx(-0.01)
    assert info["navigation_error"] == math.inf and info["success"] == info["spl"] == 0.0


def test_episodes_without_goals_are_played_without_metrics(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    bare = replace(
        tiny_flats.dataset.episode("10"), goals=(), reference_path=(), geodesic_distance=None, gt_locations=None
    )
    env = copy_of(tiny_flats, tmp_path, bare).make(render_mode="rgb_array")
    _, info = env.reset()
    *_, terminated, _, last = [env.step(FORWARD), env.render(), env.step(STOP)][-1]
    assert terminated and last["path_length"] == pytest.approx(0.25)
    for name in ("distance_to_goal", "navigation_error", "success", "spl", "ndtw", "success_rule"):
        assert name not in info and name not in last


def test_steps_without_rendering_and_one_look(env: VLNEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset()
    rendered = []
    observe = env.simulator.observe
    monkeypatch.setattr(env.simulator, "observe", lambda sensors: rendered.append(1) or observe(sensors))
    for action in (LEFT, FORWARD, FORWARD):
        env.advance(action)
    assert not rendered
    looked = env.observe()
    assert len(rendered) == 1 and env.observe()["gps"] == pytest.approx(looked["gps"]) and len(rendered) == 1
    other = env.__class__(dataset=env.dataset, camera=SMALL_CAMERA)
    other.reset()
    for action in (LEFT, FORWARD, FORWARD):
        stepped, *_ = other.step(action)
    assert all(np.array_equal(looked[name], stepped[name]) for name in looked)
    with env.without_rendering():
        stale, *_ = env.step(LEFT)
    assert len(rendered) == 1 and np.array_equal(stale["rgb"], looked["rgb"])
    assert stale["compass"] != looked["compass"]


def test_two_environments_and_two_processes_give_the_same(tiny_flats: TinyFlats) -> None:
    code = (
        "import hashlib, sys, numpy as np\n"
        "from streamvln_gym.env import VLNEnv\n"
        "from streamvln_gym.simulators.base import CameraConfig\n"
        f"env = VLNEnv(dataset={str(tiny_flats.episodes_path)!r}, camera=CameraConfig(width=64, height=48))\n"
        "digest = hashlib.sha256()\n"
        "actions = np.random.default_rng(0)\n"
        "observation, info = env.reset(seed=5)\n"
        "for _ in range(60):\n"
        "    observation, reward, terminated, truncated, info = env.step(int(actions.integers(1, 4)))\n"
        "    for name in sorted(observation): digest.update(np.asarray(observation[name]).tobytes())\n"
        "    digest.update(repr((reward, sorted(info.items()))).encode())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(digests) == 1


def test_global_random_numbers_are_left_alone(env: VLNEnv) -> None:
    import random

    np.random.seed(1)
    random.seed(1)
    before = np.random.get_state()[1].copy(), random.getstate()
    env.reset(seed=3)
    env.step(FORWARD)
    assert np.array_equal(before[0], np.random.get_state()[1]) and before[1] == random.getstate()


def test_a_simulator_of_ones_own_is_used(tiny_flats: TinyFlats) -> None:
    simulator = EmbeddedSimulator(SMALL_CAMERA)
    env = VLNEnv(dataset=tiny_flats.dataset, simulator=simulator)
    observation, info = env.reset()
    assert env.simulator is simulator and info["simulator"] == "embedded"
    assert observation["rgb"].shape == (SMALL_CAMERA.height, SMALL_CAMERA.width, 3)


def test_numbers_may_be_numpys(tiny_flats: TinyFlats) -> None:
    camera = CameraConfig(width=np.int64(64), height=np.int32(48), hfov=np.float32(90.0))
    reward = RewardConfig(step=np.float32(-0.5))
    env = tiny_flats.make(camera=camera, reward=reward, scenes=np.int64(1), max_steps=np.int64(3))
    env.reset()
    assert env.step(LEFT)[1] == pytest.approx(-0.5)
    assert env.observation_space["rgb"].shape == (48, 64, 3) and len(env.dataset.scene_ids) == 1


def test_a_specification_read_from_json_makes_the_same_environment(tiny_flats: TinyFlats) -> None:
    options = {"dataset": str(tiny_flats.episodes_path), "camera": SMALL_CAMERA, "reward": RewardConfig(step=-0.5)}
    env = gym.make("StreamVLN-Flats-v0", **options)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.camera == SMALL_CAMERA and again.unwrapped.reward == RewardConfig(step=-0.5)


def test_a_simulator_that_another_environment_took_is_noticed(tiny_flats: TinyFlats) -> None:
    simulator = EmbeddedSimulator(SMALL_CAMERA)
    first, second = (tiny_flats.make(simulator=simulator) for _ in range(2))
    first.reset()
    first.step(LEFT)
    second.reset()
    second.step(FORWARD)
    for act in (lambda: first.step(LEFT), first.observe):
        with pytest.raises(ResetNeeded, match="give each environment a simulator of its own"):
            act()
    first.close()  # leaves the other's scene alone
    second.step(LEFT)
    first.reset()
    first.step(LEFT)


def test_any_object_may_be_the_simulator(tiny_flats: TinyFlats) -> None:
    class Equal(EmbeddedSimulator):
        __hash__ = None  # as a dataclass has it

        def __eq__(self, other: object) -> bool:
            return True

    first, second = (tiny_flats.make(simulator=Equal(SMALL_CAMERA)) for _ in range(2))
    first.reset()
    second.reset()
    first.step(LEFT)


def test_environments_share_the_episodes(tiny_flats: TinyFlats) -> None:
    ids = tiny_flats.dataset.episode_ids
    envs = [tiny_flats.make() for _ in range(3)]
    for part, env in enumerate(envs):
        env.share_episodes(part, 3)
    assert [env.reset()[1]["episode_id"] for env in envs] == list(ids[:3])
    orders = []
    for seed in (5, None, 5):
        for part, env in enumerate(envs):
            assert env.share_episodes(part, 3, seed) == len(ids[part::3])
        orders.append([[env.reset()[1]["episode_id"] for _ in ids[part::3]] for part, env in enumerate(envs)])
        assert sorted(itertools.chain(*orders[-1])) == sorted(ids), "each once"
    assert orders[0] == orders[1] == orders[2], "no seed keeps the order"
    assert orders[0] != [list(ids[part::3]) for part in range(3)], "shuffled"
    with pytest.raises(ValueError, match="part must lie in"):
        envs[0].share_episodes(3, 3)
    of_first = len(ids)  # each environment one episode: one scene each
    envs[0].share_episodes(0, of_first)
    other = next(e for e in ids if tiny_flats.dataset.scene_of(e) != tiny_flats.dataset.scene_of(ids[0]))
    with pytest.raises(EpisodeNotFoundError, match="is in this environment's share of the episodes: ask another"):
        envs[0].reset(options={"scene_id": tiny_flats.dataset.scene_of(other)})
    with pytest.raises(ValueError, match=f"{len(ids)} episodes cannot be divided among 99 environments"):
        envs[0].share_episodes(0, 99)


def test_reset_options_must_be_a_dict(env: VLNEnv) -> None:
    with pytest.raises(TypeError, match="the reset options must be a dict"):
        env.reset(options=[])  # type: ignore[arg-type]


def test_the_warning_about_flats_names_the_callers_line(tmp_path) -> None:
    with pytest.warns(UserWarning, match="NOT R2R-CE numbers") as caught:
        gym.make("StreamVLN-R2R-v0", data_dir=tmp_path)
    assert [warning.filename for warning in caught if "NOT R2R" in str(warning.message)] == [__file__]
