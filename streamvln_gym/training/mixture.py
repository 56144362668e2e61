"""Several trajectory folders as one dataset, mixed by weight, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from streamvln_gym.errors import DatasetError
from streamvln_gym.training.dataset import StreamVLNWindows

_GROUPS_PER_POOL = 50


@dataclass(frozen=True)
class Source:
    """A trajectory folder and its share.

    Attributes:
        folder: with annotations.json.
        weight: share of the windows, relative to the other folders' weights; None: as many as it has.
    """

    folder: Path
    weight: float | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Reads "FOLDER" or "FOLDER=WEIGHT".

        Raises:
            ValueError: the weight is no positive number.
        """
        folder, separator, number = text.rpartition("=")
        if not separator or Path(text).is_dir():
            return cls(Path(text))
        try:
            weight = float(number)
        except ValueError as error:
            raise ValueError(f"{text!r}: the weight after '=' must be a number, got {number!r}") from error
        if not 0.0 < weight < float("inf"):
            raise ValueError(f"{text!r}: the weight must be positive, got {number}; leave out a folder not wanted")
        return cls(Path(folder), weight)


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Reads several, which must all have a weight, or none of them.

    Raises:
        ValueError: a weight is no positive number, some lack theirs, or a folder comes twice.
    """
    sources = [Source.parse(text) for text in texts]
    lacking = [source for source in sources if source.weight is None]
    if lacking and len(lacking) < len(sources):
        raise ValueError(f"{lacking[0].folder} has no weight but others have: write {lacking[0].folder}=WEIGHT")
    folders = [source.folder.resolve() for source in sources]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise ValueError(f"{sources[number].folder} is named twice: name it once, with a larger weight")
    return sources


class WindowMixture(Dataset[dict[str, Any]]):
    """The windows of several folders, one after the other.

    Args:
        sources: the folders, as `parse_sources` reads them.
        windows: the windows of each.
    """

    def __init__(self, sources: Sequence[Source], windows: Sequence[StreamVLNWindows]) -> None:
        self.sources = list(sources)
        self.windows = list(windows)
        self._starts = np.cumsum([0, *(len(part) for part in windows)])

    @property
    def sizes(self) -> list[int]:
        """Windows of each folder."""
        return [len(part) for part in self.windows]

    @property
    def weights(self) -> list[float]:
        """Weight of each folder; its number of windows where none was given."""
        return [
            float(size) if source.weight is None else source.weight
            for source, size in zip(self.sources, self.sizes, strict=True)
        ]

    def start_epoch(self, epoch: int) -> None:
        """Draws other conjunctions and jitters; also reaches running workers."""
        # Not called set_epoch: accelerate would call that itself, and after a resume with a wrong epoch.
        for part in self.windows:
            part.set_epoch(epoch)

    def locate(self, index: int) -> tuple[int, int]:
        """Folder and number within it of window number `index`."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, index - int(self._starts[part])

    def describe(self, index: int) -> str:
        """Where a window comes from, for messages."""
        part, number = self.locate(index)
        window = self.windows[part].windows[number]
        trajectory = self.windows[part].trajectories[window.trajectory]
        return f"{trajectory.source}, instruction {window.instruction}, steps {window.start} to {window.stop - 1}"

    def length(self, index: int) -> int:
        """Embeddings of a window in the language model, with a memory of pooled frames."""
        part, number = self.locate(index)
        _, _, encoded = self.windows[part].encode(number)
        per_frame = self.windows[part].processor.config.tokens_per_frame
        frames = len(encoded.frame_steps) + len(encoded.history_steps)
        return sum(token >= 0 for token in encoded.input_ids) + frames * per_frame

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample of `StreamVLNWindows`, with its number here as `window`."""
        part, number = self.locate(range(len(self))[index])
        return {**self.windows[part][number], "window": range(len(self))[index]}


def share_counts(weights: Sequence[float], total: int) -> list[int]:
    """Splits `total` windows by weight, rounded so that they add up (largest remainder)."""
    exact = np.asarray(weights, dtype=float) / np.sum(weights) * total
    counts = np.floor(exact + 1e-9).astype(int)
    for source in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[source] += 1
    return [int(count) for count in counts]


def epoch_order(sizes: Sequence[int], counts: Sequence[int], seed: int, epoch: int) -> list[int]:
    """Window numbers of one epoch, shuffled.

    Each folder is gone through in one shuffled order after another, over the epochs' ends, so that none of its windows
    comes again before all have come.

    Args:
        sizes: windows of each folder.
        counts: how many of each an epoch has.
        seed: of the shuffles.
        epoch: which one.
    """
    drawn, offset = [], 0
    for source, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        first, last = epoch * count, (epoch + 1) * count
        laps = range(first // size, -(-last // size))
        walk = [np.random.default_rng([seed, 1, source, lap]).permutation(size) for lap in laps]
        if walk:
            skipped = first - laps.start * size
            drawn.append(offset + np.concatenate(walk)[skipped : skipped + count])
        offset += size
    order = np.concatenate(drawn)
    np.random.default_rng([seed, 2, epoch]).shuffle(order)
    return order.tolist()


def group_by_length(order: Sequence[int], lengths: Sequence[int], group: int, seed: int) -> list[int]:
    """Reorders an epoch so that each run of `group` windows has similar lengths.

    Sorts within pools of 50 groups, then shuffles the groups. A group that is not full comes last.

    Args:
        order: window numbers.
        lengths: of every window, by number.
        group: windows of one step of all processes.
        seed: of the shuffle.
    """
    pool = group * _GROUPS_PER_POOL
    groups: list[list[int]] = []
    for start in range(0, len(order), pool):
        rows = sorted(order[start : start + pool], key=lambda index: -lengths[index])
        groups += [rows[i : i + group] for i in range(0, len(rows), group)]
    short = groups.pop() if len(groups[-1]) < group else []
    np.random.default_rng([seed, 3]).shuffle(groups)  # type: ignore[arg-type]
    return [index for rows in groups for index in rows] + short


class EpochSampler(Sampler[int]):
    """The order of each epoch, the same in every process, which accelerate deals out batch by batch.

    Args:
        mixture: the windows.
        seed: of the order.
        length: windows in an epoch; None: as many as there are.
        group: windows of one step of all processes, to be of similar length; None: no grouping.

    Raises:
        DatasetError: a folder's share is less than one window.
    """

    def __init__(self, mixture: WindowMixture, seed: int, length: int | None = None, group: int | None = None) -> None:
        self.mixture = mixture
        self.seed = seed
        self.total = len(mixture) if length is None else length
        self.counts = share_counts(mixture.weights, self.total)
        for source, count in zip(mixture.sources, self.counts, strict=True):
            if count == 0:
                raise DatasetError(
                    f"the weight of {source.folder} gives it none of the {self.total} windows of an epoch: raise the "
                    "weight or the epoch's length"
                )
        self._group = group
        self._lengths = [mixture.length(index) for index in range(len(mixture))] if group else []
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration gives, here and in the windows."""
        self._epoch = epoch
        self.mixture.start_epoch(epoch)

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.mixture.sizes, self.counts, self.seed, self._epoch)
        if self._group:
            order = group_by_length(order, self._lengths, self._group, self.seed + self._epoch)
        return iter(order)
