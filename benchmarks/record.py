"""Episodes and frames per second of the recorder with 1, 2, 4, ... workers, and how it scales.

    python benchmarks/record.py [--data DIR_OR_FILE] [--scenes-per-worker 4] [--workers 1 2 4 ...] [--size 640 480]

The expert drives, every run records so many scenes for each worker into a fresh temporary folder and starts its own
worker processes, whose start counts; "while recording" is the rate from the first finished trajectory on, without it.
Flats are built before the clock starts. Scaling compares frames per second.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from streamvln_gym.devices import cores
from streamvln_gym.selection import open_dataset
from streamvln_gym.training.recorder import RecordConfig, record
from streamvln_gym.training.trajectory_writer import EPISODES


class FirstEpisode:
    """Watches a folder for its first finished episode, from a thread.

    Attributes:
        at: `time.perf_counter()` when it was seen; None before.
    """

    def __init__(self, folder: Path) -> None:
        self.at: float | None = None
        self._folder = folder / EPISODES
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.at is None:
            if self._folder.is_dir() and any(self._folder.iterdir()):
                self.at = time.perf_counter()
            time.sleep(0.01)


def measure(config: RecordConfig) -> tuple[int, int, float, float]:
    """(episodes, frames, seconds in all, seconds from the first finished trajectory on)."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = replace(config, out=Path(scratch) / "out")
        first = FirstEpisode(fresh.out)
        begin = time.perf_counter()
        summary = record(fresh)
        end = time.perf_counter()
    return summary.instructions, summary.frames, end - begin, end - (first.at or begin)


def doublings(limit: int) -> list[int]:
    """1, 2, 4, ..., and `limit` itself."""
    counts = [1]
    while counts[-1] * 2 < limit:
        counts.append(counts[-1] * 2)
    return counts + [limit] * (limit > 1)


def main() -> None:
    """Measures and prints."""
    available = cores()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="flats")
    parser.add_argument("--split", default="train")
    parser.add_argument("--scenes-per-worker", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=doublings(available))
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--supersampling", type=int, default=1)
    parser.add_argument("--extras", action="store_true", help="also depth, poses and auxiliary targets")
    options = parser.parse_args()
    width, height = options.size
    config = RecordConfig(
        Path("unused"), options.data, options.split, width=width, height=height,
        supersampling=options.supersampling, depth=options.extras, privileged=options.extras,
    )  # fmt: skip
    dataset = open_dataset(config.data, config.split, config.data_dir, options.scenes_per_worker * max(options.workers))
    if hasattr(dataset, "build"):
        dataset.build()
    what = f"{width}x{height}, {options.supersampling}x{options.supersampling} samples"
    print(f"{dataset.name}/{dataset.split}, {options.scenes_per_worker} scenes a worker, {what}, {available} cores")
    print(f"{'workers':>7} {'seconds':>8} {'episodes/s':>10} {'frames/s':>9} {'scaling':>8} {'while recording':>16}")
    first: tuple[float, float] | None = None
    for workers in options.workers:
        run = replace(config, scenes=options.scenes_per_worker * workers, workers=workers)
        episodes, frames, seconds, steady = measure(run)
        rates = frames / seconds, frames / steady
        first = first or rates
        print(
            f"{workers:7d} {seconds:8.1f} {episodes / seconds:10.2f} {rates[0]:9.1f} "
            f"{rates[0] / first[0]:7.2f}x {rates[1] / first[1]:15.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
