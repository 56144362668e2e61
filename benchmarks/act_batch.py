"""Frames per second of `act_batch` against single agents that take turns, with the package's small network.

    taskset -c 0 python benchmarks/act_batch.py [--streams 1 8 64] [--device cuda --dtype bfloat16]

Every number is the best of several blocks of 32 steps, each a window's whole cycle, after 96 steps. "in step": all
streams call the model at the same steps; "staggered": stream i starts i steps later (modulo 32), as after a while in
real episodes. Random frames of the network's own size, so resizing costs nothing; nothing is rendered. On a CPU the
process's own seconds count, so that other programs disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.devices import choose_device

INSTRUCTION = "Walk past the dining table, turn left at the sofa and stop in front of the second door."
BLOCK, WARM_UP = 32, 96


class Streams:
    """So many streams of random frames.

    Args:
        make_agent: a new agent of the same network.
        count: streams.
        size: of the frames, pixels.
        delay: steps by which each stream starts later than the one before.
    """

    def __init__(self, make_agent: Callable[[], StreamVLNAgent], count: int, size: int, delay: int) -> None:
        self.frames = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), dtype=np.uint8)
        self.starts = np.arange(count) * delay % BLOCK
        self.batched = make_agent()
        self.singles = [make_agent() for _ in range(count)]

    def observe(self, step: int, index: int) -> dict[str, object]:
        return {"rgb": self.frames[(step + index) % 16], "instruction": INSTRUCTION}

    def act_alone(self, step: int) -> None:
        for index, single in enumerate(self.singles):
            if step == self.starts[index]:
                single.reset()
            single.act(self.observe(step, index))

    def act_together(self, step: int) -> None:
        observations = [self.observe(step, index) for index in range(len(self.singles))]
        self.batched.act_batch(observations, self.starts == step)


def best_rate(act: Callable[[int], None], streams: int, blocks: int, device: str) -> float:
    """Frames per second of the fastest block."""
    on_gpu = torch.device(device).type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    for step in range(WARM_UP):
        act(step)
    seconds = []
    for block in range(blocks):
        start = clock()
        for step in range(BLOCK):
            act(WARM_UP + block * BLOCK + step)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    return streams * BLOCK / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--no-singles", action="store_true", help="leave the single agents out")
    options = parser.parse_args()
    if options.device == "cpu" and options.threads > 1:
        parser.error("on a CPU the process's seconds are those of all threads: leave --threads at 1")
    torch.set_num_threads(options.threads)
    options.device = choose_device(options.device)
    agent = StreamVLNAgent.from_pretrained(device=options.device, dtype=getattr(torch, options.dtype))
    stop, size = agent.processor.action_ids[0], agent.model.config.image_size

    def never_stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, stop] = -torch.inf
        return scores

    def new_agent() -> StreamVLNAgent:
        return StreamVLNAgent(agent.model, agent.processor, logits_processor=[never_stop])

    print(f"{options.device}, {options.dtype}, torch {torch.__version__}, {options.threads} threads; frames/s")
    print(f"{'streams':>8}  {'':9}  {'single agents':>13}  {'act_batch':>9}")
    for count in options.streams:
        for name, delay in (("in step", 0), ("staggered", 1)):
            streams = Streams(new_agent, count, size, delay)
            alone = float("nan")
            if not options.no_singles:
                alone = best_rate(streams.act_alone, count, options.blocks, options.device)
            together = best_rate(streams.act_together, count, options.blocks, options.device)
            print(f"{count:8}  {name:9}  {alone:13.1f}  {together:9.1f}", flush=True)


if __name__ == "__main__":
    main()
