"""Episodes of the frame buffer as training windows, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.dialogue import CONJUNCTIONS
from streamvln_gym.training.online.layout import DialogueLayout, Windows
from streamvln_gym.training.online.replay import EpisodeBatch, FrameBuffer

STOP = 0
_ALIGNMENT = 32  # of row lengths, so that there are few of them


@dataclass
class WindowRows:
    """Windows of similar length.

    Attributes:
        windows: what they hold.
        length: embeddings per row.
        frames: (rows, num_history + turns) int64, which frames of the batch they show; 0 where there is none.
        labels: (rows, turns, chunk + 1) int64 token ids, -100 where nothing is learned.
        stops: (rows, turns, chunk + 1) bool, the label is STOP.
        current: (rows, turns) int64 frames of the batch, -1 where the window is over.
    """

    windows: Windows
    length: int
    frames: Tensor
    labels: Tensor
    stops: Tensor
    current: Tensor


def cut_windows(offsets: NDArray[np.int64], layout: DialogueLayout) -> tuple[NDArray[np.int64], ...]:
    """Cuts episodes into windows.

    Args:
        offsets: see `EpisodeBatch`.
        layout: gives turns and history.

    Returns:
        episode (windows,), turns (windows,), current (windows, turns) and memory (windows, num_history) frames of the
        batch, -1 where there is none.
    """
    lengths = np.diff(offsets)
    windows = -(-lengths // layout.turns)
    episode = np.repeat(np.arange(len(lengths)), windows)
    number = np.arange(len(episode)) - np.repeat(np.cumsum(windows) - windows, windows)
    first = number * layout.turns
    steps = first[:, None] + np.arange(layout.turns)
    inside = steps < lengths[episode][:, None]
    current = np.where(inside, offsets[episode][:, None] + steps, -1)
    memory = np.full((len(episode), max(layout.num_history, 1)), -1, dtype=np.int64)
    if layout.num_history:
        window_steps = layout.turns * layout.chunk_size
        shown = memory_turns(int(number.max(initial=0)), window_steps, layout)
        later = number > 0
        memory[later] = offsets[episode[later]][:, None] + shown[number[later]]
    return episode, inside.sum(1), current, memory[:, : layout.num_history]


def memory_turns(last: int, window_steps: int, layout: DialogueLayout) -> NDArray[np.int64]:
    """Per window 0 ... `last` the turns whose frames its memory shows; a step between two calls shows the earlier."""
    shown = np.zeros((last + 1, layout.num_history), dtype=np.int64)
    for number in range(1, last + 1):
        steps = history_steps(number * window_steps, layout.num_history)
        shown[number] = np.array(steps) // layout.chunk_size
    return shown


def make_rows(
    batch: EpisodeBatch, buffer: FrameBuffer, layout: DialogueLayout, groups: int, generator: torch.Generator
) -> list[WindowRows]:
    """The windows of a batch in `groups` groups of similar length, conjunctions drawn anew."""
    episode, turns, current, memory = cut_windows(batch.offsets, layout)
    instruction = batch.instructions[episode]
    lengths = layout.lengths(
        torch.from_numpy(buffer.instruction_lengths[instruction]),
        torch.from_numpy(memory[:, :1].max(1, initial=-1) >= 0),
        torch.from_numpy(turns),
    ).numpy()
    order = np.argsort(lengths, kind="stable")
    rows = []
    for part in np.array_split(order, min(groups, len(order))):
        length = -(-int(lengths[part].max()) // _ALIGNMENT) * _ALIGNMENT
        ids = torch.from_numpy(instruction[part]).to(buffer.device)
        ids_lengths = torch.from_numpy(buffer.instruction_lengths[instruction[part]]).to(buffer.device)
        now, past = (torch.from_numpy(frames[part]).to(buffer.device) for frames in (current, memory))
        ring = torch.from_numpy(batch.frames).to(buffer.device)[now.clamp(min=0)]
        executed = buffer.executed[ring].long().masked_fill((now < 0)[..., None], -1)
        actions = buffer.labels[ring].long().masked_fill((now < 0)[..., None], -1)
        drawn = torch.randint(len(CONJUNCTIONS), now.shape, generator=generator, device=buffer.device)
        windows = Windows(buffer.instruction_ids[ids], ids_lengths, (past >= 0).any(1), executed, drawn)
        labels, stops = answer_labels(executed, actions, layout)
        rows.append(WindowRows(windows, length, torch.cat([past, now], 1).clamp(min=0), labels, stops, now))
    return rows


def answer_labels(executed: Tensor, labels: Tensor, layout: DialogueLayout) -> tuple[Tensor, Tensor]:
    """Target ids of answers whose actions were executed although others may have been right.

    Args:
        executed: (..., chunk) actions, -1 where none was executed.
        labels: (..., chunk) the expert's, -1 where there is none.
        layout: gives the ids.

    Returns:
        (..., chunk + 1) ids, -100 where nothing is learned: the expert's actions, and the end of the turn after a
        whole chunk or a STOP; and (..., chunk + 1) whether the target is STOP.
    """
    ids = torch.where(labels >= 0, layout.action_ids[labels.clamp(min=0)], IGNORE_LABEL)
    ids = torch.nn.functional.pad(ids, (0, 1), value=IGNORE_LABEL)
    stopped = torch.nn.functional.pad(executed == STOP, (1, 0))
    whole = torch.zeros_like(stopped)
    whole[..., -1] = (executed > STOP).all(-1)
    ids = torch.where(stopped | whole, layout.end_id, ids)
    stops = torch.nn.functional.pad(labels == STOP, (0, 1)) & ~stopped
    return ids, stops
