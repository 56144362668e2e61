"""Reinforcement learning with stable-baselines3 (extra `[rl]`): observation, policy, checks; see docs/rl.md.

torch and stable-baselines3 are imported when a name that needs them is first used.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

_LAZY = {
    "ContextLayout": "layout",
    "rollout_buffer_bytes": "layout",
    "SlowFastObservation": "observation",
    "PooledFeatures": "features",
    "StreamVLNActorCriticPolicy": "policy",
    "FiniteAdamW": "optimizer",
    "FiniteRollout": "callbacks",
    "HoldActor": "callbacks",
    "KeepBest": "callbacks",
    "WindowRolloutBuffer": "rollout_buffer",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
