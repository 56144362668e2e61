"""Policies for vision-and-language navigation: `reset()`, then `act(obs) -> int` once per environment step.

The folder is imported as `streamvln_gym.agents`. torch is imported when `StreamVLNAgent` is first used.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

if __name__ != "streamvln_gym.agents":
    raise ImportError(
        f"this folder was imported as {__name__!r}, but its name is streamvln_gym.agents: "
        "write `from streamvln_gym.agents import ...` (from a checkout, run `pip install -e .` first)"
    )

_LAZY = {
    "Agent": "base",
    "RandomAgent": "simple",
    "ForwardAgent": "simple",
    "OracleAgent": "oracle",
    "SlowMemory": "slow_memory",
    "FastWindow": "fast_window",
    "ActionQueue": "action_queue",
    "StreamVLNAgent": "streamvln",
    "StreamVLNAgentConfig": "streamvln",
    "AgentView": "view",
    "WatchedAgent": "view",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
