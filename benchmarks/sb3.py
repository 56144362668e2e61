"""Where PPO's time goes: rendering, the rest of the environment, the network in rollouts, the network in updates.

    taskset -c 0 python benchmarks/sb3.py [--envs 4] [--features] [--share-windows 0] [--device cuda]

One process plays and learns (stable-baselines3's DummyVecEnv), so the parts add up to the whole; with environments in
processes (`SubprocVecEnv`) the first two parts run beside the network. The first rollout and its update are not timed.
"Environment steps" are single actions; a decision is up to four of them. On a CPU the process's own seconds count. On a
GPU one more round goes through torch's profiler, to see how long kernels run and pictures are rendered.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.devices import choose_device
from streamvln_gym.env import VLNEnv
from streamvln_gym.rl import PooledFeatures, SlowFastObservation, StreamVLNActorCriticPolicy, WindowRolloutBuffer
from streamvln_gym.simulators.base import CameraConfig


class Stopwatch:
    """Seconds spent inside chosen methods; what one calls inside another counts for the inner one only."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self._device = device
        self._inside: list[float] = []

    def now(self) -> float:
        if self._device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Times `owner.method` under `name`."""
        original: Callable = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = self.now()
            self._inside.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                spent = self.now() - begun
                self.seconds[name] += spent - self._inside.pop()
                self.counts[name] += 1
                if self._inside:
                    self._inside[-1] += spent

        setattr(owner, method, timed)


def make_ppo(options: argparse.Namespace, device: str) -> tuple[PPO, Any]:
    """What is measured, and its environments."""
    agent = StreamVLNAgent.from_pretrained(options.checkpoint, device=device)
    camera = CameraConfig.of_size(agent.processor.config.image_size, agent.processor.config.image_size, supersampling=2)

    def make() -> SlowFastObservation:
        sensors = ("rgb", "instruction")
        env = VLNEnv("flats", "embedded", "train", camera=camera, sensors=sensors, scenes=4, max_steps=300)
        return SlowFastObservation(env, agent.processor)

    envs: Any = DummyVecEnv([make] * options.envs)
    if options.features:
        envs = PooledFeatures(envs, agent.model, agent.processor)
    ppo = PPO(
        StreamVLNActorCriticPolicy,
        envs,
        n_steps=options.rollout,
        batch_size=options.batch,
        n_epochs=options.epochs,
        learning_rate=1e-6,
        seed=0,
        device=device,
        rollout_buffer_class=WindowRolloutBuffer if options.share_windows else None,
        policy_kwargs={"checkpoint": options.checkpoint, "share_windows": bool(options.share_windows)},
    )
    return ppo, envs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--rollout", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--share-windows", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = choose_device(options.device)
    if device == "cpu":
        torch.set_num_threads(1)
    ppo, envs = make_ppo(options, device)
    decisions = options.rollout * options.envs
    ppo.learn(decisions)
    watch = Stopwatch(device)
    steps = [0]
    for env in (envs.venv if options.features else envs).envs:
        watch.watch(env.unwrapped.simulator, "observe", "rendering")
        advance = env.unwrapped.step

        def counted(action: int, advance: Callable = advance) -> Any:
            steps[0] += 1
            return advance(action)

        env.unwrapped.step = counted
    watch.watch(envs, "step", "environment")
    watch.watch(ppo.policy, "forward", "network, rollouts")
    watch.watch(ppo, "train", "network, updates")
    if options.features:
        watch.watch(envs, "_encode", "network, rollouts")
    cache = ppo.policy.dialogues
    cache.fed = cache.reused = 0
    begun = watch.now()
    ppo.learn(decisions * options.rounds)
    total = watch.now() - begun
    watch.seconds["the rest"] = total - sum(watch.seconds.values())
    layout = ppo.policy.layout
    print(
        f"{options.envs} environments, {decisions * options.rounds} decisions, {steps[0]} environment steps, {device}"
    )
    buffer = layout.rollout_bytes(options.rollout, options.envs)
    print(f"observation {layout.observation_bytes:,} bytes, rollout buffer {buffer:,}")
    print(f"embeddings fed in rollouts {cache.fed:,}, not fed again {cache.reused:,}")
    for name, seconds in watch.seconds.items():
        print(f"{name:18s} {seconds:7.2f} s  {seconds / total:6.1%}")
    rollouts = total - watch.seconds["network, updates"]
    print(f"environment steps/s: {steps[0] / total:.1f} with updates, {steps[0] / rollouts:.1f} in rollouts")
    if device == "cuda":
        show_busy(ppo, decisions, watch)


def show_busy(ppo: PPO, decisions: int, watch: Stopwatch) -> None:
    """Shares of a round in which the GPU works and in which pictures are rendered: never both, one process plays."""
    rendered = watch.seconds["rendering"]
    begun = watch.now()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        ppo.learn(decisions)
        total = watch.now() - begun
    rendered = watch.seconds["rendering"] - rendered
    kernels = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    print(f"one round of {total:.2f} s: kernels {kernels / total:.1%}, rendering {rendered / total:.1%}")


if __name__ == "__main__":
    main()
