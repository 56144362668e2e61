"""This package's settings as arguments of transformers' Trainer, whichever 5.x release is installed."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from streamvln_gym.errors import TrainingError
from streamvln_gym.training.adapters import require
from streamvln_gym.training.config import TrainConfig
from streamvln_gym.training.settings_files import read_settings
from streamvln_gym.training.start_checks import check_reporting

# Adam keeps two values per trained weight; with the weight itself, 12 bytes go into a checkpoint.
_BYTES_PER_TRAINED_WEIGHT = 12
# What is set by an option, which parameter groups, records and estimates go by.
_OPTIONS = {
    "output_dir": "--out",
    "seed": "--seed",
    "data_seed": "--seed",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "per_device_train_batch_size": "--batch-size",
    "gradient_accumulation_steps": "--accumulate",
    "dataloader_num_workers": "--workers",
    "learning_rate": "--learning-rate",
    "weight_decay": "--weight-decay",
    "adam_beta2": "--adam-beta2",
    "max_grad_norm": "--max-grad-norm",
    "warmup_steps": "--warmup",
    "warmup_ratio": "--warmup",
    "bf16": "--bf16",
    "use_cpu": "--device",
    "no_cuda": "--device",
    "gradient_checkpointing": "--gradient-checkpointing",
    "activation_checkpointing": "--gradient-checkpointing",
    "save_strategy": "--save-every",
    "save_steps": "--save-every",
    "save_total_limit": "--keep",
    "logging_steps": "--log-every",
    "eval_strategy": "--held-out and --eval-every",
    "eval_steps": "--eval-every",
    "disable_tqdm": "--quiet",
    "report_to": "--report-to",
    "fsdp": "--fsdp",
    "fsdp_config": "--fsdp",
    "deepspeed": "--deepspeed",
}
NO_SHARDS = (
    "fsdp and deepspeed shard a network over GPUs, one process each, which is not the case here: start with "
    "'accelerate launch --num_processes N -m streamvln_gym.cli train ...', or leave them out"
)


def trainer_arguments(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments`.

    Raises:
        TrainingError: a file that is named cannot be read, or something needed is not installed.
    """
    known = {item.name: str(item.type) for item in fields(TrainingArguments)}
    optimiser, batch, machine, report = config.optimiser, config.batch, config.machine, config.report
    check_reporting(report.report_to)
    by_steps = "steps" if report.save_every else "epoch"
    arguments: dict[str, Any] = {
        "output_dir": str(config.out),
        "seed": config.seed,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": batch.batch_size,
        "per_device_eval_batch_size": batch.batch_size,
        "gradient_accumulation_steps": batch.accumulate,
        "dataloader_num_workers": batch.workers,
        "dataloader_pin_memory": torch.cuda.is_available() and machine.device != "cpu",
        "learning_rate": optimiser.learning_rate,
        "weight_decay": optimiser.weight_decay,
        "adam_beta2": optimiser.adam_beta2,
        "max_grad_norm": optimiser.max_grad_norm,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": optimiser.min_rate},
        "warmup_steps": optimiser.warmup,
        "bf16": machine.bf16,
        "use_cpu": machine.device == "cpu" or not torch.cuda.is_available(),
        "save_strategy": by_steps,
        "save_steps": report.save_every or 500,
        "logging_steps": report.log_every,
        "logging_nan_inf_filter": False,
        "eval_strategy": ("steps" if report.eval_every else "epoch") if config.held_out else "no",
        "eval_steps": report.eval_every or None,
        "prediction_loss_only": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "disable_tqdm": report.quiet,
        "report_to": list(report.report_to) or "none",
        # Every trained weight takes part in every batch: a window has frames and answers, with memory or without.
        "ddp_find_unused_parameters": False,
    }
    if machine.gradient_checkpointing:
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        arguments |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    if machine.fsdp:
        values = read_settings(machine.fsdp)
        values = {name.removeprefix("fsdp_"): value for name, value in values.items()}
        # Earlier releases take a list of options, of which wrapping layer by layer has to be one.
        switch = "full_shard auto_wrap" if "list" in known["fsdp"] else True
        arguments |= {"fsdp": switch, "fsdp_config": {"version": 2, "reshard_after_forward": True, **values}}
    if machine.deepspeed:
        require("deepspeed", "--deepspeed")
        arguments["deepspeed"] = read_settings(machine.deepspeed)
    if machine.trainer_arguments:
        further = read_settings(machine.trainer_arguments)
        if unknown := sorted(set(further) - known.keys()):
            raise TrainingError(
                f"{machine.trainer_arguments} names {', '.join(unknown)}, which this release of transformers' "
                "TrainingArguments does not have"
            )
        if taken := [f"{name} ({_OPTIONS[name]})" for name in further if name in _OPTIONS]:
            raise TrainingError(
                f"{machine.trainer_arguments} names what has an option of its own: {', '.join(taken)}. Use that, and "
                "leave it out of the file"
            )
        arguments |= further
    return arguments


def make_arguments(config: TrainConfig) -> TrainingArguments:
    """`trainer_arguments` as `TrainingArguments`; starts torch.distributed where a launcher asks for it.

    Raises:
        TrainingError: the arguments contradict each other or this machine, or one process sees several GPUs.
    """
    on_gpu = config.machine.device == "auto" and torch.cuda.is_available()
    if config.machine.bf16 and on_gpu and not torch.cuda.is_bf16_supported():
        raise TrainingError("this GPU has no bfloat16: leave out bf16")
    arguments = build_arguments(config)
    if arguments.n_gpu > 1:
        raise TrainingError(
            f"one process sees {arguments.n_gpu} GPUs: start one process per GPU with 'accelerate launch -m "
            "streamvln_gym.cli train ...', or choose one with CUDA_VISIBLE_DEVICES=0"
        )
    if config.machine.fsdp and arguments.world_size == 1:
        raise TrainingError(NO_SHARDS)
    return arguments


def build_arguments(config: TrainConfig) -> TrainingArguments:
    """`trainer_arguments` as `TrainingArguments`, whether this machine can run them or not.

    Raises:
        TrainingError: the arguments contradict each other, or something needed is not installed.
    """
    require("accelerate", "training")
    try:
        return TrainingArguments(**trainer_arguments(config))
    except (ValueError, ImportError, RuntimeError) as error:
        raise TrainingError(f"transformers' Trainer refuses these settings: {error}") from error


def check_disk(folder: Path, trained: int, keep: int, present: int = 0) -> None:
    """Refuses to start a run whose checkpoints cannot be kept.

    Args:
        folder: of the run.
        trained: number of trained weights.
        keep: checkpoints that are kept.
        present: whole checkpoints that the folder has.

    Raises:
        TrainingError: there is less space than one checkpoint more than are kept takes.
    """
    needed = trained * _BYTES_PER_TRAINED_WEIGHT * (keep + 1 - min(present, keep))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"{folder} has {free / 1e9:.1f} GB free, but {keep} checkpoints and the one being written take about "
            f"{needed / 1e9:.1f} GB{' more' if present else ''}: free space, choose another folder, or keep fewer"
        )
