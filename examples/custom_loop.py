"""A policy of your own in the standard Gymnasium loop, and the expert's actions to compare it with.

python examples/custom_loop.py
"""

from typing import Any

import gymnasium as gym
import numpy as np

import streamvln_gym  # noqa: F401  (registers the environment ids)
from streamvln_gym.simulators.base import Action
from streamvln_gym.wrappers import ExpertAction


class DepthAgent:
    """Walks where the way is free: forward while nothing is near, else towards the side with more space."""

    def __init__(self, max_steps: int = 80) -> None:
        self.max_steps = max_steps

    def reset(self) -> None:
        self.steps = 0
        self.turns_left = 0
        self.turn = Action.LEFT
        self.gps = np.full(2, np.inf)

    def act(self, obs: dict[str, Any]) -> int:
        self.steps += 1
        if self.steps >= self.max_steps:
            return Action.STOP
        if self.turns_left:  # keep turning one way until the way should be free
            self.turns_left -= 1
            return self.turn
        depth = obs["depth"][:, :, 0]  # float32 (H, W), metres
        height, width = depth.shape
        ahead = depth[height // 3 :, width // 3 : 2 * width // 3]
        blocked = np.linalg.norm(obs["gps"] - self.gps) < 0.1  # the last step forward led nowhere
        self.gps = obs["gps"]
        if np.percentile(ahead, 5) > 0.6 and not blocked:
            return Action.FORWARD
        left, right = depth[:, : width // 2].mean(), depth[:, width // 2 :].mean()
        self.turn = Action.LEFT if left > right else Action.RIGHT
        self.turns_left = 2
        self.gps = np.full(2, np.inf)
        return self.turn


def main() -> None:
    env = ExpertAction(gym.make("StreamVLN-Flats-v0", split="val_unseen"))
    agent = DepthAgent()
    for scene in ("flat_020000", "flat_020001"):
        obs, info = env.reset(options={"scene_id": scene})
        agent.reset()
        print(f"\n{info['scene_id']}: {obs['instruction']}")
        agreed, total_reward, finished = 0, 0.0, False
        while not finished:
            action = agent.act(obs)
            agreed += int(action == info["expert_actions"][0])
            obs, reward, terminated, truncated, info = env.step(action)
            total_reward += float(reward)
            finished = terminated or truncated
        print(
            f"  {info['steps']} steps, {agreed} of them the expert's; reward {total_reward:.2f}, "
            f"NE {info['navigation_error']:.2f} m, success {info['success']:.0f}, nDTW {info['ndtw']:.2f}"
        )
    env.close()


if __name__ == "__main__":
    main()
