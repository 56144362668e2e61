"""Decisions of one window in one minibatch: each context begins the latest one's, so one pass serves them all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamvln_gym.rl.embedding import Context
from streamvln_gym.wrappers import PAD


@dataclass(frozen=True)
class SharedWindows:
    """Which rows of a batch are read off which row's sequence.

    Attributes:
        longest: (sequences,) rows whose sequences are run.
        group: (batch,) index into `longest` for each row.
        ids: (batch,) ids that a row's dialogue is shorter than its sequence's.
        frames: (batch,) frames that it has less.
    """

    longest: Tensor
    group: Tensor
    ids: Tensor
    frames: Tensor

    @classmethod
    def find(cls, context: Context, answers: Tensor) -> SharedWindows:
        """Groups rows; only such as are equal in every id and frame, answer included.

        Args:
            context: the batch.
            answers: (batch, chunk) ids of each row's actions.
        """
        count = len(context)
        rows = torch.arange(count, device=answers.device)
        lengths = context.lengths
        # A cheap key proposes which rows are of one window; the comparison below decides.
        sums = [
            frames[:, 0].flatten(1).float().sum(1) for frames in (context.window, context.history) if frames.shape[1]
        ]
        key = torch.stack([context.window_steps[:, 0].float(), *sums], 1)  # Apple's GPUs have no doubles
        _, window = key.unique(dim=0, return_inverse=True)
        rank = torch.zeros_like(lengths).scatter_reduce(0, window, lengths * count + rows, "amax")
        owner = rank[window] % count
        other = context.rows(owner)
        places = lengths[:, None] + torch.arange(answers.shape[1], device=rows.device)
        padded = torch.nn.functional.pad(other.dialogue, (0, answers.shape[1]), value=PAD)
        answered = (padded.gather(1, places) == answers).all(1)
        shares = context.begins(other) & answered & (lengths < other.lengths)
        owner = torch.where(shares, owner, rows)
        longest, group = owner.unique(return_inverse=True)
        counts = context.window_shown.sum(1)
        return cls(longest, group, lengths[owner] - lengths, counts[owner] - counts)

    def distance(self, tokens_per_frame: int) -> Tensor:
        """(batch,) embeddings from the end of a row's dialogue to the end of its sequence's."""
        return self.ids + self.frames * (tokens_per_frame - 1)
