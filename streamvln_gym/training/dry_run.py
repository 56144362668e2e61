"""`streamvln-gym train --dry-run`: looks at options and data, and says what training would need; nothing is written."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from streamvln_gym.agents.checkpoint import HUB_ID, find_folder
from streamvln_gym.errors import TrainingError
from streamvln_gym.models import conversion
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL, IMAGE_TOKEN_ID, StreamVLNConfig
from streamvln_gym.models.memory_strategies import make_strategy
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_FOLDER
from streamvln_gym.training.config import EstimateConfig, TrainConfig
from streamvln_gym.training.dataset import StreamVLNWindows
from streamvln_gym.training.dry_run_report import DryRun, WindowSize
from streamvln_gym.training.memory_estimate import GIB, Setup, count_parameters
from streamvln_gym.training.settings_files import read_settings
from streamvln_gym.training.sft import describe_run, earlier_run, load_data
from streamvln_gym.training.sft_trainer import whole_checkpoints
from streamvln_gym.training.start_checks import PACKAGES, check_recipe, read_processor
from streamvln_gym.training.trainer_arguments import build_arguments, check_disk

_LOOKED_AT = 500  # windows that are written as ids, evenly spread; about 0.8 ms each
_CHARACTERS_PER_TOKEN = 4.0  # English text under Qwen2's tokenizer, rather too few than too many


def dry_run(config: TrainConfig, machine: EstimateConfig | None = None) -> DryRun:
    """What `train(config)` would need on each GPU.

    Weights are not read, of each folder only the first windows are, and nothing is written.

    Raises:
        DatasetError: a trajectory folder is malformed, pictures are missing, or the first windows lack what they need.
        CheckpointError: the network to start from is missing or incomplete.
        TrainingError: settings contradict each other or an earlier run in the folder, or cannot be had here.
    """
    check_recipe(config)
    machine = machine or EstimateConfig()
    gpus = machine.gpus or int(os.environ.get("WORLD_SIZE", "1"))
    notes = _missing_packages(config)
    arguments = build_arguments(config)
    setup = training_setup(config, arguments, gpus)
    processor, stand_in = _read_network(config, notes)
    config.context.apply(processor.config)
    mixture, _ = load_data(config, processor)
    earlier_run(config, describe_run(config, mixture, gpus))
    network = processor.config
    counts = count_parameters(network, setup)
    try:
        trained = sum(count.trained for count in counts.values())
        check_disk(_existing(config.out), trained, config.report.keep, len(whole_checkpoints(config.out)))
    except TrainingError as error:  # training may be meant for another machine
        notes.append(f"training would not start here: {error}")
    sizes = [size for windows in mixture.windows for size in window_sizes(windows, stand_in)]
    if setup.sharded:
        each = sum(count.total for count in counts.values()) * setup.frozen_bytes
        notes.append(
            f"each of the {gpus} processes reads {each / GIB:.0f} GiB of weights into CPU memory before they are "
            "sharded"
        )
    if config.auxiliary:
        notes.append("the heads of the auxiliary losses are not counted")
    return DryRun(
        network=network,
        setup=setup,
        counts=counts,
        sizes=tuple(sizes),
        windows=len(mixture),
        batch_size=arguments.per_device_train_batch_size,
        accumulate=arguments.gradient_accumulation_steps,
        gpu_bytes=_card(machine.gpu_memory, notes),
        notes=tuple(notes),
    )


def training_setup(config: TrainConfig, arguments: Any, gpus: int) -> Setup:
    """What memory depends on, from this package's settings and those of transformers' Trainer.

    Args:
        config: the recipe.
        arguments: the `TrainingArguments` that it makes.
        gpus: number of processes.

    Raises:
        TrainingError: FSDP on one GPU, or DeepSpeed, which is not estimated.
    """
    if config.machine.deepspeed:
        raise TrainingError("the estimate knows --fsdp, not --deepspeed: ZeRO stage 3 takes about what FSDP2 takes")
    sharded = config.machine.fsdp is not None
    if sharded and gpus == 1:
        raise TrainingError("fsdp shards a network over GPUs: say over how many with --gpus")
    options = read_settings(config.machine.fsdp) if config.machine.fsdp else {}
    options = {name.removeprefix("fsdp_"): value for name, value in options.items()}
    checkpointing = any(
        getattr(arguments, name, False) for name in ("activation_checkpointing", "gradient_checkpointing")
    )
    full, bf16 = config.method == "full", bool(arguments.bf16)
    weights = config.machine.weights
    halves = weights == "bfloat16" or (weights == "auto" and bf16 and not full)
    # accelerate keeps what FSDP2 trains with mixed precision in float32; peft keeps adapters in it.
    trained = 2 if full and halves and not (sharded and bf16) else 4
    # peft makes float32 of everything beside weights of 4 bits.
    frozen = 2 if halves and config.method != "qlora" else 4
    compute = 2 if bf16 else trained if full else frozen
    return Setup(
        method=config.method,
        parts=config.parts,
        lora=config.lora,
        trained_bytes=trained,
        frozen_bytes=frozen,
        compute_bytes=compute,
        autocast=bf16,
        state_bytes=_state_bytes(str(getattr(arguments.optim, "value", arguments.optim)), trained),
        checkpointing=checkpointing or bool(options.get("activation_checkpointing")),
        eager=config.machine.attention == "eager",
        processes=gpus,
        sharded=sharded,
    )


def window_sizes(windows: StreamVLNWindows, stand_in: bool = False) -> list[WindowSize]:
    """Sizes of a folder's windows: of some that are evenly spread, and of one that has the most frames.

    Args:
        windows: the data.
        stand_in: its tokenizer is not the network's own: count characters instead.
    """
    config = windows.processor.config
    strategy = make_strategy(config.memory_strategy)
    stride = max(len(windows) // _LOOKED_AT, 1)
    history = windows.encoder.num_history
    fullest = max(range(len(windows)), key=lambda i: _frames(windows.windows[i], windows.encoder.chunk_size, history))
    sizes = []
    for index in sorted({*range(0, len(windows), stride), fullest}):
        _, _, encoded = windows.encode(index)
        text = [token for token in encoded.input_ids if token >= 0]
        written = len(text)
        if stand_in:
            written = round(len(windows.processor.tokenizer.decode(text)) / _CHARACTERS_PER_TOKEN)
        shown = encoded.input_ids.count(IMAGE_TOKEN_ID) * config.tokens_per_frame
        past = len(encoded.history_steps)
        memory = strategy.most_tokens(past, config.patches_per_side**2, config.tokens_per_frame)
        targets = sum(label != IGNORE_LABEL for label in encoded.labels)
        sizes.append(WindowSize(past + len(encoded.frame_steps), written + shown + memory, targets))
    return sizes


def _frames(window: Any, chunk_size: int, history: int) -> int:
    return min(history, window.start) + -(-(window.stop - window.start) // chunk_size)


def _read_network(config: TrainConfig, notes: list[str]) -> tuple[StreamVLNProcessor, bool]:
    """Configuration and tokenizer of the network to start from; whether the tokenizer is a stand-in."""
    if config.checkpoint is None:
        return read_processor(None), False
    folder = _cached(config.checkpoint) if _on_hub(config.checkpoint) else find_folder(config.checkpoint)
    if folder is None:
        notes.append(
            f"{config.checkpoint} is not on this machine and was not downloaded: the published sizes are assumed, and "
            "text is counted by its characters"
        )
        return StreamVLNProcessor(StreamVLNConfig.full_size(), load_tokenizer(SHIPPED_FOLDER)), True
    published = conversion.is_published(conversion.read_json(folder / "config.json"))
    processor = read_processor(folder)
    conversion.match_tensors(conversion.find_tensors(folder), processor.config, published)
    return processor, False


def _on_hub(checkpoint: str) -> bool:
    return HUB_ID.fullmatch(checkpoint) is not None and not Path(checkpoint).exists()


def _cached(name: str) -> Path | None:
    """A hub id's folder in the hub's own cache; None where it was never downloaded."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _state_bytes(optimiser: str, trained_bytes: int) -> float:
    """Of the optimiser per trained weight, by transformers' name of it."""
    optimiser = optimiser.removeprefix("paged_")  # such states may leave the card, but need not
    if "8bit" in optimiser:
        return 2.0
    if optimiser.startswith(("sgd", "adafactor")):
        return 0.0  # Adafactor keeps a row and a column of each matrix
    if optimiser.startswith("adamw"):
        return 2.0 * trained_bytes
    raise TrainingError(f"the estimate does not know the optimiser {optimiser!r}: it knows AdamW, SGD and Adafactor")


def _missing_packages(config: TrainConfig) -> list[str]:
    wanted = PACKAGES[config.method]
    return [f"install {name} before training" for name in wanted if importlib.util.find_spec(name) is None]


def _card(gpu_memory: float | None, notes: list[str]) -> float | None:
    """Bytes of one card; None where there is none and none was named."""
    if gpu_memory is not None:
        return gpu_memory * GIB
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    notes.append("no GPU was found here: name a card's memory with --gpu-memory to compare with it")
    return None


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in [folder, *folder.absolute().parents] if path.is_dir())
