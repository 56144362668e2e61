"""What an evaluation plays, and with how many hands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamvln_gym.rollout import PlayConfig, check_agent, check_seed
from streamvln_gym.simulators.base import CameraConfig

EngineName = Literal["auto", "local", "ranks", "ray"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(PlayConfig):
    """What `evaluate` plays and writes.

    Attributes:
        out: the run's folder; an evaluation that was stopped there goes on (see docs/evaluation.md for what is in it).
        workers: processes; default: one for each GPU that the agent may use. Without a GPU, or with a network of
            at most 50 million parameters, one for each CPU core (as far as they find room on the GPUs, which they
            share).
        envs_per_worker: episodes of a scene that a worker plays at once, with one batched model call for all of them.
            It can change the last bits of the network's sums, and so belongs to what a run is; for a GPU.
        videos: how many episodes are filmed, one of each scene first, or "all".
        width: of the pictures, pixels. Whatever their size, they show what 640x480 pixels at 79 degrees do.
        height: of the pictures, pixels.
        supersampling: pictures are rendered this many times wider and higher, and averaged.
        engine: "local": processes of this machine; "ranks": this process is one of torchrun's or accelerate's; "ray":
            actors of a Ray cluster; "auto": ranks where torchrun started this process, else local.
        ray_address: of the cluster; default: the one that Ray itself finds, else one of this machine alone.
        attempts: how often an episode is tried whose worker is killed each time.
        report: also write the page about the run, as `streamvln-gym report` does.
    """

    out: Path
    workers: int | None = None
    envs_per_worker: int = 1
    videos: int | Literal["all"] = 0
    width: int = 640
    height: int = 480
    supersampling: int = 1
    engine: EngineName = "auto"
    ray_address: str | None = None
    attempts: int = 3
    report: bool = True

    def __post_init__(self) -> None:
        for name in ("out", "data_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)))  # a str will do
        check_agent(self)
        check_seed(self.seed)
        least = {"episodes": 0, "max_steps": 1, "envs_per_worker": 1, "attempts": 1}
        if self.workers is not None:
            least["workers"] = 1
        if self.videos != "all":
            least["videos"] = 0
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"EvaluationConfig.{name} must be at least {lowest}, got {getattr(self, name)}")
        self.camera  # noqa: B018 (checks the sizes)

    @property
    def camera(self) -> CameraConfig:
        """What the agent's pictures are taken with."""
        return CameraConfig.of_size(self.width, self.height, self.supersampling)

    @property
    def batch(self) -> int:
        """Episodes that are played at once; agents without a network play one after the other."""
        return self.envs_per_worker if self.agent == "streamvln" else 1
