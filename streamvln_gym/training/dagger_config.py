"""Settings of DAgger; frozen dataclasses that the command line shows as they are, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from streamvln_gym.simulators.choice import SimulatorChoice
from streamvln_gym.training.beta_schedules import BetaSchedule, ConstantBeta, ExponentialBeta, LinearBeta
from streamvln_gym.training.config import TrainRecipe
from streamvln_gym.training.recorder import RecordConfig
from streamvln_gym.training.takeover import KeepConfig, TakeOverConfig


@dataclass(frozen=True)
class PictureConfig:
    """What is recorded of every frame, see `RecordConfig`.

    Attributes:
        width: of the pictures, pixels. Whatever their size, they show what 640x480 pixels at 79 degrees do.
        height: of the pictures, pixels.
        supersampling: pictures are rendered this many times wider and higher, and averaged.
        quality: of the JPEG pictures, 1 to 100.
        depth: also record depth pictures and camera poses, for memory strategies that need geometry.
        privileged: also record targets for auxiliary losses.
        patches: patches per side of the vision tower that is to be trained, for `privileged`.
    """

    width: int = 640
    height: int = 480
    supersampling: int = 1
    quality: int = 90
    depth: bool = False
    privileged: bool = False
    patches: int = 8


@dataclass(frozen=True)
class MixingConfig:
    """How likely the expert drives, whatever the policy does.

    Attributes:
        schedule: "exponential": beta ** round, and 0 throughout where beta is 0; "linear": from beta in round 0 down to
            0 in round `zero_round`; "constant": beta.
        beta: see `schedule`, in [0, 1].
        zero_round: of the linear schedule.
        per: what it is drawn for: each "chunk" of actions, or the "episode" as a whole.
    """

    schedule: Literal["exponential", "linear", "constant"] = "exponential"
    beta: float = 0.0
    zero_round: int = 5
    per: Literal["chunk", "episode"] = "chunk"

    def __post_init__(self) -> None:
        if self.per not in ("chunk", "episode"):
            raise ValueError(f"the expert can be drawn per 'chunk' or per 'episode', not per {self.per!r}")
        self.make()

    def make(self) -> BetaSchedule:
        """The schedule.

        Raises:
            ValueError: there is no such schedule, or a number is out of its range.
        """
        if self.schedule == "exponential":
            return ExponentialBeta(self.beta)
        if self.schedule == "linear":
            return LinearBeta(self.beta, self.zero_round)
        if self.schedule == "constant":
            return ConstantBeta(self.beta)
        raise ValueError(f"unknown schedule {self.schedule!r}: use exponential, linear or constant")


@dataclass(frozen=True)
class RolloutSettings:
    """What every round plays and records.

    Attributes:
        data: "flats", "r2r", "rxr", a folder that `build-flats --out` wrote, or a VLN-CE episode file.
        split: of the dataset.
        scenes: how many scenes; default: all of the split.
        languages: only episodes in these languages, such as hi-IN, or en for every kind of English, in evaluations
            too; default: all.
        episodes: how many each round; they are taken in turn from the scenes, and each round goes on where the last
            one ended. 0 plays the whole split in every round.
        max_steps: actions after which an episode is cut off.
        along_reference: the expert follows the reference path; otherwise it takes the shortest way that the episode
            allows.
        waypoint_radius: metres from a point of the reference path at which the expert heads for the next.
        batch: episodes of a scene that are played at once, also in evaluations.
        workers: processes, each with scenes and a policy of its own, also in evaluations; default: one for each CPU
            core this process may use.
        device: of the policy, "auto", "cpu" or "cuda".
        data_dir: the folder with `datasets/` and `scene_datasets/` (r2r, rxr).
        simulator: "embedded", "habitat" (without `pictures.privileged`), or "auto": habitat where it is installed and
            can draw what is recorded; in evaluations too.
    """

    data: str = "flats"
    split: str = "train"
    scenes: int | None = None
    languages: tuple[str, ...] = ()
    episodes: int = 200
    max_steps: int = 500
    along_reference: bool = True
    waypoint_radius: float = 0.5
    batch: int = 4
    workers: int | None = None
    device: str = "auto"
    data_dir: Path = Path("data")
    simulator: SimulatorChoice = "embedded"

    def __post_init__(self) -> None:
        for name, least in {"episodes": 0, "batch": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"RolloutSettings.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class EvaluateConfig:
    """What each round is evaluated on.

    Attributes:
        data: "flats", "r2r", "rxr", a folder that `build-flats --out` wrote, or a VLN-CE episode file; default: what is
            recorded from.
        split: of the dataset.
        episodes: how many; they are taken in turn from the scenes. 0 plays the whole split.
        max_steps: actions after which an episode is cut off.
    """

    data: str | None = None
    split: str = "val_unseen"
    episodes: int = 100
    max_steps: int = 500

    def __post_init__(self) -> None:
        for name, least in {"episodes": 0, "max_steps": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"EvaluateConfig.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class DAggerConfig:
    """DAgger (Ross et al. 2011) with the take-over rules of StreamVLN, see `dagger`.

    Attributes:
        out: the folder of all rounds; a run that was interrupted there goes on.
        rounds: how many; more can be added later.
        checkpoint: the first policy: folder of a StreamVLN checkpoint, hub id, or "streamvln-tiny", which ships in the
            package. Default: a small network with random weights.
        demonstrations: trajectory folders that every round trains on besides, each with a weight if wanted: A=2 B=1.
        round_weight: share of the windows that each round's data has, where demonstrations have weights; without
            demonstrations, or where these have none, every window is seen once an epoch.
        start_from: each round trains on from the "previous" round's network, or anew from the "first" policy.
        evaluate_first: also evaluate the first policy.
        seed: of everything that is random.
        rollout: what is played.
        pictures: what is recorded.
        mixing: how likely the expert drives, whatever the policy does.
        take_over: when it takes over besides.
        keep: which episodes are kept.
        train: how each round trains.
        evaluation: what each round is evaluated on; all see pictures of the recording's size.
    """

    out: Path
    rounds: int = 3
    checkpoint: str | None = None
    demonstrations: tuple[str, ...] = ()
    round_weight: float | None = None
    start_from: Literal["previous", "first"] = "previous"
    evaluate_first: bool = True
    seed: int = 0
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    pictures: PictureConfig = field(default_factory=PictureConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    take_over: TakeOverConfig = field(default_factory=TakeOverConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"DAggerConfig.rounds must be at least 1, got {self.rounds}")
        if self.start_from not in ("previous", "first"):
            raise ValueError(f"a round can start from the 'previous' network or the 'first', not {self.start_from!r}")
        if self.round_weight is not None:
            if not 0.0 < self.round_weight < float("inf"):
                raise ValueError(f"DAggerConfig.round_weight must be positive, got {self.round_weight}")
            if not self.demonstrations:
                raise ValueError("round_weight weighs the rounds against demonstrations, and there are none")
        if self.train.method != "full" and not self.train.lora.merge:
            raise ValueError("the next round's policy is the merged network: leave lora.merge on")
        if self.train.auxiliary and not self.pictures.privileged:
            raise ValueError(
                "train.auxiliary needs targets, which the rounds record only with pictures.privileged "
                "(--pictures.privileged True): set it, or leave train.auxiliary out"
            )
        self.recording(Path("x"), "x")  # checks what it takes over

    def recording(self, out: Path, checkpoint: str) -> RecordConfig:
        """A round's recording as `RecordConfig`: folder, data, pictures and policy."""
        rollout = self.rollout
        return RecordConfig(
            out=out,
            data=rollout.data,
            split=rollout.split,
            scenes=rollout.scenes,
            languages=rollout.languages,
            driver="streamvln",
            checkpoint=checkpoint,
            device=rollout.device,
            seed=self.seed,
            max_steps=rollout.max_steps,
            along_reference=rollout.along_reference,
            waypoint_radius=rollout.waypoint_radius,
            workers=rollout.workers,
            data_dir=rollout.data_dir,
            simulator=rollout.simulator,
            **asdict(self.pictures),
        )


# What may differ between a run and its continuation: it changes no file of a round.
FREE_FIELDS = {"out", "rounds", "rollout.workers", "rollout.device", "train.batch.workers", "train.machine.device"} | {
    f"train.report.{name}" for name in ("log_every", "save_every", "keep", "report_to", "quiet")
}
