"""Times of `agent.act` by kind of call, and of prompt building, over episodes that the agent plays itself.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/streaming.py [--checkpoint FOLDER] [--episodes 2] [--repeats 3]

Prompt building is everything from the instruction to the prefill's token ids in a model call. An episode is played
`--repeats` times with the same frames and actions, after one that warms up.
"""

from __future__ import annotations

import argparse
import time

import gymnasium as gym
import numpy as np
import torch
from act_times import ActTimes

import streamvln_gym
from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models.dialogue import DialogueBuilder
from streamvln_gym.rollout import choose_episodes


class TimedDialogue(DialogueBuilder):
    """Adds up the time spent on writing and encoding turns."""

    seconds: float = 0.0

    def first_turn(self, instruction: str, conjunction: str, with_memory: bool) -> str:
        return self._timed(super().first_turn, instruction, conjunction, with_memory)

    def later_turn(self, conjunction: str) -> str:
        return self._timed(super().later_turn, conjunction)

    def encode(self, text: str) -> list[int]:
        return self._timed(super().encode, text)

    def _timed(self, function, *arguments):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        result = function(*arguments)
        TimedDialogue.seconds += time.perf_counter() - start
        return result


def play(env: gym.Env, times: ActTimes, episode_id: str, prompts: list[float]) -> None:
    """One episode; `prompts` gets the milliseconds of prompt building of each model call."""
    agent = times.agent
    agent.reset()
    obs, info = env.reset(options={"episode_id": episode_id})
    done = False
    while not done:
        calls, TimedDialogue.seconds = agent.stats.calls, 0.0
        obs, _, terminated, truncated, _ = env.step(times.act({**obs, "intrinsics": info["intrinsics"]}))
        done = terminated or truncated
        if agent.stats.calls > calls:
            prompts.append(1e3 * TimedDialogue.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--split", default="val_unseen")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = gym.make("StreamVLN-Flats-v0", split=options.split)
    agent = StreamVLNAgent.from_pretrained(options.checkpoint, device=options.device)
    plain = agent._caller.dialogue
    agent._caller.dialogue = TimedDialogue(plain.tokenizer, plain.style, plain.memory_prompt)
    times, prompts = ActTimes(agent), []
    episode_ids = choose_episodes(env.unwrapped.dataset, options.episodes, None)
    play(env, times, episode_ids[0], prompts)
    times.clear()
    prompts.clear()
    for _ in range(options.repeats):
        for episode_id in episode_ids:
            play(env, times, episode_id, prompts)
    env.close()
    print(f"streamvln-gym {streamvln_gym.__version__}, {options.device}, one thread, {len(episode_ids)} episodes")
    print(f"{'ms':20}{'calls':>8}{'median':>10}{'p95':>10}{'max':>10}")
    rows = {"prompt building": [len(prompts), np.median(prompts), np.quantile(prompts, 0.95), max(prompts)]}
    for kind, row in times.summary().items():
        rows[kind] = [row["calls"], row["median"], row["p95"], row["max"]]
    for kind, (calls, *figures) in rows.items():
        print(f"{kind:20}{calls:8d}" + "".join(f"{figure:10.2f}" for figure in figures))


if __name__ == "__main__":
    main()
