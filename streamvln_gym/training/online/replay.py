"""The frame buffer of online DAgger: a ring of frames on the training device, and the episodes they belong to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.training.online.pictures import Pictures
from streamvln_gym.training.online.stream_arrays import StreamArrays

_SEEN = ("rgb", "patch_class", "patch_depth")
_KNOWN = ("pose", "rooms")


class FrameBuffer:
    """Frames, what was done and what should have been done after each, and finished episodes.

    Args:
        frames: frames that fit; the oldest are overwritten.
        arrays: of the workers, for shapes.
        max_turns: frames of an episode at most.
        instruction_length: longest instruction, tokens.
        device: where the frames lie.

    Attributes:
        written: frames taken in since the beginning.
        episodes: episodes finished since the beginning.
        rgb, patch_class, patch_depth, pose, rooms: (frames, ...) as in `StreamArrays`.
        executed, labels: (frames, chunk) int8.
        rows: episodes that fit.
        exact: bool (rows,), the episode has to be shown as it was: with its conjunctions, and not mirrored.
        conjunctions: (frames,) int64, index of `CONJUNCTIONS` that was shown with a frame, on the CPU.
        row_of, place_of: (streams,) each stream's episode row, and ring position of its last frame; -1 for none.
        instruction_ids: (2 rows, longest) int64; instruction_lengths: (2 rows,), on the CPU. The mirrored instruction
            of the episode in row r is in row `rows` + r.
    """

    rgb: Tensor
    patch_class: Tensor
    patch_depth: Tensor
    pose: Tensor
    rooms: Tensor

    def __init__(
        self, frames: int, arrays: StreamArrays, max_turns: int, instruction_length: int, device: torch.device
    ) -> None:
        self.capacity = frames
        self.device = device
        streams, chunk = arrays.executed.shape
        for name in (*_SEEN, *_KNOWN):
            field = getattr(arrays, name)
            kind = torch.from_numpy(np.empty(0, field.dtype)).dtype
            setattr(self, name, torch.zeros((frames, *field.shape[1:]), dtype=kind, device=device))
        self.executed = torch.full((frames, chunk), -1, dtype=torch.int8, device=device)
        self.labels = torch.full((frames, chunk), -1, dtype=torch.int8, device=device)
        self.rows = rows = max(frames // 4, streams) + streams
        self.instruction_ids = torch.zeros((2 * rows, instruction_length), dtype=torch.int64, device=device)
        self.instruction_lengths = np.zeros(2 * rows, dtype=np.int64)
        self._positions = np.zeros((rows, max_turns), dtype=np.int64)
        self._turns = np.zeros(rows, dtype=np.int64)
        self._begun = np.full(rows, -1, dtype=np.int64)  # frames written when the episode began
        self._complete = np.zeros(rows, dtype=bool)
        self.exact = np.zeros(rows, dtype=bool)
        self.conjunctions = np.zeros(frames, dtype=np.int64)
        self.row_of = np.full(streams, -1, dtype=np.int64)
        self.place_of = np.full(streams, -1, dtype=np.int64)
        self._next_row = 0
        self._margin = streams * 4
        self.written = 0
        self.episodes = 0

    def forget_running(self) -> None:
        """The running episodes will not go on (an evaluation took the streams)."""
        self.row_of[:] = -1
        self.place_of[:] = -1

    def finish_turn(self, arrays: StreamArrays) -> None:
        """Takes in what was executed after the last frames; call before `add`."""
        alive = np.flatnonzero(self.place_of >= 0)
        if not len(alive):
            return
        places = torch.from_numpy(self.place_of[alive]).to(self.device)
        self.executed[places] = torch.from_numpy(arrays.executed[alive]).to(self.device)
        self.labels[places] = torch.from_numpy(arrays.labels[alive]).to(self.device)
        over = alive[arrays.finished[alive]]
        self._complete[self.row_of[over]] = True
        self.episodes += len(over)
        self.row_of[over] = -1
        self.place_of[over] = -1

    def add(
        self,
        arrays: StreamArrays,
        pictures: Pictures,
        instructions: dict[int, list[int]],
        mirrored: dict[int, list[int]] | None = None,
        conjunctions: NDArray[np.int64] | None = None,
        exact: NDArray[np.bool_] | None = None,
    ) -> None:
        """Takes the present frames in.

        Args:
            arrays: of the workers.
            pictures: what the streams see.
            instructions: token ids by stream, for every stream whose episode has just started.
            mirrored: those of the mirrored instructions, where they will be drawn.
            conjunctions: (streams,) what is shown with the frames.
            exact: bool (streams,), whose episodes have to be shown as they were; default: none.
        """
        streams = len(self.row_of)
        for stream in instructions:
            row = self._next_row
            self._next_row = (row + 1) % self.rows
            self.row_of[stream] = row
            self._turns[row], self._begun[row], self._complete[row] = 0, self.written, False
            self.exact[row] = exact is not None and exact[stream]
        self._write_instructions(instructions, 0)
        self._write_instructions(mirrored or {}, self.rows)
        # An episode that is too long for the table is cut off: its stream goes on unrecorded.
        full = (self.row_of >= 0) & (self._turns[self.row_of] >= self._positions.shape[1])
        self._complete[self.row_of[full]] = True
        self.row_of[full] = -1
        recorded = np.flatnonzero(self.row_of >= 0)
        positions = (self.written + np.arange(len(recorded))) % self.capacity
        self.written += len(recorded)
        self.place_of = np.full(streams, -1, dtype=np.int64)
        self.place_of[recorded] = positions
        rows_of = self.row_of[recorded]
        self._positions[rows_of, self._turns[rows_of]] = positions
        self._turns[rows_of] += 1
        if conjunctions is not None:
            self.conjunctions[positions] = conjunctions[recorded]
        places = torch.from_numpy(positions).to(self.device)
        chosen = torch.from_numpy(recorded).to(self.device)
        for name in _SEEN:
            getattr(self, name)[places] = getattr(pictures, name)[chosen]
        for name in _KNOWN:
            getattr(self, name)[places] = torch.from_numpy(getattr(arrays, name)[recorded]).to(self.device)
        self.executed[places] = -1
        self.labels[places] = -1

    def _write_instructions(self, instructions: dict[int, list[int]], first: int) -> None:
        """Writes streams' instructions into their rows, counted from `first`."""
        if not instructions:
            return
        rows = first + self.row_of[list(instructions)]
        padded = np.zeros((len(rows), self.instruction_ids.shape[1]), dtype=np.int64)
        for k, ids in enumerate(instructions.values()):
            padded[k, : len(ids)] = ids
            self.instruction_lengths[rows[k]] = len(ids)
        self.instruction_ids[torch.from_numpy(rows).to(self.device)] = torch.from_numpy(padded).to(self.device)

    @property
    def whole(self) -> NDArray[np.int64]:
        """Rows of the episodes that can be drawn: finished, and none of their frames overwritten."""
        kept = self._begun > self.written + self._margin - self.capacity
        return np.flatnonzero(self._complete & kept & (self._turns > 0))

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draws episodes of `rows`, with replacement."""
        return rows[rng.integers(len(rows), size=count)]

    def turns_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many frames each episode has."""
        return self._turns[rows]

    def frames_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ring positions of the episodes' frames, episode after episode."""
        taken = np.arange(self._positions.shape[1])[None] < self._turns[rows][:, None]
        return self._positions[rows][taken]
