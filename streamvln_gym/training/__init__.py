"""Training data: trajectory folders, the windows cut from them, and batches.

Names are imported when they are used, so `import streamvln_gym.training` needs no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "Trajectory": "trajectories",
    "load_trajectories": "trajectories",
    "Window": "windows",
    "WindowConfig": "windows",
    "WindowEncoder": "windows",
    "split_windows": "windows",
    "StreamVLNWindows": "dataset",
    "StreamVLNCollator": "collator",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
