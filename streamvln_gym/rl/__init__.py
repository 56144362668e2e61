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
    "ScaledRates": "optimizer",
    "FiniteRollout": "callbacks",
    "HoldActor": "callbacks",
    "KeepBest": "callbacks",
    "SaveArchive": "callbacks",
    "WindowRolloutBuffer": "rollout_buffer",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "stable_baselines3":
            raise
        raise ModuleNotFoundError(
            f"streamvln_gym.rl.{name} needs stable-baselines3: pip install 'streamvln-gym[rl]'", name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
