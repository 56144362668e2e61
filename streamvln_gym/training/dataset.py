"""Training windows of trajectory folders as a torch dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from streamvln_gym.errors import DatasetError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.memory_strategies import strategy_of
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.augmentation import Augmentation, AugmentationConfig
from streamvln_gym.training.geometry import history_points
from streamvln_gym.training.trajectories import MIN_ACTIONS, Trajectory, load_trajectories
from streamvln_gym.training.windows import EncodedWindow, Window, WindowConfig, WindowEncoder


def check_augmentation(augmentation: AugmentationConfig, network: StreamVLNConfig, privileged: bool) -> None:
    """Refuses to move pixels where something else says what lies at them.

    Args:
        augmentation: of the pictures.
        network: whose memory strategy may need geometry.
        privileged: whether there are targets of auxiliary losses.

    Raises:
        ValueError: it moves pixels, and memory strategy or targets need to know where they lie.
    """
    if augmentation.moves_pixels and (privileged or strategy_of(network).needs_geometry):
        reader = "auxiliary targets" if privileged else f"memory strategy {network.memory_strategy!r}"
        raise ValueError(
            f"augmentation.crop and erase move pixels, but the {reader} must know where they lie: leave both at 0"
        )


class StreamVLNWindows(Dataset[dict[str, Any]]):
    """Every window of one or several trajectory folders; each item is a sample for `StreamVLNCollator`.

    Args:
        folders: trajectory folders, see `load_trajectories`.
        processor: tokenizer, picture preprocessing and configuration of the network to be trained.
        config: how to cut and to label.
        check_pictures: look at once whether every picture is there.
        augmentation: changes the pictures, all of a window alike; None leaves them as they are.
        privileged: also give the targets of auxiliary losses, see `auxiliary_loss.read_targets`.

    Attributes:
        trajectories: of all folders, in order.
        windows: what the items are made of, in order.
        skipped: number of trajectories too short to train on (fewer than 4 actions).

    Raises:
        DatasetError: a folder is malformed, or there is no window at all.
        ValueError: the augmentation moves pixels, and memory strategy or targets need to know where they lie.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        processor: StreamVLNProcessor,
        config: WindowConfig | None = None,
        check_pictures: bool = True,
        augmentation: Augmentation | None = None,
        privileged: bool = False,
    ) -> None:
        paths = [folders] if isinstance(folders, (str, Path)) else list(folders)
        self.processor = processor
        self.encoder = WindowEncoder(processor, config)
        self.augmentation = augmentation
        self.privileged = privileged
        each = [load_trajectories(path, check_pictures) for path in paths]
        self.trajectories = [trajectory for found in each for trajectory in found]
        self._folders = [number for number, found in enumerate(each) for _ in found]
        self.windows = self.encoder.windows(self.trajectories)
        self.skipped = sum(len(trajectory) < MIN_ACTIONS for trajectory in self.trajectories)
        if not self.windows:
            raise DatasetError(
                f"no training window in {', '.join(map(str, paths)) or 'an empty list of folders'}: "
                f"{len(self.trajectories)} trajectories, {self.skipped} of them shorter than {MIN_ACTIONS} actions"
            )
        if augmentation:
            check_augmentation(augmentation.config, processor.config, privileged)
        # Shared, so that a new epoch also reaches worker processes that live on.
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draws other conjunctions and other jitters; the same epoch always gives the same samples."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.windows)

    def encode(self, index: int) -> tuple[Trajectory, Window, EncodedWindow]:
        """Window number `index` as ids, without its pictures."""
        window = self.windows[index]
        trajectory = self.trajectories[window.trajectory]
        picker = self.encoder.picker(int(self._epoch), index)
        return trajectory, window, self.encoder.encode(trajectory, window, picker)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One window.

        Returns:
            `input_ids`, `labels` (length,) int64; `pixel_values` (frames, 3, image_size, image_size) float32, history
            frames first; `memory_frames` int, how many of them are history; `time_ids` (steps,) int64, the window's
            steps. Where the memory strategy needs geometry and there is a history, also `memory_steps` (history,) int64
            and `memory_points` (history, tokens_per_frame, 3) float32 metres; with `privileged`, the targets.

        Raises:
            DatasetError: a picture, or a depth picture or camera pose that is needed, cannot be read.
            IndexError: there is no such window.
        """
        index = range(len(self))[index]
        trajectory, window, encoded = self.encode(index)
        steps = encoded.history_steps + encoded.frame_steps
        pixels = self._pixels(index, [trajectory.picture(step) for step in steps])
        sample: dict[str, Any] = {
            "input_ids": torch.tensor(encoded.input_ids),
            "labels": torch.tensor(encoded.labels),
            "pixel_values": torch.from_numpy(pixels),
            "memory_frames": len(encoded.history_steps),
            "time_ids": torch.arange(window.start, window.stop),
        }
        if encoded.history_steps and self._needs_geometry:
            points = history_points(trajectory, encoded.history_steps, self.processor.config)
            sample["memory_steps"] = torch.tensor(encoded.history_steps)
            sample["memory_points"] = torch.from_numpy(points)
        if self.privileged:
            from streamvln_gym.training.auxiliary_loss import read_targets  # imports the simulator's side

            sample |= read_targets(trajectory, encoded.history_steps, encoded.frame_steps, self.processor.config)
        return sample

    def check(self) -> None:
        """Reads the first and the last window of each folder's first trajectory, with all that training needs of them.

        What one trajectory of a folder lacks, all usually do: depth, targets, readable pictures.

        Raises:
            DatasetError: as for an item.
        """
        ends: dict[int, tuple[int, int]] = {}  # by folder
        for index, window in enumerate(self.windows):
            first, _ = ends.setdefault(self._folders[window.trajectory], (index, index))
            if self.windows[first].trajectory == window.trajectory:
                ends[self._folders[window.trajectory]] = (first, index)
        for index in sorted({index for pair in ends.values() for index in pair}):
            self[index]

    @property
    def _needs_geometry(self) -> bool:
        return strategy_of(self.processor.config).needs_geometry

    def _pixels(self, index: int, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Network inputs of a window's pictures."""
        if self.augmentation is None:
            return self.processor.images(pictures)
        jitter = self.augmentation.jitter(int(self._epoch), index)
        resized = [self.processor.resize(jitter.crop(picture)) for picture in pictures]
        return self.processor.pixel_values([jitter.recolour(picture) for picture in resized])
