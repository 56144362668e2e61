"""Settings of supervised training; frozen dataclasses that the command line shows as they are, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from streamvln_gym.training.augmentation import AugmentationConfig

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW, a warm-up, and a cosine that ends at a minimum.

    Attributes:
        learning_rate: at the end of the warm-up.
        vision_learning_rate: of the vision tower; default: as learning_rate.
        projector_learning_rate: of the projector; default: as learning_rate.
        weight_decay: of weights; biases and norms have none.
        adam_beta2: decay of the squared gradients' average.
        warmup: steps, or below 1 a share of all steps.
        min_rate: last learning rate, as a share of the highest.
        max_grad_norm: gradients are clipped to this norm.
    """

    learning_rate: float = 2e-5
    vision_learning_rate: float | None = None
    projector_learning_rate: float | None = None
    weight_decay: float = 0.01
    adam_beta2: float = 0.999
    warmup: float = 0.03
    min_rate: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "vision_learning_rate", "projector_learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("weight_decay", "warmup", "max_grad_norm"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0.0 <= self.min_rate <= 1.0:
            raise ValueError(f"min_rate is a share of the learning rate, from 0 to 1, got {self.min_rate}")

    def rate(self, part: Part) -> float:
        """Highest learning rate of a part of the network."""
        own = {"vision": self.vision_learning_rate, "projector": self.projector_learning_rate}.get(part)
        return self.learning_rate if own is None else own


@dataclass(frozen=True)
class LoraSettings:
    """Adapters, for the methods "lora" and "qlora".

    Attributes:
        rank: of the adapters' matrices.
        alpha: their scale is alpha / rank.
        dropout: before the adapters.
        train_head: train the answer head whole beside the adapters; for a network of random weights.
        merge: also write a model with the adapters merged into it.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    train_head: bool = False
    merge: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the adapters' rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"the adapters' dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class BatchConfig:
    """How windows become batches.

    Attributes:
        batch_size: windows per process and forward pass.
        accumulate: forward passes per step of the optimiser.
        group_by_length: put windows of similar length into a batch, which saves padding.
        workers: processes per training process that read pictures; 0 reads them in between.
    """

    batch_size: int = 2
    accumulate: int = 1
    group_by_length: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "accumulate": 1, "workers": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class MachineConfig:
    """Precision, memory, and several GPUs.

    Attributes:
        device: "cpu" holds training to the CPU.
        bf16: compute in bfloat16, and write the result in it.
        weights: dtype of the weights in training; "auto": float32 for what is trained, and bfloat16 with --bf16 for
            what adapters leave alone.
        gradient_checkpointing: forget activations and compute them again; about half the memory for a third more time.
        attention: "sdpa", "eager" or "flash_attention_2"; default: transformers' choice.
        fsdp: JSON file with Trainer's fsdp_config, e.g. {"fsdp_version": 2, "reshard_after_forward": true}.
        deepspeed: DeepSpeed's JSON file.
        trainer_arguments: JSON file with further arguments of transformers' TrainingArguments, such as
            {"optim": "adafactor"}; not those that have an option here.
    """

    device: Literal["auto", "cpu"] = "auto"
    bf16: bool = False
    weights: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    attention: str | None = None
    fsdp: Path | None = None
    deepspeed: Path | None = None
    trainer_arguments: Path | None = None

    def __post_init__(self) -> None:
        if self.fsdp and self.deepspeed:
            raise ValueError("fsdp and deepspeed exclude each other: choose one")


@dataclass(frozen=True)
class ReportConfig:
    """When to evaluate, log and save.

    Attributes:
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints to resume from; 0: only at the end of each epoch.
        keep: newest checkpoints that are kept.
        eval_every: steps between two evaluations on the held-out folders; 0: at the end of each epoch.
        report_to: "tensorboard", "wandb", or another of Trainer's integrations.
        quiet: no progress bars.
    """

    log_every: int = 10
    save_every: int = 0
    keep: int = 2
    eval_every: int = 0
    report_to: tuple[str, ...] = ()
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, least in {"log_every": 1, "save_every": 0, "keep": 1, "eval_every": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ContextConfig:
    """What the network is shown of the past, in training and, as its configuration says from then on, by every agent.

    None means: as the network to start from has it.

    Attributes:
        memory_strategy: what is shown of the slow memory's frames, see `models.memory_strategies`.
        num_history: frames of slow memory; 0: none.
        window_steps: actions of a fast window.
    """

    memory_strategy: Literal["none", "pooled", "full", "temporal_pool", "voxel"] | None = None
    num_history: int | None = None
    window_steps: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"num_history": 0, "window_steps": 1}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def apply(self, network: Any) -> None:
        """Puts what is not None into a network's configuration."""
        for item in fields(self):
            if (value := getattr(self, item.name)) is not None:
                setattr(network, item.name, value)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """How a network is trained, whatever it starts from and on whatever data.

    Attributes:
        method: "full" trains weights, "lora" low-rank adapters, "qlora" adapters on a network of 4-bit weights.
        parts: what is trained.
        epochs: passes over the data.
        max_steps: stop after so many steps of the optimiser, whatever `epochs` says.
        epoch_windows: windows in an epoch; default: as many as the folders have.
        published_label_mask: learn the published targets, see `WindowConfig`.
        auxiliary: weights of the auxiliary losses, vision and pose, on data recorded with their targets; see
            `AuxiliaryConfig`.
    """

    method: Literal["full", "lora", "qlora"] = "full"
    parts: tuple[Part, ...] = PARTS
    epochs: float = 1.0
    max_steps: int | None = None
    epoch_windows: int | None = None
    published_label_mask: bool = False
    auxiliary: tuple[float, float] | None = None
    batch: OmitArgPrefixes[BatchConfig] = field(default_factory=BatchConfig)
    optimiser: OmitArgPrefixes[OptimiserConfig] = field(default_factory=OptimiserConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    machine: OmitArgPrefixes[MachineConfig] = field(default_factory=MachineConfig)
    report: OmitArgPrefixes[ReportConfig] = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"parts must name some of {', '.join(PARTS)}, got {', '.join(self.parts) or 'none'}")
        if not self.epochs > 0.0:
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        for name in ("max_steps", "epoch_windows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.method == "full" and self.lora != LoraSettings():
            raise ValueError("lora settings are for the methods 'lora' and 'qlora', but method is 'full': set it too")
        if self.auxiliary and (self.method != "full" or self.published_label_mask):
            raise ValueError("auxiliary losses need method='full', and the package's own label mask")
        if self.auxiliary and not min(self.auxiliary) >= 0.0:
            raise ValueError(f"the weights of auxiliary losses must not be negative, got {self.auxiliary}")


@dataclass(frozen=True)
class TrainConfig(TrainRecipe):
    """Supervised training on trajectory folders.

    Attributes:
        data: trajectory folders (with annotations.json), each with its share of the windows if wanted: A=2 B=1.
            Without shares, every window is seen once an epoch.
        out: folder of this run: checkpoints, training.json, and at the end model/, which
            `StreamVLNAgent.from_pretrained` and --checkpoint load. Methods "lora" and "qlora" also leave adapter/, in
            peft's format, which these do not load (`adapters.merge_adapter` does), and with --lora.merge False only it.
        checkpoint: network to start from: a folder of this package, a published one, a hub id, or "streamvln-tiny",
            the trained one that ships in the package. Default: a small network with random weights.
        held_out: trajectory folders to evaluate the loss on.
        context: memory and window of the trained network.
        seed: of everything that is random.
        resume: go on from the last whole checkpoint in `out`, if there is one.
    """

    data: tuple[str, ...]
    out: Path
    checkpoint: str | None = None
    held_out: tuple[str, ...] = ()
    context: OmitArgPrefixes[ContextConfig] = field(default_factory=ContextConfig)
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError("data is empty: name at least one trajectory folder")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.method == "qlora" and self.checkpoint is None:
            raise ValueError("qlora quantises a trained network: name it with checkpoint")


@dataclass(frozen=True)
class EstimateConfig:
    """What a dry run assumes about the machine.

    Attributes:
        gpus: processes, one per GPU; default: what a launcher says, or 1.
        gpu_memory: of one card, GiB (24 for a card that is sold with 24 GB); default: that of the GPU found here.
    """

    gpus: int | None = None
    gpu_memory: float | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"gpus must be at least 1, got {self.gpus}")
        if self.gpu_memory is not None and not self.gpu_memory > 0.0:
            raise ValueError(f"gpu_memory must be positive, got {self.gpu_memory}")


# What may differ between a run and its continuation: it changes neither data order nor weights.
FREE_FIELDS = {"out", "resume", "batch.workers", "lora.merge", "machine.device"} | {
    f"report.{name}" for name in ("log_every", "save_every", "keep", "report_to", "quiet")
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration's fields by dotted name, as JSON values."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if hasattr(value, "__dataclass_fields__"):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    return flat
