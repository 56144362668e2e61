"""Plays the episodes of a split and records them as a trajectory folder, in parallel over scenes.

The folder (see `trajectory_writer`) has the same bytes whatever the number of workers, and however often the recording
was killed and started again. `run.json` in it says what was recorded; a run with other settings is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from streamvln_gym import __version__
from streamvln_gym.cache import make_writable
from streamvln_gym.digests import checkpoint_digest
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import DatasetError
from streamvln_gym.evaluation.identity import changes
from streamvln_gym.models.shipped import SHIPPED_NAME
from streamvln_gym.rollout import check_network
from streamvln_gym.selection import open_dataset, source_of
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.choice import SimulatorChoice, resolve_simulator
from streamvln_gym.training.folder_lock import only_process
from streamvln_gym.training.scene_workers import SceneWorker, default_workers, process_scenes, scenes_by_size
from streamvln_gym.training.trajectories import ANNOTATIONS
from streamvln_gym.training.trajectory_writer import EPISODES, merge_annotations, remove_unfinished, write_file

if TYPE_CHECKING:
    from streamvln_gym.training.scene_recorder import SceneRecorder

DriverName = Literal["expert", "streamvln", "random", "forward"]
DRIVERS = ("expert", "streamvln", "random", "forward")
RUN = "run.json"
_FORMAT = 1


@dataclass(frozen=True)
class RecordConfig:
    """What `record` plays and writes.

    Attributes:
        out: the folder to record into; a recording that was interrupted there goes on.
        data: "flats", "r2r", "rxr", a folder that `build-flats --out` wrote, or a VLN-CE episode file.
        split: of the dataset.
        scenes: how many scenes; default: all of the split.
        languages: only episodes in these languages, such as hi-IN, or en for every kind of English; default: all.
        per_scene: how many trajectories of each scene; 0 records all.
        driver: who acts. "expert" writes one trajectory per path, with all its instructions; "streamvln", "random" and
            "forward" one per episode, with the expert's actions along the states they visit as what is to be learned.
        checkpoint: folder (or hub id) of a StreamVLN checkpoint; default: "streamvln-tiny", which ships in the package.
        device: of the StreamVLN driver, "auto", "cpu" or "cuda".
        seed: of the random driver.
        max_steps: actions after which an episode is cut off.
        along_reference: the expert follows the reference path; otherwise it takes the shortest way that the episode
            allows.
        waypoint_radius: metres from a point of the reference path at which the expert heads for the next.
        width: of the pictures, pixels. Whatever their size, they show what 640x480 pixels at 79 degrees do.
        height: of the pictures, pixels.
        supersampling: pictures are rendered this many times wider and higher, and averaged.
        quality: of the JPEG pictures, 1 to 100.
        depth: also record depth pictures and camera poses, for memory strategies that need geometry.
        privileged: also record targets for auxiliary losses.
        patches: patches per side of the vision tower that is to be trained, for `privileged`.
        workers: processes, each with scenes of its own; default: one for each CPU core this process may use.
        data_dir: the folder with `datasets/` and `scene_datasets/` (r2r, rxr).
        simulator: "embedded", "habitat" (without `privileged`), or "auto": habitat where it is installed and can draw
            what is recorded.
    """

    out: Path
    data: str = "flats"
    split: str = "train"
    scenes: int | None = None
    languages: tuple[str, ...] = ()
    per_scene: int = 0
    driver: DriverName = "expert"
    checkpoint: str | None = None
    device: str = "auto"
    seed: int = 0
    max_steps: int = 500
    along_reference: bool = True
    waypoint_radius: float = 0.5
    width: int = 640
    height: int = 480
    supersampling: int = 1
    quality: int = 90
    depth: bool = False
    privileged: bool = False
    patches: int = 8
    workers: int | None = None
    data_dir: Path = Path("data")
    simulator: SimulatorChoice = "embedded"

    def __post_init__(self) -> None:
        if self.privileged and self.simulator != "embedded":
            raise ValueError(
                "privileged targets come from the embedded simulator, not from "
                f"simulator={self.simulator!r}: leave one out"
            )
        if self.driver not in DRIVERS:
            raise ValueError(f"unknown driver {self.driver!r}: use {', '.join(DRIVERS)}")
        if self.checkpoint is not None and self.driver != "streamvln":
            raise ValueError(f"a checkpoint is for the driver 'streamvln', not for {self.driver!r}: leave one out")
        least = {"per_scene": 0, "seed": 0, "max_steps": 1, "quality": 1, "patches": 1, "waypoint_radius": 1e-3}
        for name, lowest in (least | ({} if self.workers is None else {"workers": 1})).items():
            if not getattr(self, name) >= lowest:
                raise ValueError(f"RecordConfig.{name} must be at least {lowest:g}, got {getattr(self, name)}")
        if self.quality > 100:
            raise ValueError(f"RecordConfig.quality must be at most 100, got {self.quality}")
        self.camera  # noqa: B018 (checks the sizes)

    @property
    def camera(self) -> CameraConfig:
        """The camera: the view of the published data's, in pictures of any size."""
        return CameraConfig.of_size(self.width, self.height, self.supersampling)


@dataclass(frozen=True)
class RecordSummary:
    """What a trajectory folder holds after a run.

    Attributes:
        trajectories: entries of `annotations.json`.
        instructions: of all of them.
        frames: pictures.
        skipped: episodes that the expert could not finish.
    """

    trajectories: int
    instructions: int
    frames: int
    skipped: int


def record(config: RecordConfig) -> RecordSummary:
    """Records what is missing in `config.out` and writes `annotations.json`.

    With several workers, a script that calls this needs the usual `if __name__ == "__main__":`.

    Raises:
        DatasetError: the data cannot be had, the folder cannot be written or belongs to another run, or a worker was
            killed. What was finished by then is kept.
        StreamVLNGymError: scene or checkpoint cannot be had.
        ValueError: there is no such device.
    """
    if config.driver == "streamvln":
        check_network(config.checkpoint, config.device)
    dataset = open_dataset(
        config.data, config.split, config.data_dir, config.scenes, languages=config.languages or None
    )
    workers = config.workers or default_workers(config.driver, config.checkpoint, config.device)

    def prepare() -> None:
        if hasattr(dataset, "build"):
            dataset.build(workers)

    total = None if config.per_scene else len(dataset.episode_ids)
    with tqdm(total=total, desc=f"recording {dataset.name}/{dataset.split}", unit="episode") as bar:
        make = partial(_scene_recorder, config)
        scenes = scenes_by_size(dataset)
        entries = record_scenes(config.out, identity_of(config, dataset), make, scenes, workers, bar, prepare)
    return _summary(config.out, entries)


def record_scenes(
    folder: Path,
    identity: dict[str, Any],
    make: Callable[[], SceneWorker],
    scenes: list[str],
    workers: int,
    bar: tqdm,
    prepare: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Lets workers record scenes into a trajectory folder, alone there, and writes `annotations.json`.

    Args:
        folder: made if need be.
        identity: what the folder's `run.json` says, or will say.
        make: gives a worker that records into `folder`, see `process_scenes`.
        scenes: scene ids.
        workers: processes.
        bar: counts episodes.
        prepare: called once the folder is known to be right.

    Returns:
        The annotations.

    Raises:
        DatasetError: as `record`.
    """
    folder = make_folder(folder)
    with only_process(folder, "recording into"):
        _check_identity(folder, identity)
        prepare()
        remove_unfinished(folder)
        try:
            process_scenes(make, scenes, workers, bar, f"recorded into {folder}")
        finally:
            entries = merge_annotations(folder)
            remove_unfinished(folder)
    return entries


def make_folder(folder: Path) -> Path:
    """Makes the trajectory folder if need be.

    Raises:
        DatasetError: it cannot be made or written to.
    """
    try:
        return make_writable(folder)
    except DatasetError as error:
        raise DatasetError(f"cannot record into {folder}: give a folder that you can write to with --out") from error


def identity_of(config: RecordConfig, dataset: EpisodeDataset) -> dict[str, Any]:
    """All that the recorded bytes depend on, but for which and how many scenes and trajectories are recorded.

    Raises:
        CheckpointError: the checkpoint that drives is not there.
    """
    camera = config.camera
    identity: dict[str, Any] = {
        "format": _FORMAT,
        "version": __version__,
        "dataset": dataset.name,
        "split": dataset.split,
        "source": source_of(dataset),
        "simulator": resolve_simulator(config.simulator, dataset.name, camera),
        "driver": config.driver,
        "max_steps": config.max_steps,
        "along_reference": config.along_reference,
        "waypoint_radius": config.waypoint_radius,
        "camera": {"width": camera.width, "height": camera.height, "hfov": camera.hfov, "vfov": camera.vfov}
        | {"supersampling": camera.supersampling},
        "quality": config.quality,
        "depth": config.depth,
        "privileged": config.patches if config.privileged else 0,
    }
    if config.driver == "streamvln":
        checkpoint = str(config.checkpoint or SHIPPED_NAME)
        identity |= {"checkpoint": checkpoint, "checkpoint_sha256": checkpoint_digest(checkpoint)}
    if config.driver == "random":
        identity["seed"] = config.seed
    if config.languages:
        identity["languages"] = list(config.languages)
    return identity


# ------------------------------------------------------------------------------------------------------------ helpers


def _scene_recorder(config: RecordConfig) -> SceneRecorder:
    from streamvln_gym.training.scene_recorder import SceneRecorder

    return SceneRecorder(config)


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / RUN
    if not path.exists():
        if (folder / ANNOTATIONS).exists():
            raise DatasetError(
                f"{folder} holds trajectories, but no {RUN} that says how they were recorded: give another --out"
            )
        write_file(folder, RUN, json.dumps(identity, indent=1) + "\n")
        return
    try:
        present = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): give another --out") from error
    changed = changes(present, identity)
    if changed:
        setting = min(changed).split(".")[0]
        fields = {name: pair for name, pair in changed.items() if name.split(".")[0] == setting}
        theirs = ", ".join(f"{name}={before!r}" for name, (before, _) in fields.items())
        ours = ", ".join(repr(now) for _, now in fields.values())
        raise DatasetError(
            f"{folder} holds a recording with {theirs}, but this one has {ours}: repeat the first one's settings to go "
            "on with it, or give another --out"
        )


def _summary(folder: Path, entries: list[dict[str, Any]]) -> RecordSummary:
    written = sum(1 for _ in (folder / EPISODES).glob("*.json"))
    frames = sum(len(entry["executed"]) - 1 if "executed" in entry else len(entry["actions"]) for entry in entries)
    instructions = sum(len(entry["instructions"]) for entry in entries)
    return RecordSummary(len(entries), instructions, frames, written - len(entries))
