"""The protocol, the lazy package and the agents that look at nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.agents import ActionQueue, Agent, ForwardAgent, RandomAgent
from streamvln_gym.agents.fast_window import FastWindow
from streamvln_gym.agents.observation import check_depth, read_instruction, read_rgb

ROOT = Path(__file__).parents[2]
OBS = {"rgb": np.zeros((4, 4, 3), np.uint8), "instruction": "Go."}


def test_forward_agent_walks_and_stops_each_episode():
    agent = ForwardAgent(steps=3)
    assert isinstance(agent, Agent)
    for _ in range(2):
        agent.reset()
        assert [agent.act(OBS) for _ in range(5)] == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="negative"):
        ForwardAgent(-1)


def test_random_agent_is_seeded_and_follows_its_probabilities():
    agent, again = RandomAgent(seed=5), RandomAgent(seed=5)
    assert isinstance(agent, Agent)
    agent.reset()
    actions = [agent.act(OBS) for _ in range(4000)]
    assert actions == [again.act(OBS) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 4000, [0.02, 0.68, 0.15, 0.15], atol=0.03)
    never_stops = RandomAgent(seed=0, probabilities=(0.0, 1.0, 0.0, 0.0))
    assert {never_stops.act(OBS) for _ in range(20)} == {1}
    with pytest.raises(ValueError, match="sum to 1"):
        RandomAgent(probabilities=(0.5, 0.5, 0.5, 0.0))


def test_action_queue_is_first_in_first_out():
    queue = ActionQueue()
    queue.push([1, 2])
    queue.push([3])
    assert [queue.pop() for _ in range(2)] == [1, 2]
    assert len(queue) == 1
    queue.clear()
    with pytest.raises(IndexError):
        queue.pop()


def test_fast_window_covers_its_own_steps_only():
    window = FastWindow(32)
    assert not window.covers(0)
    window.open(33)
    assert [step for step in range(128) if window.covers(step)] == list(range(32, 64))
    window.clear()
    assert not window.covers(33)
    with pytest.raises(ValueError, match="window_steps"):
        FastWindow(0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rgb": None}, TypeError, "obs\\['rgb'\\] must be uint8"),
        ({"rgb": np.full((4, 4, 3), np.nan)}, TypeError, "NaN"),
        ({"rgb": np.zeros((4, 4, 3), np.float32)}, TypeError, "got float32"),
        ({"rgb": np.zeros((4, 4), np.uint8)}, ValueError, r"shape \(height, width, 3\), got \(4, 4\)"),
        ({"rgb": np.zeros((2, 4, 4, 3), np.uint8)}, ValueError, "no batch"),
        ({"rgb": np.zeros((4, 4, 4), np.uint8)}, ValueError, "leave out alpha"),
        ({"rgb": np.zeros((4, 4, 1), np.uint8)}, ValueError, "it is grey"),
        ({"rgb": np.zeros((3, 4, 8), np.uint8)}, ValueError, "channels come last"),
        ({"rgb": np.zeros((0, 4, 3), np.uint8)}, ValueError, "rgb"),
        ({"instruction": 3}, TypeError, "obs\\['instruction'\\] must be a str, got int"),
        ({"instruction": " "}, ValueError, "empty"),
        ({"depth": np.zeros((4, 4, 1), np.uint16)}, TypeError, "obs\\['depth'\\] must be floating-point"),
        ({"depth": np.zeros((4, 4, 2), np.float32)}, ValueError, r"\(4, 4, 2\)"),
        ({"depth": np.full((4, 4, 1), np.nan, np.float32)}, ValueError, "depth.*NaN"),
    ],
)
def test_bad_observations_name_the_key(change, error, message):
    obs = {**OBS, **change}
    with pytest.raises(error, match=message):
        read_rgb(obs), read_instruction(obs), check_depth(obs)


def test_missing_keys_and_wrong_containers():
    with pytest.raises(ValueError, match="obs has no 'rgb' \\(it has 'instruction'\\)"):
        read_rgb({"instruction": "Go."})
    with pytest.raises(ValueError, match="obs has no 'instruction'"):
        read_instruction({"rgb": OBS["rgb"]})
    with pytest.raises(TypeError, match="must be a dict"):
        read_rgb(np.zeros((4, 4, 3), np.uint8))


def run(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_importing_agents_needs_no_torch():
    code = "import sys, streamvln_gym.agents, streamvln_gym.models as m; m.__all__; print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"
    code = "import sys; from streamvln_gym.agents import RandomAgent, ForwardAgent; print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"


def test_the_folder_refuses_the_name_agents():
    result = run("import agents")
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "from streamvln_gym.agents import" in result.stderr


def test_unknown_names_are_attribute_errors():
    import streamvln_gym.agents
    import streamvln_gym.models

    for module in (streamvln_gym.agents, streamvln_gym.models):
        assert set(module.__all__) <= set(dir(module))
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            _ = module.Nothing
