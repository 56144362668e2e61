"""What this process runs on: CPU cores, the device "auto", and one torch thread where more would only wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

SMALL_NETWORK = 50_000_000
"""Parameters of a network that is called small, at most."""


def cores() -> int:
    """How many CPU cores this process may use (Linux knows; elsewhere all of the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> str:
    """The device of that name; "auto" is the GPU, where there is one.

    Raises:
        ValueError: there is no such device here; the message names those that there are.
    """
    import torch

    name, gpu = str(name), torch.cuda.is_available()
    if name == "auto":
        return "cuda" if gpu else "cpu"
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if gpu else []
    present = ["cpu", *(["cuda"] if gpu else []), *gpus]
    if name in present or (not name.startswith("cuda") and _works(name)):
        return name
    why = "" if gpu or not name.startswith("cuda") else " (this torch sees no GPU: is it a CPU build?)"
    raise ValueError(f"there is no device {name!r} here{why}: use auto, {' or '.join(present)}")


def _works(name: str) -> bool:
    """Whether torch can put something there: "mps", "xpu", ..."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return name != "meta"


def device_of(module: Any) -> Any:
    """The device that a module computes on: its weight's, or where accelerate brings a weight that is offloaded."""
    import torch

    device = module.weight.device
    if device.type != "meta":
        return device
    return torch.device(getattr(getattr(module, "_hf_hook", None), "execution_device", None) or "cpu")


def current_device(device: Any) -> AbstractContextManager[Any]:
    """Makes `device` CUDA's current one, if it is a GPU: Triton starts kernels there, wherever their tensors lie."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_small(agent: Any) -> bool:
    """Whether the agent has a small network on the CPU: more threads wait for each other and for the video encoder."""
    model = getattr(agent, "model", None)
    if model is None or agent.device.type != "cpu":
        return False
    return sum(p.numel() for p in model.parameters()) <= SMALL_NETWORK


@contextmanager
def one_torch_thread(wanted: bool = True) -> Iterator[None]:
    """While this lasts, torch uses one CPU thread: sums come out the same however many processes there are.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
