"""Episodes of the frame buffer as training windows of fixed shapes, gathered on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.dialogue import CONJUNCTIONS
from streamvln_gym.training.online.layout import DialogueLayout, Windows
from streamvln_gym.training.online.mirroring import mirror_actions
from streamvln_gym.training.online.replay import FrameBuffer

STOP = 0
_ALIGNMENT = 32  # of row lengths
_QUANTILES = (0.25, 0.5, 0.75)
_SPREAD = 2.0  # standard deviations (of a Poisson count) of spare rows, so that few batches have to be cut short


@dataclass(frozen=True)
class Bucket:
    """Room for `rows` windows of at most `length` embeddings."""

    rows: int
    length: int


@dataclass
class WindowRows:
    """The windows in one bucket; rows that are not used learn nothing.

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


@dataclass
class BatchFrames:
    """The frames of a batch.

    Attributes:
        places: (frames,) int64 ring positions.
        mirrored: (frames,) bool.
        counted: (frames,) float, 1 for frames and 0 for padding.
    """

    places: Tensor
    mirrored: Tensor
    counted: Tensor


@dataclass(frozen=True)
class BatchPlan:
    """The shapes of a training's batches, always the same, so that the device can run them from a recorded graph.

    A batch travels as one vector of integers: the ring positions of its frames (counted from the buffer's capacity on
    where a frame is shown mirrored), then per bucket the windows' current and memory frames, conjunctions, instruction
    rows, and the lengths of those instructions and of their mirror images.

    Attributes:
        frames: of a batch at most.
        buckets: in order of length; the last takes any window.
        turns: of a window.
        num_history: frames of its memory.
        mirrored: share of the episodes that are shown mirrored.
        reflected: whether batches are also gathered in the mirror, see `gather`.
    """

    frames: int
    buckets: tuple[Bucket, ...]
    turns: int
    num_history: int
    mirrored: float = 0.0
    reflected: bool = False

    @classmethod
    def for_buffer(
        cls,
        buffer: FrameBuffer,
        layout: DialogueLayout,
        drawn: NDArray[np.int64],
        frames: int,
        longest: int,
        mirrored: float = 0.0,
        reflected: bool = False,
    ) -> BatchPlan:
        """Buckets that suit the episodes that are drawn.

        Args:
            buffer: holds them.
            layout: of the dialogue.
            drawn: rows of the buffer's table, some hundreds as batches draw them.
            frames: of a batch at most.
            longest: tokens of an instruction at most.
            mirrored: share of the episodes that will be shown mirrored.
            reflected: whether batches are also gathered in the mirror.
        """
        lengths = _window_lengths(buffer, layout, drawn, drawn)[-1]
        edges = [int(np.quantile(lengths, share)) for share in _QUANTILES]
        full, with_memory = torch.tensor([layout.turns]), torch.tensor([layout.num_history > 0])
        edges.append(int(layout.lengths(torch.tensor([longest]), with_memory, full)[0]))
        edges = sorted({-(-edge // _ALIGNMENT) * _ALIGNMENT for edge in edges})
        counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
        expected = counts * frames / int(buffer.turns_of(drawn).sum())
        # torch.compile makes a variant of its own for one row.
        rows = [max(int(count + _SPREAD * count**0.5) + 1, 2) for count in expected]
        buckets = tuple(Bucket(count, edge) for count, edge in zip(rows, edges, strict=True))
        return cls(frames, buckets, layout.turns, layout.num_history, mirrored, reflected)

    @cached_property
    def _row_size(self) -> int:
        return 2 * self.turns + self.num_history + 3

    @property
    def size(self) -> int:
        """Integers of a batch."""
        return 1 + self.frames + sum(bucket.rows for bucket in self.buckets) * self._row_size

    def fill(
        self, episodes: NDArray[np.int64], buffer: FrameBuffer, layout: DialogueLayout, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Packs episodes, in order, as many as fit.

        Args:
            episodes: rows of the buffer's table.
            buffer: holds them.
            layout: of the dialogue.
            rng: draws the conjunctions, and which episodes are shown mirrored.

        Returns:
            (size,) int64.
        """
        mirrored = np.zeros(len(episodes), dtype=np.int64)
        if self.mirrored > 0.0:
            mirrored[(rng.random(len(episodes)) < self.mirrored) & ~buffer.exact[episodes]] = 1
        instructions = episodes + mirrored * buffer.rows
        episode, number, turns, lengths = _window_lengths(buffer, layout, episodes, instructions)
        images = (instructions + buffer.rows) % (2 * buffer.rows)
        if self.reflected:
            lengths = np.maximum(lengths, _window_lengths(buffer, layout, episodes, images)[-1])
        bucket = np.searchsorted([b.length for b in self.buckets], lengths)
        places = np.zeros(len(episode), dtype=np.int64)
        fits = np.ones(len(episode), dtype=bool)
        for k, room in enumerate(self.buckets):
            inside = bucket == k
            places[inside] = np.arange(int(inside.sum()))
            fits[inside] = places[inside] < room.rows
        ends = np.cumsum(buffer.turns_of(episodes))
        kept = int(np.searchsorted(ends, self.frames, side="right"))
        if not fits.all():
            kept = min(kept, int(episode[~fits][0]))
        if kept == 0 and len(episodes) > 1:  # the first alone is too much
            return self.fill(episodes[1:], buffer, layout, rng)
        packed = np.zeros(self.size, dtype=np.int64)
        frames = buffer.frames_of(episodes[:kept])
        in_mirror = np.repeat(mirrored[:kept], buffer.turns_of(episodes[:kept]))
        packed[0], packed[1 : 1 + len(frames)] = len(frames), frames + in_mirror * buffer.capacity
        offsets = np.concatenate([[0], ends])
        chosen = episode < kept
        current, memory = _frames_of_windows(offsets[episode], number, turns, layout)
        begin = 1 + self.frames
        for k, room in enumerate(self.buckets):
            table = packed[begin : begin + room.rows * self._row_size].reshape(room.rows, self._row_size)
            begin += table.size
            table[:, : self.turns + self.num_history] = -1
            table[:, -2:] = 1
            table[:, -3 - self.turns : -3] = rng.integers(len(CONJUNCTIONS), size=(room.rows, self.turns))
            mine = np.flatnonzero(chosen & (bucket == k))
            rows = places[mine]
            table[rows, : self.turns] = current[mine]
            table[rows, self.turns : self.turns + self.num_history] = memory[mine]
            as_shown = mine[buffer.exact[episodes[episode[mine]]]]
            seen = frames[current[as_shown].clip(min=0)]
            table[places[as_shown], -3 - self.turns : -3] = buffer.conjunctions[seen]
            for column, read in ((-2, instructions), (-1, images)):
                table[rows, column] = buffer.instruction_lengths[read[episode[mine]]]
            table[rows, -3] = instructions[episode[mine]]
        return packed

    def gather(
        self, packed: Tensor, buffer: FrameBuffer, layout: DialogueLayout, reflected: bool = False
    ) -> tuple[BatchFrames, list[WindowRows]]:
        """What `fill` packed, on the device: shapes do not depend on the values.

        Args:
            packed: by `fill`.
            buffer: as then.
            layout: of the dialogue.
            reflected: the mirror image of everything, for which the plan was made; the buffer holds the mirror images
                of all instructions.

        Returns:
            Frames, and windows by bucket.
        """
        packed_places = packed[1 : 1 + self.frames]
        mirrored, places = (packed_places >= buffer.capacity) ^ reflected, packed_places % buffer.capacity
        counted = (torch.arange(self.frames, device=packed.device) < packed[0]).float()
        rows, begin = [], 1 + self.frames
        for room in self.buckets:
            table = packed[begin : begin + room.rows * self._row_size].view(room.rows, self._row_size)
            begin += table.numel()
            sizes = [self.turns, self.num_history, self.turns, 1, 1, 1]
            now, past, conjunctions, instruction, lengths, image_lengths = table.split(sizes, dim=1)
            if reflected:
                instruction, lengths = (instruction + buffer.rows) % (2 * buffer.rows), image_lengths
            absent = (now < 0)[..., None]
            shown = now.clamp(min=0)
            ring, in_mirror = places[shown], mirrored[shown][..., None]
            executed = mirror_actions(buffer.executed[ring].long(), in_mirror).masked_fill(absent, -1)
            actions = mirror_actions(buffer.labels[ring].long(), in_mirror).masked_fill(absent, -1)
            with_memory = (past >= 0).any(1)
            ids = buffer.instruction_ids[instruction[:, 0]]
            windows = Windows(ids, lengths[:, 0], with_memory, executed, conjunctions)
            labels, stops = answer_labels(executed, actions, layout)
            rows.append(WindowRows(windows, room.length, torch.cat([past, now], 1).clamp(min=0), labels, stops, now))
        return BatchFrames(places, mirrored, counted), rows


def memory_turns(last: int, window_steps: int, layout: DialogueLayout) -> NDArray[np.int64]:
    """Per window 0 ... `last` the turns whose frames its memory shows; a step between two calls shows the earlier."""
    shown = np.zeros((last + 1, layout.num_history), dtype=np.int64)
    for number in range(1, last + 1):
        steps = history_steps(number * window_steps, layout.num_history)
        shown[number] = np.array(steps) // layout.chunk_size
    return shown


def answer_labels(executed: Tensor, labels: Tensor, layout: DialogueLayout) -> tuple[Tensor, Tensor]:
    """Target ids of answers whose actions were executed although others may have been right.

    Args:
        executed: (..., chunk) actions, -1 where none was executed.
        labels: (..., chunk) the expert's, -1 where there is none.
        layout: gives the ids.

    Returns:
        (..., chunk + 1) ids, -100 where nothing is learned: the expert's actions up to the first that was not executed,
        and, where there are any, the end of the turn after a whole chunk or a STOP; and (..., chunk + 1) whether the
        target is STOP.

    What the expert would do after another's action is not learned within an answer: the network sees no picture in
    between, so that being unsure of the side to turn to, it would learn to take back each turn at once.
    """
    followed = (executed == labels).cumprod(-1).bool()
    followed = torch.nn.functional.pad(followed[..., :-1], (1, 0), value=True)
    learned = (labels >= 0) & followed
    ids = torch.where(learned, layout.action_ids[labels.clamp(min=0)], IGNORE_LABEL)
    ids = torch.nn.functional.pad(ids, (0, 1), value=IGNORE_LABEL)
    stopped = torch.nn.functional.pad(executed == STOP, (1, 0))
    whole = (executed > STOP).all(-1, keepdim=True)
    taught = (labels >= 0).any(-1, keepdim=True)  # a turn that nobody labelled teaches no end either
    ended = torch.cat([stopped[..., :-1], stopped[..., -1:] | whole], -1) & taught
    ids = torch.where(ended, layout.end_id, ids)
    stops = torch.nn.functional.pad((labels == STOP) & learned, (0, 1)) & ~stopped
    return ids, stops


def _window_lengths(
    buffer: FrameBuffer, layout: DialogueLayout, episodes: NDArray[np.int64], instructions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """Cuts episodes into windows: index of the episode, number in it, turns, and embeddings of each, (windows,)."""
    turns = buffer.turns_of(episodes)
    counts = -(-turns // layout.turns)
    episode = np.repeat(np.arange(len(episodes)), counts)
    number = np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts)
    inside = np.minimum(turns[episode] - number * layout.turns, layout.turns)
    words = buffer.instruction_lengths[instructions][episode]
    with_memory = (number > 0) & (layout.num_history > 0)
    lengths = layout.lengths(torch.from_numpy(words), torch.from_numpy(with_memory), torch.from_numpy(inside))
    return episode, number, inside, lengths.numpy()


def _frames_of_windows(
    offsets: NDArray[np.int64], number: NDArray[np.int64], turns: NDArray[np.int64], layout: DialogueLayout
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Current (windows, turns) and memory (windows, num_history) frames of the batch, -1 where there is none."""
    steps = np.arange(layout.turns)
    current = (offsets + number * layout.turns)[:, None] + steps
    current[steps >= turns[:, None]] = -1
    memory = np.full((len(number), layout.num_history), -1, dtype=np.int64)
    if layout.num_history and len(number):
        shown = memory_turns(int(number.max()), layout.turns * layout.chunk_size, layout)
        later = number > 0
        memory[later] = offsets[later][:, None] + shown[number[later]]
    return current, memory
