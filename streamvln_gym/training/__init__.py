"""Training: trajectory folders, the windows cut from them, batches, and supervised training on them.

Names are imported when they are used, so `import streamvln_gym.training` needs no torch.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

_LAZY = {
    "Trajectory": "trajectories",
    "load_trajectories": "trajectories",
    "Window": "windows",
    "WindowConfig": "windows",
    "WindowEncoder": "windows",
    "split_windows": "windows",
    "RecordConfig": "recorder",
    "record": "recorder",
    "TrajectoryWriter": "trajectory_writer",
    "merge_annotations": "trajectory_writer",
    "StreamVLNWindows": "dataset",
    "StreamVLNCollator": "collator",
    "AugmentationConfig": "augmentation",
    "OnlineConfig": "online.config",
    "train_online": "online.trainer",
    "TrainConfig": "config",
    "TrainResult": "sft",
    "train": "sft",
    "DAggerConfig": "dagger_config",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
