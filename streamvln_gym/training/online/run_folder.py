"""The folder of an online training: its options, the state to go on from, the log and the checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from streamvln_gym import __version__
from streamvln_gym.errors import TrainingError
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.folder_lock import make_for_training
from streamvln_gym.training.online.config import OnlineConfig
from streamvln_gym.whole_writes import recover, whole_file, whole_folder

STATE, LOG, OPTIONS, CHECKPOINT = "state.pt", "log.jsonl", "config.json", "checkpoint"
# What may change between two calls of a training: how long, how fast, and how the environments are driven.
_FREE = {"updates", "decay", "updates_per_turn", "buffer_frames", "compile", "record"}


class RunFolder:
    """Reads and writes `config.out`; every file appears whole or not at all.

    Args:
        config: of the training.
        writes: whether this process writes (one of a distributed training does).
    """

    def __init__(self, config: OnlineConfig, writes: bool) -> None:
        self.config = config
        self.path = config.out
        self._writes = writes

    def alone(self) -> AbstractContextManager[None]:
        """Makes the folder, and keeps other processes out of it.

        Raises:
            TrainingError: the folder cannot be made.
            DatasetError: another process trains in it.
        """
        return make_for_training(self.path) if self._writes else nullcontext()

    def open(self) -> None:
        """Removes what a killed call has left behind and notes the options; call `alone` before.

        Raises:
            TrainingError: the folder cannot be written, or has a checkpoint that no such training wrote.
        """
        if not self._writes:
            return
        target = self.path / CHECKPOINT
        if target.exists() and not (self.path / OPTIONS).exists():
            raise TrainingError(
                f"{target} is there, but no {self.path / OPTIONS} that says of which training: give another folder "
                "with --out"
            )
        recover(target)
        text = json.dumps(asdict(self.config), indent=2, default=str) + "\n"
        self._write(OPTIONS, lambda path: path.write_text(text, encoding="utf-8"))

    def read_state(self) -> dict[str, Any] | None:
        """The state that an earlier call left, on the CPU; None if there is none.

        Raises:
            TrainingError: it cannot be read, or is another training's.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            mine, theirs = recipe(self.config), state["recipe"]
        except Exception as error:  # torch and pickle raise many kinds
            raise TrainingError(f"{path} cannot be read: {error!r}. Remove it to begin anew") from error
        if different := sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)):
            changes = "; ".join(f"{key}: {theirs.get(key)!r} there, {mine.get(key)!r} now" for key in different)
            raise TrainingError(f"{path} is from another training ({changes}): use the same options, or another --out")
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Replaces the state.

        Args:
            state: what `read_state` shall return, less the recipe.
        """
        if self._writes:
            self._write(STATE, lambda path: torch.save({**state, "recipe": recipe(self.config)}, path))

    def write_checkpoint(self, model: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor) -> None:
        """Replaces the checkpoint that `StreamVLNAgent.from_pretrained` loads, weights in bfloat16."""
        if not self._writes:
            return
        saved = copy.deepcopy(model)
        saved.to(dtype=torch.bfloat16)  # type: ignore[call-arg]  # transformers hides the signature
        saved.config.trained = True
        target = self.path / CHECKPOINT
        logging.disable_progress_bar()
        try:
            with whole_folder(target) as folder:
                saved.save_pretrained(str(folder))
                processor.save_pretrained(folder)
        except OSError as error:
            raise TrainingError(f"{target} cannot be written: {error}; {STATE} is kept") from error
        finally:
            logging.enable_progress_bar()

    def write_log(self, records: Sequence[dict[str, Any]]) -> None:
        """Replaces the log; what a call that was killed noted after its last saved state is forgotten."""
        if self._writes:
            text = "".join(json.dumps(record) + "\n" for record in records)
            self._write(LOG, lambda path: path.write_text(text, encoding="utf-8"))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        path = self.path / name
        try:
            with whole_file(path) as partial:
                write(partial)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            raise TrainingError(f"{path} cannot be written: {error}; what was there is kept") from error


def recipe(config: OnlineConfig) -> dict[str, Any]:
    """What must not change when a training goes on."""
    values = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        "split": config.split,
        "scenes": config.scenes,
        "held_out": config.held_out,
        **asdict(config.context),
        "seed": config.seed,
        **{f"optimize.{key}": value for key, value in asdict(config.optimize).items() if key not in _FREE},
        **{f"auxiliary.{key}": value for key, value in asdict(config.auxiliary).items()},
    }
    if config.reinforce.wanted:
        values |= {f"reinforce.{key}": value for key, value in asdict(config.reinforce).items()}
    if config.teach.wanted:
        values |= {f"teach.{key}": value for key, value in asdict(config.teach).items()}
    return {**values, "version": __version__}
