"""Plain stable-baselines3 on this environment: PPO with its own networks learns to walk ahead and stop at a goal.

    pip install "streamvln-gym[rl]"
    python examples/sb3_from_scratch.py            # half a minute of one core

Nothing here is StreamVLN: the environment is an ordinary Gymnasium one, `SB3Observation` turns the instruction into
ids, and `PPO("MultiInputPolicy", ...)` does the rest. The task is a toy: in a flat, start where the way ahead is free,
walk so many metres as the instruction says, and stop. (For real instructions, start from a trained StreamVLN:
examples/sb3_ppo.py.)
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode, Goal, Instruction, position
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.geometry import yaw_to_quaternion
from streamvln_gym.simulators.base import Action, AgentState, CameraConfig, Simulator
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.wrappers import SB3Observation

CAMERA = CameraConfig(width=48, height=48)  # stable-baselines3's CNN wants at least 36 pixels
WORDS = {"walk": 0, "two": 2, "three": 3, "four": 4}
STEP = 0.25  # metres


class ForwardToGoal:
    """Episodes in one flat: two, three or four metres of free way ahead; an `episodes.EpisodeDataset`."""

    name, split = "forward-to-goal", "train"
    instruction_charset = frozenset("abcdefghijklmnopqrstuvwxyz ")
    instruction_max_length = 16

    def __init__(self, count: int = 60) -> None:
        flats = FlatsDataset("train", scenes=1)
        template = flats.episode(flats.episode_ids[0])  # builds the flat, if need be
        self.scenes_dir = flats.scenes_dir
        simulator = EmbeddedSimulator(CAMERA)
        simulator.load_scene(flats.scene_path(template.scene_id))
        rng = np.random.default_rng(0)
        points = [point for name in flats.episode_ids for point in flats.episode(name).reference_path]
        self._episodes: dict[str, Episode] = {}
        while len(self._episodes) < count:
            start = AgentState(np.array(points[rng.integers(len(points))]), float(rng.uniform(-math.pi, math.pi)))
            word = ("two", "three", "four")[rng.integers(3)]
            goal = walk_ahead(simulator, start, WORDS[word])
            if goal is not None:
                number = str(len(self._episodes))
                path = (position(start.position), position(goal))
                self._episodes[number] = replace(
                    template,
                    episode_id=number,
                    start_position=path[0],
                    start_rotation=tuple(yaw_to_quaternion(start.yaw).tolist()),
                    instruction=Instruction(f"walk {word}"),
                    goals=(Goal(path[1]),),
                    reference_path=path,
                    geodesic_distance=float(WORDS[word]),
                    gt_locations=None,
                    gt_actions=None,
                    info={},
                )
        simulator.close()

    @property
    def episode_ids(self) -> tuple[str, ...]:
        return tuple(self._episodes)

    def scene_of(self, episode_id: str) -> str:
        return self._episodes[episode_id].scene_id

    def episode(self, episode_id: str) -> Episode:
        return self._episodes[episode_id]

    def scene_path(self, scene_id: str) -> Path:
        return self.scenes_dir / scene_id

    def __len__(self) -> int:
        return len(self._episodes)


def walk_ahead(simulator: Simulator, start: AgentState, metres: int) -> np.ndarray | None:
    """Where so many metres straight ahead lead; None if something is in the way (a metre beyond the goal included)."""
    simulator.set_state(start)
    for number in range(round((metres + 1) / STEP)):
        if simulator.step(Action.FORWARD):
            return None
        if number + 1 == round(metres / STEP):
            goal = simulator.state.position
    return goal


def make_env(dataset: ForwardToGoal) -> Monitor:
    sensors = ("rgb", "instruction", "gps", "compass")
    env = VLNEnv(dataset, "embedded", "train", camera=CAMERA, sensors=sensors, max_steps=40, success_distance=0.6)
    return Monitor(SB3Observation(env, lambda text: [WORDS[word] for word in text.split()], max_length=2))


class RandomPolicy:
    """Draws each action with the same probability, as `evaluate_policy` wants it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def predict(self, observation: dict[str, np.ndarray], **_: Any) -> tuple[np.ndarray, None]:
        return self.rng.integers(0, 4, len(observation["rgb"])), None


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Trains; returns the lower and the upper end of the 95 % interval of the gain in return over random actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_240)
    parser.add_argument("--episodes", type=int, default=100, help="for the comparison at the end")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = ForwardToGoal()
    plain = DummyVecEnv([lambda: make_env(dataset)] * 4)
    # Pictures are scaled by stable-baselines3 itself; ids must stay the whole numbers that the rollout buffer takes.
    envs = VecNormalize(plain, norm_obs_keys=["gps", "compass"], gamma=0.99)
    ppo = PPO(
        "MultiInputPolicy", envs, n_steps=128, batch_size=128, n_epochs=6, learning_rate=5e-4, ent_coef=0.01,
        seed=options.seed, verbose=1, device="cpu",
    )  # fmt: skip
    ppo.learn(options.steps, log_interval=8)
    envs.training = envs.norm_reward = False
    learned, _ = evaluate_policy(ppo, envs, options.episodes, return_episode_rewards=True)
    random, _ = evaluate_policy(RandomPolicy(options.seed), envs, options.episodes, return_episode_rewards=True)
    gain = np.mean(learned) - np.mean(random)
    half = 1.96 * math.sqrt(np.var(learned) / len(learned) + np.var(random) / len(random))
    print(f"return {np.mean(learned):.2f} (random {np.mean(random):.2f}); gain {gain:.2f} +- {half:.2f}")
    return gain - half, gain + half


if __name__ == "__main__":
    main()
