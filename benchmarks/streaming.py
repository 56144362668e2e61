"""Times of a streaming model call: prompt building, and whole calls by kind, with the package's small network.

    taskset -c 0 python benchmarks/streaming.py [--checkpoint FOLDER] [--steps 160]

Prompt building is everything from the instruction to the prefill's token ids. Times are medians and maxima over an
episode; those of a window's first call are apart, since its prefill has the memory.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models.dialogue import DialogueBuilder

INSTRUCTION = "Walk past the dining table, turn left at the sofa and stop in front of the second door."


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


def milliseconds(name: str, seconds: list[float]) -> str:
    values = [1e3 * value for value in seconds]
    return f"{name:36}{len(values):6d}{statistics.median(values):12.2f}{max(values):12.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=160)
    options = parser.parse_args()
    torch.set_num_threads(1)
    agent = StreamVLNAgent.from_pretrained(options.checkpoint, device=options.device)
    stop = agent.processor.action_ids[0]

    def never_stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, stop] = -torch.inf
        return scores

    agent = StreamVLNAgent(agent.model, agent.processor, logits_processor=[never_stop])
    plain = agent._caller.dialogue
    agent._caller.dialogue = TimedDialogue(plain.tokenizer, plain.style, plain.memory_prompt)
    frames = np.random.default_rng(0).integers(0, 256, (16, 480, 640, 3), dtype=np.uint8)
    prompts: list[float] = []
    calls: dict[str, list[float]] = {"first call of the episode": [], "window's first call": [], "later call": []}
    queue: list[float] = []
    for _ in range(2):  # the first one warms up
        agent.reset()
        prompts.clear()
        queue.clear()
        for times in calls.values():
            times.clear()
        for step in range(options.steps):
            count, TimedDialogue.seconds = agent.stats.calls, 0.0
            start = time.perf_counter()
            agent.act({"rgb": frames[step % 16], "instruction": INSTRUCTION})
            seconds = time.perf_counter() - start
            if agent.stats.calls == count:
                queue.append(seconds)
                continue
            prompts.append(TimedDialogue.seconds)
            opened = agent.last_call is not None and agent.last_call.kv_before == 0
            kind = "first call of the episode" if step == 0 else "window's first call" if opened else "later call"
            calls[kind].append(seconds)
    print(f"{options.steps} steps on {options.device}, {torch.get_num_threads()} thread")
    print(f"{'':36}{'count':>6}{'median ms':>12}{'max ms':>12}")
    print(milliseconds("prompt building", prompts))
    for name, times in calls.items():
        if times:
            print(milliseconds(name, times))
    print(milliseconds("step from the queue", queue))
    total = sum(queue) + sum(sum(times) for times in calls.values())
    print(f"{options.steps / total:.1f} steps/s; {agent.stats}")


if __name__ == "__main__":
    main()
