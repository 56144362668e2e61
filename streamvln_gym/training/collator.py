"""Samples to batches: right padding of ids and labels, frames of all samples in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL

# One row per history frame, for memories that depend on geometry; which tokens remain is the model's business.
PER_HISTORY_FRAME = ("memory_steps", "memory_points")


class StreamVLNCollator:
    """Makes the arguments of `StreamVLNForConditionalGeneration.forward` from samples of `StreamVLNWindows`.

    The attention mask comes from the samples' lengths, so it is right also where the padding id is a token in use.
    Samples with and without memory, and memories of different lengths, go into one batch: frames are not padded.

    Args:
        pad_token_id: fills `input_ids`; any valid id will do.
    """

    def __init__(self, pad_token_id: int = 0) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Pads and joins.

        Args:
            samples: `input_ids`, `labels` (length,); `pixel_values` (frames, 3, size, size), history first;
                `memory_frames` int. Optionally, one row per history frame: `memory_steps` (history,) int64 and
                `memory_points` (history, tokens_per_frame, 3) float32 metres; a sample without history may lack them.

        Returns:
            `input_ids`, `attention_mask`, `labels` (batch, longest); `pixel_values` (all_frames, 3, size, size),
            sample after sample; `memory_frames` (batch,); and those optional entries that samples have, joined.

        Raises:
            ValueError: there are no samples, or one is inconsistent.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample")
        for index, sample in enumerate(samples):
            _check(index, sample)
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": pad_sequence(ids, True, self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True),
            "labels": pad_sequence([sample["labels"] for sample in samples], True, IGNORE_LABEL),
            "pixel_values": torch.cat([sample["pixel_values"] for sample in samples]),
            "memory_frames": torch.tensor([int(sample["memory_frames"]) for sample in samples]),
        }
        with_history = [(index, sample) for index, sample in enumerate(samples) if int(sample["memory_frames"])]
        for name in PER_HISTORY_FRAME:
            rows = [sample[name] for _, sample in with_history if name in sample]
            if rows and len(rows) < len(with_history):
                lacking = next(index for index, sample in with_history if name not in sample)
                raise ValueError(f"sample {lacking} has a memory but lacks {name!r}, which others of the batch have")
            if rows:
                batch[name] = torch.cat(rows)
        return batch


def _check(index: int, sample: dict[str, Any]) -> None:
    ids, labels, history = sample["input_ids"], sample["labels"], int(sample["memory_frames"])
    if ids.shape != labels.shape:
        raise ValueError(f"sample {index} has {tuple(ids.shape)} input_ids but {tuple(labels.shape)} labels")
    frames = len(sample["pixel_values"])
    if not 0 <= history <= frames:
        raise ValueError(f"sample {index} has {frames} frames, of which memory_frames claims {history} for the memory")
    for name in PER_HISTORY_FRAME:
        if name in sample and len(sample[name]) != history:
            raise ValueError(f"sample {index} has {len(sample[name])} rows of {name!r} for {history} history frames")
