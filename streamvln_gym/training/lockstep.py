"""Several episodes played at once with one network: all that want a chunk of actions ask for it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from streamvln_gym.agents.streamvln import StreamVLNAgent


class Player(Protocol):
    """One episode.

    Attributes:
        finished: whether it is over.
        asks_policy: whether it wants chunks at all.
        n_executed: actions executed since the last chunk.
    """

    finished: bool
    n_executed: int

    @property
    def asks_policy(self) -> bool: ...

    def look(self) -> Mapping[str, Any]:
        """The present observation. The episode may be over afterwards."""
        ...

    def play(self, chunk: Sequence[int]) -> None:
        """Executes a chunk of the policy's, or what it thinks better of; not read where the policy was not asked."""
        ...


def play_together(agent: StreamVLNAgent, players: Sequence[Player]) -> None:
    """Plays all episodes to their ends, chunk by chunk.

    The same players in the same order give the same actions; with others beside it an episode's sums may be rounded
    differently, so what is to be repeated exactly must be played in the same company.

    Args:
        agent: its streams are reset.
        players: episodes at their starts.
    """
    agent.reset()
    starts = np.ones(len(players), dtype=bool)
    while not all(player.finished for player in players):
        observations = [{} if player.finished else player.look() for player in players]
        asked = np.array([player.asks_policy and not player.finished for player in players])
        chunks: list[list[int]] = [[] for _ in players]
        if asked.any():
            executed = [player.n_executed for player in players]
            chunks = agent.predict_chunk_batch(observations, starts, executed, asked)
            starts = np.zeros(len(players), dtype=bool)
        for player, chunk in zip(players, chunks, strict=True):
            if not player.finished:
                player.play(chunk)


def chunk_size_of(agent: StreamVLNAgent) -> int:
    """Actions of one full answer."""
    return agent.config.chunk_size or int(agent.model.config.chunk_size)
