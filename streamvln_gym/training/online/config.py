"""What online DAgger does, how long and with how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from streamvln_gym.devices import cores
from streamvln_gym.training.config import ContextConfig
from streamvln_gym.training.privileged import AuxiliaryConfig

MAX_STEPS = 500  # of an episode, as in the environment
_LONG_STEPS = 200  # few demonstrations are longer
_ANY_LENGTH = 1_000_000


@dataclass(frozen=True)
class CollectConfig:
    """How the environments are driven.

    Attributes:
        workers: processes that simulate; default: one for each CPU core but two.
        builders: processes that build flats ahead of the workers.
        streams: environments per worker.
        expert_until: share of the training over which the expert's part falls from 1 to `expert_least`.
        expert_least: probability that the expert drives a chunk, from then on.
        expert_spread: an episode's own probability lies up to so far above or below.
        rescued_streams: share of the streams whose lost agents the expert brings back. In the others they learn what to
            do in the wrong room, where they would be when nobody helps.
        rescue_metres: there, the expert takes over where the way that is left has grown by so much since it was
            shortest, and drives until most of it is made up.
        rescue_steps: the expert takes over, too, after so many steps in which the way that is left became no shorter,
            and drives for a metre.
        short_until: share of the training over which the longest demonstration grows from `short_steps` to any length.
        short_steps: actions.
        random_chunks: probability that a chunk is driven at random.
        sampled_streams: share of the streams whose policy samples its actions; the others are greedy.
        stop_radius: metres from the goal at which the expert says STOP.
        via_radius: metres from a position to be visited at which the expert takes it for visited.
        ignored_stops: expert STOPs that a stream may ignore before its episode is given up.
        spare_steps: steps beyond one and a half demonstrations after which an episode is given up; at 500 it ends.
        plays: times that an episode is played, on average, before its scene is put away.
        shelf: scenes a worker draws episodes from at a time.
        failing_share: share of the episodes that are drawn by how often free streams fail in those of their kind (what
            has to be remembered, and how much the instruction says); the others are drawn evenly.
        supersampling: of the camera, see `CameraConfig`.
        drawn_by: who draws the pictures: "workers", or "gpu", the training device (CUDA, with Triton), which leaves the
            workers to simulate.
    """

    workers: int | None = None
    builders: int = 0
    streams: int = 32
    expert_until: float = 0.35
    expert_least: float = 0.1
    expert_spread: float = 0.2
    rescued_streams: float = 0.3
    rescue_metres: float = 3.0
    rescue_steps: int = 24
    short_until: float = 0.1
    short_steps: int = 40
    random_chunks: float = 0.1
    sampled_streams: float = 0.5
    stop_radius: float = 1.0
    via_radius: float = 2.0
    ignored_stops: int = 8
    spare_steps: int = 40
    plays: int = 4
    shelf: int = 16
    failing_share: float = 0.0
    supersampling: int = 2
    drawn_by: Literal["workers", "gpu"] = "workers"

    def __post_init__(self) -> None:
        experts = ("expert_until", "expert_least", "expert_spread", "rescued_streams")
        for name in (*experts, "random_chunks", "sampled_streams", "short_until", "failing_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"CollectConfig.{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.drawn_by not in ("workers", "gpu"):
            raise ValueError(f"CollectConfig.drawn_by must be 'workers' or 'gpu', got {self.drawn_by!r}")
        for name in ("streams", "plays", "shelf", "supersampling"):
            if getattr(self, name) < 1:
                raise ValueError(f"CollectConfig.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def processes(self) -> int:
        """Worker processes."""
        return self.workers if self.workers is not None else max(cores() - 2, 1)

    def longest(self, progress: float) -> int:
        """Actions of the longest demonstration to be played after `progress` (0 to 1) of the training."""
        if progress >= self.short_until:
            return _ANY_LENGTH
        return int(self.short_steps + (_LONG_STEPS - self.short_steps) * progress / self.short_until)

    def expert_share(self, progress: float) -> float:
        """Probability that the expert drives a chunk after `progress` (0 to 1) of the training."""
        if self.expert_until <= 0.0:
            return self.expert_least
        return max(self.expert_least, 1.0 - progress / self.expert_until)


@dataclass(frozen=True)
class OptimizeConfig:
    """How the network learns.

    Attributes:
        updates: optimizer steps of the whole training; those of a call with `decay_minutes` are not limited.
        updates_per_turn: optimizer steps for each chunk that every environment executes.
        frames_per_update: frames in a batch, at most; whole episodes are drawn.
        buffer_frames: frames that the buffer holds; the oldest are overwritten. Default: 300 for each environment of
            the process, at least 30,000 (112x112 pixels: 1.2 GB).
        mirrored: share of the episodes that are learned from mirrored (those of free streams are played so): pictures,
            turns and the words left and right. Only for English instructions; see `mirroring`.
        learning_rate: highest.
        head_rate: that of the auxiliary heads and of the value is so many times as high: where a trained network goes
            on learning slowly, they begin with nothing.
        head_updates: so many updates at the beginning teach these heads alone: what they want of the network while they
            know nothing does not reach it.
        warmup: updates until it is reached.
        decay: updates at the end over which it falls to a fiftieth; None means all after the warm-up (cosine).
        weight_decay: of matrices; biases and norms have none.
        clip: largest norm of the network's gradient, and of the heads'.
        stop_weight: weight of a STOP label beside 1 for a move.
        ema: decay per update of the averaged weights that are evaluated and saved.
        compile: compile the network's layers with torch.compile; default: on a GPU.
        record: run batches from a recorded CUDA graph; default: on a GPU.
    """

    updates: int = 2000
    updates_per_turn: int = 2
    frames_per_update: int = 1024
    buffer_frames: int | None = None
    mirrored: float = 0.0
    learning_rate: float = 2e-3
    head_rate: float = 1.0
    head_updates: int = 0
    warmup: int = 150
    decay: int | None = None
    weight_decay: float = 0.05
    clip: float = 1.0
    stop_weight: float = 2.0
    ema: float = 0.998
    compile: bool | None = None
    record: bool | None = None

    def __post_init__(self) -> None:
        for name in ("updates", "updates_per_turn", "frames_per_update", "buffer_frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"OptimizeConfig.{name} must be at least 1, got {value}")
        for name in ("learning_rate", "head_rate"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"OptimizeConfig.{name} must be positive, got {getattr(self, name)}")
        if self.head_updates < 0:
            raise ValueError(f"OptimizeConfig.head_updates must not be negative, got {self.head_updates}")
        if not 0.0 <= self.mirrored <= 1.0:
            raise ValueError(f"OptimizeConfig.mirrored must lie between 0 and 1, got {self.mirrored}")

    def compiled_on(self, device_type: str) -> bool:
        """Whether layers are compiled on "cpu" or "cuda"."""
        return device_type == "cuda" if self.compile is None else self.compile

    def rate(self, update: int, done: float | None = None) -> float:
        """The learning rate of an update.

        Args:
            update: counted from 0.
            done: share of the decay that is over; default: as `decay` says.
        """
        warm = min(1.0, (update + 1) / max(self.warmup, 1))
        if done is None:
            begin = self.warmup if self.decay is None else max(self.updates - self.decay, 0)
            done = (update - begin) / max(self.updates - begin, 1)
        done = min(max(done, 0.0), 1.0)
        return self.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class ReinforceConfig:
    """Learning from success, beside the expert's labels: proximal policy optimisation, see `reinforce`.

    In "free" streams the policy drives alone, its actions are drawn, and its STOP ends the episode; a chunk is one
    action. What a chunk earns: metres of the way that it made shorter, and at the end success.

    Attributes:
        free_streams: share of the streams that are free; 0 switches this off.
        free_frames: share of a batch's episodes that come from free streams.
        progress_reward: for each metre by which the expert's way became shorter (negative where it grew).
        success_reward: for an episode's success.
        chunk_cost: of every chunk.
        discount: per chunk.
        trace: lambda of the generalised advantage estimate.
        clip: the ratio of probabilities is held within 1 +- clip.
        labels_weight: of the loss of the expert's labels, which are what the other streams teach.
        policy_weight: of the policy's loss.
        value_weight: of the value's squared error.
        entropy_weight: of the entropy of an action, which is to be large.
        informed_value: the value is told how the expert's way leads on, how long it is and where the start lies; the
            policy is not.
        value_updates: updates at the beginning in which only the value is learned of free episodes.
        recent_turns: a free episode is learned from for so many turns after its end.
    """

    free_streams: float = 0.0
    free_frames: float = 0.7
    progress_reward: float = 0.2
    success_reward: float = 4.0
    chunk_cost: float = 0.01
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    labels_weight: float = 1.0
    policy_weight: float = 1.0
    value_weight: float = 0.25
    entropy_weight: float = 0.0
    informed_value: bool = False
    value_updates: int = 200
    recent_turns: int = 4

    def __post_init__(self) -> None:
        for name in ("free_streams", "free_frames", "discount", "trace", "clip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"ReinforceConfig.{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.recent_turns < 1:
            raise ValueError(f"ReinforceConfig.recent_turns must be at least 1, got {self.recent_turns}")
        for name in ("labels_weight", "policy_weight", "value_weight", "entropy_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"ReinforceConfig.{name} must not be negative, got {getattr(self, name)}")

    @property
    def wanted(self) -> bool:
        return self.free_streams > 0.0

    def free(self, streams: int) -> int:
        """How many of so many streams are free."""
        return round(self.free_streams * streams)


@dataclass(frozen=True)
class TeachConfig:
    """Learning from the averaged answers of several networks, see `teachers`; in every frame, whoever drives.

    Attributes:
        teachers: checkpoints, each as `OnlineConfig.checkpoint` takes one.
        average: the average of the learning network's own weights teaches, too.
        weight: of the divergence from their answers.
        mirrored: each teacher answers in the mirror as well; False where instructions are not English.
    """

    teachers: tuple[str, ...] = ()
    average: bool = False
    weight: float = 1.0
    mirrored: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.teachers, str):
            raise ValueError(f"TeachConfig.teachers must be a tuple, got {self.teachers!r}: write ({self.teachers!r},)")
        if not 0.0 <= self.weight < math.inf:
            raise ValueError(f"TeachConfig.weight must be finite and not negative, got {self.weight}")

    @property
    def wanted(self) -> bool:
        return bool(self.teachers) or self.average


@dataclass(frozen=True)
class OnlineConfig:
    """Online DAgger, see `train_online`.

    Attributes:
        out: folder of the state, the log and the checkpoint; a run that was interrupted goes on from there.
        checkpoint: folder to start from; default: a new small network with random weights.
        data: "flats", or a folder that `build-flats --out` wrote.
        split: whose scenes are trained on.
        scenes: how many of them; default: the split's own number. The last `held_out` are kept for evaluation.
        held_out: scenes to evaluate on while training, never trained on; 0 evaluates on the training scenes.
        evaluate_every: updates between two evaluations.
        evaluate_at_most: episodes of an evaluation.
        evaluate_steps: actions after which an evaluated episode is cut off, 500 at most.
        save_every: updates between two saved states.
        minutes: stop (and save) after so long; the same command then goes on. Default: no limit.
        decay_minutes: the learning rate falls over so many of the last of these minutes. Such a call has a machine for
            a time and goes by the clock: it ends after `minutes`, whatever `optimize.updates` and `optimize.decay` say,
            and the shares of the training in `collect` are shares of these minutes. The next call warms up anew.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        context: what the network is shown of the past: no memory strategy with geometry ("voxel"), and `window_steps`
            must be a multiple of the chunk.
        collect: how the environments are driven.
        optimize: how the network learns.
        auxiliary: weights of the auxiliary losses.
        reinforce: learning from success; off by default.
        teach: learning from other networks; off by default.
    """

    out: Path = Path("runs/online")
    checkpoint: str | None = None
    data: str = "flats"
    split: str = "train"
    scenes: int | None = None
    held_out: int = 10
    evaluate_every: int = 500
    evaluate_at_most: int = 180
    evaluate_steps: int = MAX_STEPS
    save_every: int = 500
    minutes: float | None = None
    decay_minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    context: OmitArgPrefixes[ContextConfig] = field(default_factory=ContextConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)

    @property
    def clocked(self) -> bool:
        """Whether a call goes by the clock and does not count updates."""
        return self.decay_minutes is not None

    def __post_init__(self) -> None:
        for name in ("evaluate_every", "evaluate_at_most", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"OnlineConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.decay_minutes is not None and not 0.0 < self.decay_minutes <= (self.minutes or 0.0):
            raise ValueError(
                f"OnlineConfig.decay_minutes must be positive and at most minutes ({self.minutes}), got "
                f"{self.decay_minutes}"
            )
        if self.collect.builders and self.data != "flats":
            raise ValueError(f"collect.builders builds the flats of the package; with data {self.data!r} leave it at 0")
        if self.reinforce.wanted and not self.reinforce.free(self.collect.streams):
            raise ValueError(
                f"reinforce.free_streams {self.reinforce.free_streams} of collect.streams {self.collect.streams} are 0 "
                "environments: raise either"
            )
        if self.collect.failing_share and not self.reinforce.wanted:
            raise ValueError("collect.failing_share goes by how free streams fail: give reinforce.free_streams as well")
        if self.held_out < 0:
            raise ValueError(f"OnlineConfig.held_out must not be negative, got {self.held_out}")
        if not 1 <= self.evaluate_steps <= MAX_STEPS:
            raise ValueError(
                f"OnlineConfig.evaluate_steps must lie between 1 and {MAX_STEPS}, got {self.evaluate_steps}"
            )
