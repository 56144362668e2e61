"""transformers' Trainer with this package's data order, parameter groups, and care about what is saved."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback

from streamvln_gym.errors import TrainingError
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.auxiliary_loss import TARGETS as AUXILIARY_TARGETS
from streamvln_gym.training.collator import StreamVLNCollator
from streamvln_gym.training.config import OptimiserConfig
from streamvln_gym.training.mixture import EpochSampler
from streamvln_gym.training.optimizer_groups import optimizer_groups

CHECKPOINT_PREFIX = "checkpoint-"
WHOLE = "whole"
"""A file of this name says that everything in a checkpoint's folder was written."""


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a run's folder that were written to the end, oldest first."""
    found = [path.parent for path in folder.glob(f"{CHECKPOINT_PREFIX}*/{WHOLE}")]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT_PREFIX)))


class WindowBatches:
    """`StreamVLNCollator`, with the windows' numbers as `window` (batch,) and the targets of auxiliary losses."""

    def __init__(self) -> None:
        self.collator = StreamVLNCollator()

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.collator(samples)
        if "window" in samples[0]:
            batch["window"] = torch.tensor([sample["window"] for sample in samples])
        for name in AUXILIARY_TARGETS:
            if name in samples[0]:
                batch[name] = torch.cat([sample[name] for sample in samples])
        return batch


class SupervisedTrainer(Trainer):
    """Trainer for windows of trajectories.

    Args:
        epochs: gives each epoch's order; the sampler of the training set.
        optimiser: rates and weight decay.
        keep: checkpoints that are kept.
        processor: its tokenizer is saved with every checkpoint.
        **settings: Trainer's own.
    """

    def __init__(
        self,
        *,
        epochs: EpochSampler,
        optimiser: OptimiserConfig,
        keep: int,
        processor: StreamVLNProcessor,
        **settings: Any,
    ) -> None:
        super().__init__(train_dataset=epochs.mixture, data_collator=WindowBatches(), **settings)
        self._epochs = epochs
        self._optimiser = optimiser
        self.add_callback(_Epochs(epochs))
        self.add_callback(_Checkpoints(keep, processor))

    @property
    def _network(self) -> nn.Module:
        return cast(nn.Module, self.model)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, with the order of `EpochSampler`."""
        arguments = self.args
        loader = DataLoader(
            self._epochs.mixture,
            batch_size=self._train_batch_size,
            sampler=self._epochs,
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            persistent_workers=arguments.dataloader_num_workers > 0,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW (or `optim`'s other choice) on `optimizer_groups`."""
        if self.optimizer is None:
            trained = self._network if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, cast(PreTrainedModel, trained))
            self.optimizer = kind(optimizer_groups(trained, self._optimiser), **settings)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The network's own loss; training stops where it is no number.

        Raises:
            TrainingError: the loss is infinite or NaN.
        """
        windows = inputs.pop("window", None)
        result = super().compute_loss(model, {**inputs, "use_cache": False}, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not bool(torch.isfinite(loss)):
            self._stop(f"the loss is {loss.item()}", windows)
        return result

    def _stop(self, what: str, windows: Tensor | None = None) -> None:
        mixture = self._epochs.mixture
        batch = [] if windows is None or not self._network.training else [mixture.describe(int(row)) for row in windows]
        saved = whole_checkpoints(self._folder)
        raise TrainingError(
            f"{what} at step {self.state.global_step + 1}, {'batch: ' + '; '.join(batch) if batch else 'evaluation'}. "
            f"{_kept(saved)} Lower the learning rate, raise the warm-up, or look at these windows"
        )

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if not _all_finite(self._network):
            saved = whole_checkpoints(self._folder)
            raise TrainingError(
                f"weights are infinite or NaN after step {self.state.global_step}, so they are not saved. "
                f"{_kept(saved)} Lower the learning rate or raise the warm-up"
            )
        try:
            super()._save_checkpoint(*args, **kwargs)
        except Exception as error:  # OSError, and what torch and safetensors make of a full disk
            if not is_write_error(error):
                raise
            saved = whole_checkpoints(self._folder)
            raise TrainingError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {self._folder}: "
                f"{error}. {_kept(saved)} Free disk space or choose another folder, then go on with resume"
            ) from error


class _Epochs(TrainerCallback):
    """Tells sampler and windows which epoch it is; on its own account, as releases of accelerate differ in this."""

    def __init__(self, epochs: EpochSampler) -> None:
        self.epochs = epochs

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs.start_epoch(int(state.epoch or 0))


class _Checkpoints(TrainerCallback):
    """Completes checkpoints, marks them as whole, and removes old ones, in this order."""

    def __init__(self, keep: int, processor: StreamVLNProcessor) -> None:
        self.keep = keep
        self.processor = processor

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other processes' shards and random states
        if not state.is_world_process_zero:
            return
        root = Path(args.output_dir)
        folder = root / f"{CHECKPOINT_PREFIX}{state.global_step}"
        self.processor.save_pretrained(folder)
        (folder / WHOLE).touch()
        sync_folder(folder)
        for old in whole_checkpoints(root)[: -self.keep]:
            (old / WHOLE).unlink()
            shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's files are on the disk, so that a power cut cannot leave a marker without its data."""
    for path in [*folder.rglob("*"), folder]:
        if os.name == "posix" or path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _kept(saved: list[Path]) -> str:
    return f"{saved[-1]} is kept." if saved else "No checkpoint had been saved yet."


def is_write_error(error: Exception) -> bool:
    """Whether writing weights failed: an OSError, or what safetensors and torch make of one."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "OSError" in kinds or "SafetensorError" in kinds or "PytorchStreamWriter" in str(error)


def _all_finite(model: nn.Module) -> bool:
    """Whether this process's share of the trained weights holds numbers only."""
    with torch.no_grad():
        for parameter in model.parameters():
            local = getattr(parameter, "to_local", lambda parameter=parameter: parameter)()
            if parameter.requires_grad and not bool(torch.isfinite(local).all()):
                return False
    return True
