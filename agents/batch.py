"""N environments, one network: the streams of a batch, each with a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.agents.model_calls import STOP, Dialogues, ModelCaller
from streamvln_gym.agents.observation import read_sight, split_observations
from streamvln_gym.agents.patch_geometry import PatchGeometry
from streamvln_gym.agents.stream import Moment, Stream

Observations = Sequence[Mapping[str, Any]] | Mapping[str, Any]


class StreamBatch:
    """Streams that call one network together.

    Args:
        streams: one per environment.
        session: as many dialogues.
        caller: makes the model calls.
        geometry: where the memory strategy wants to know the patches' places, else None.
    """

    def __init__(
        self,
        streams: list[Stream],
        session: Dialogues,
        caller: ModelCaller,
        geometry: PatchGeometry | None = None,
    ) -> None:
        self.streams = streams
        self.session = session
        self._caller = caller
        self._geometry = geometry

    def __len__(self) -> int:
        return len(self.streams)

    def act(self, observations: Observations, episode_starts: NDArray[np.bool_], active: ArrayLike | None) -> list[int]:
        """See `StreamVLNAgent.act_batch`."""
        moments = self._look(observations, episode_starts, active, [None] * len(self))
        actions = [STOP] * len(self)
        for moment, action in zip(moments, self._caller.act(moments, self.session), strict=True):
            actions[moment.slot] = action
        return actions

    def predict(
        self,
        observations: Observations,
        episode_starts: NDArray[np.bool_],
        n_executed: Sequence[int | None] | NDArray[np.integer] | None,
        active: ArrayLike | None,
    ) -> list[list[int]]:
        """See `StreamVLNAgent.predict_chunk_batch`."""
        executed = [None] * len(self) if n_executed is None else list(n_executed)
        if len(executed) != len(self):
            raise ValueError(f"n_executed has {len(executed)} entries, but there are {len(self)} streams")
        moments = self._look(observations, episode_starts, active, executed)
        chunks: list[list[int]] = [[] for _ in self.streams]
        for moment, chunk in zip(moments, self._caller.predict(moments, self.session), strict=True):
            chunks[moment.slot] = chunk
        return chunks

    def _look(
        self,
        observations: Observations,
        episode_starts: NDArray[np.bool_],
        active: ArrayLike | None,
        executed: Sequence[int | None],
    ) -> list[Moment]:
        """Reads what the active streams see, all of it before anything changes, then resets those that start."""
        count = len(self)
        present = np.ones(count, bool) if active is None else read_mask("active", active, count)
        parts = split_observations(observations, count)
        sights, steps = {}, {}
        for slot in np.flatnonzero(present).tolist():
            with _named(slot):
                sights[slot] = read_sight(parts[slot], self._geometry)
                steps[slot] = self.streams[slot].expect(sights[slot], executed[slot], bool(episode_starts[slot]))
        started = np.flatnonzero(episode_starts).tolist()
        for slot in started:
            self.streams[slot].reset()
        self.session.restart(started)
        return [Moment(self.streams[slot], sight, steps[slot], slot) for slot, sight in sights.items()]


def read_mask(name: str, mask: ArrayLike, count: int | None = None) -> NDArray[np.bool_]:
    """A bool array (streams,).

    Raises:
        TypeError: it is not bool.
        ValueError: it has another shape.
    """
    values = np.asarray(mask)
    if values.dtype != np.bool_ and values.size:
        raise TypeError(f"{name} must be bool, one per stream, got {values.dtype}")
    if values.ndim != 1 or not values.size or (count is not None and len(values) != count):
        expected = "(streams,)" if count is None else f"({count},)"
        raise ValueError(f"{name} must have shape {expected}, got {values.shape}")
    return values


@contextmanager
def _named(slot: int) -> Iterator[None]:
    """Says in an error which stream it is about."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"stream {slot}: {error}") from error
    except ValueError as error:
        raise ValueError(f"stream {slot}: {error}") from error
