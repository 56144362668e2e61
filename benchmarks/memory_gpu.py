"""Peak GPU memory and call times of each slow-memory strategy at the published sizes, with random weights.

    python benchmarks/memory_gpu.py [--steps N]

One episode of random pictures and random moves in bfloat16; the voxel strategy sees a wall that it moves along.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import MEMORY_STRATEGIES
from streamvln_gym.models.processing_streamvln import load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_FOLDER

GIB = 2**30
INTRINSICS = np.array([[388.2, 0.0, 319.5], [0.0, 388.2, 239.5], [0.0, 0.0, 1.0]])


def observation(step: int) -> dict:
    """A random picture of a wall 2 m ahead; the camera moves 10 cm sideways a step."""
    rng = np.random.default_rng(step)
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = [0.1 * step, 1.25, 0.0]
    return {
        "rgb": rng.integers(0, 256, (480, 640, 3), dtype=np.uint8),
        "depth": np.full((480, 640, 1), 2.0, dtype=np.float32),
        "camera_pose": pose,
        "intrinsics": INTRINSICS,
        "instruction": "Leave the bedroom, go down the hallway and wait by the piano.",
    }


def play(agent: StreamVLNAgent, steps: int) -> tuple[list[float], list[float], int]:
    """Seconds of the calls that open a window with memory, of the other calls, and the longest context."""
    opening, others, longest = [], [], 0
    agent.reset()
    for step in range(steps):
        calls, windows = agent.stats.calls, agent.stats.windows
        obs = observation(step)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        agent.act(obs)
        torch.cuda.synchronize()
        spent = time.perf_counter() - begin
        if agent.stats.calls > calls:
            longest = max(longest, agent.session.kv_length)
            (opening if agent.stats.windows > windows else others).append(spent)
    return opening[1:], others, longest


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=160)
    options = parser.parse_args()
    config = StreamVLNConfig.full_size()
    processor = StreamVLNProcessor(config, load_tokenizer(SHIPPED_FOLDER))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = StreamVLNForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    forbidden = torch.zeros(config.text_config.vocab_size, dtype=torch.bfloat16, device="cuda")
    forbidden[processor.action_ids[0]] = -1e6  # no STOP: the episode is to go on
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + forbidden)
    weights = sum(parameter.nbytes for parameter in model.parameters()) / GIB
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; weights {weights:.2f} GiB in bfloat16")
    print("strategy       peak (GiB)  longest context  window start (ms)  other calls (ms)  memory kept (MB)  history")
    for name in MEMORY_STRATEGIES:
        agent = StreamVLNAgent(model, processor, memory_strategy=name)
        play(agent, 40)  # warm-up
        torch.cuda.reset_peak_memory_stats()
        encoded = agent.stats.history_frames
        opening, others, longest = play(agent, options.steps)
        peak = torch.cuda.max_memory_allocated() / GIB
        print(
            f"{name:13}  {peak:10.2f}  {longest:15,}  {min(opening) * 1e3:17.0f}  {min(others) * 1e3:16.0f}  "
            f"{agent.stream.memory.nbytes / 1e6:16.1f}  {agent.stats.history_frames - encoded:7}"
        )
        del agent
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
