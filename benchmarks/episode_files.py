"""Opens a large RxR-like episode file: seconds, peak memory and time per episode.

    python benchmarks/episode_files.py --episodes 60000

The file is made up (9 KB of JSON an episode, as RxR's timed instructions have, and 7 KB of ground truth) and removed
afterwards. Times are CPU time of one process; the peak is the resident memory of a process that does nothing else.
"""

from __future__ import annotations

import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

_LANGUAGES = ("en-US", "en-IN", "hi-IN", "te-IN")


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        episodes: in the file.
        folder: where the file is made; default: a temporary folder.
        reads: episodes that are parsed.
        open: measure this file and print JSON (the benchmark calls itself so).
        languages: the filter while opening.
    """

    episodes: int = 60_000
    folder: Path | None = None
    reads: int = 2_000
    open: Path | None = None
    languages: tuple[str, ...] = ()


def main(config: Config) -> None:
    """Makes the file, then opens it in a process of its own, without and with a filter."""
    if config.open is not None:
        print(json.dumps(measure(config.open, config.reads, config.languages)))
        return
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        path = Path(folder) / "train_guide.json.gz"
        make(path, config.episodes)
        sizes = [file.stat().st_size / 1e6 for file in (path, path.with_name("train_guide_gt.json.gz"))]
        print(f"{config.episodes} episodes: {sizes[0]:.0f} MB, ground truth {sizes[1]:.0f} MB (compressed)")
        for chosen in ((), ("hi-IN",)):
            command = [sys.executable, __file__, "--open", str(path), "--reads", str(config.reads)]
            command += ["--languages", *chosen] if chosen else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{'all languages' if not chosen else chosen[0]}: {done.stdout.strip()}")


def make(path: Path, episodes: int) -> None:
    """Writes the episode file and its ground truth."""
    draw = random.Random(0)
    words = [f"word{k}" for k in range(3000)] + ["दरवाज़े", "ఎడమ", "रसोई"]

    def point() -> list[float]:
        return [draw.uniform(-20.0, 20.0) for _ in range(3)]

    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.write('{"episodes": [')
        for k in range(episodes):
            told = draw.choices(words, k=78)
            timed = [{"word": w, "start_time": 0.37 * i, "end_time": 0.37 * i + 0.3} for i, w in enumerate(told)]
            record = {
                "episode_id": str(k),
                "trajectory_id": str(k // 6),
                "scene_id": f"mp3d/scan{k % 60:02d}/scan{k % 60:02d}.glb",
                "start_position": point(),
                "start_rotation": [0, 0, 0, 1],
                "info": {"geodesic_distance": 60.0},
                "goals": [{"position": point(), "radius": 3.0}],
                "instruction": {
                    "instruction_id": str(k),
                    "instruction_text": " ".join(told),
                    "language": _LANGUAGES[k % 4],
                    "timed_instruction": timed,
                },
                "reference_path": [point() for _ in range(9)],
            }
            file.write(("" if k == 0 else ", ") + json.dumps(record))
        file.write("]}")
    with gzip.open(path.with_name("train_guide_gt.json.gz"), "wt", compresslevel=1) as file:
        file.write("{")
        for k in range(episodes):
            entry = {"locations": [point() for _ in range(110)], "actions": [1] * 109 + [0], "forward_steps": 109}
            file.write(("" if k == 0 else ", ") + f'"{k}": {json.dumps(entry)}')
        file.write("}")


def measure(path: Path, reads: int, languages: tuple[str, ...]) -> dict[str, float]:
    """Opens a file and reads some of its episodes."""
    from streamvln_gym.vlnce import VLNCEDataset

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    begin = time.process_time()
    dataset = VLNCEDataset.load(path, languages=languages or None)
    opened = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    chosen = random.Random(1).choices(dataset.episode_ids, k=reads)
    begin = time.process_time()
    for episode_id in chosen:
        dataset.episode(episode_id)
    each = (time.process_time() - begin) / reads
    return {
        "episodes": len(dataset),
        "open_s": round(opened, 1),
        "peak_mb": round(peak),
        "before_mb": round(before),
        "ms_per_episode": round(each * 1e3, 3),
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
