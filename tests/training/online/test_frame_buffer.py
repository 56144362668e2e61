"""The frame buffer never mixes episodes, whatever ends, wraps around or is cut off."""

import numpy as np
import pytest
import torch

from streamvln_gym.training.online.pictures import PicturesOfWorkers
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import StreamArrays

STREAMS, MAX_TURNS = 5, 6


class Streams:
    """Episodes of random length, whose frames, actions and labels say whose they are.

    Args:
        frames: of the buffer.
    """

    def __init__(self, frames: int) -> None:
        self.rng = np.random.default_rng(0)
        self.arrays = StreamArrays(STREAMS, 1, 1, 4)
        self.buffer = FrameBuffer(frames, self.arrays, MAX_TURNS, 4, torch.device("cpu"))
        self.episodes = 0
        self.present = np.zeros(STREAMS, dtype=np.int64)
        self.turn = np.zeros(STREAMS, dtype=np.int64)
        self.lengths: dict[int, int] = {}
        self.begin(range(STREAMS))

    def begin(self, streams) -> None:
        """Starts an episode in each of the streams."""
        self.arrays.started[:] = False
        for stream in streams:
            self.episodes += 1
            self.present[stream], self.turn[stream] = self.episodes, 0
            self.lengths[self.episodes] = int(self.rng.integers(1, MAX_TURNS + 2))
            self.arrays.started[stream] = True

    def step(self) -> None:
        """Takes in, as the collector does, the last chunk's results and the present frames; then executes a chunk."""
        self.buffer.finish_turn(self.arrays)
        self.arrays.pose[:, 0], self.arrays.pose[:, 1] = self.present, self.turn
        started = {int(k): [int(self.present[k] % 100)] * 2 for k in np.flatnonzero(self.arrays.started)}
        self.buffer.add(self.arrays, PicturesOfWorkers(self.arrays, torch.device("cpu")).take(), started)
        self.arrays.executed[:] = (self.present % 100)[:, None]
        self.arrays.labels[:] = self.turn[:, None]
        self.turn += 1
        self.arrays.finished[:] = self.turn >= [self.lengths[number] for number in self.present]
        self.begin(np.flatnonzero(self.arrays.finished))

    def evaluate(self) -> None:
        """An evaluation takes the streams and leaves its own results behind."""
        self.arrays.executed[:] = self.arrays.labels[:] = 101
        self.arrays.finished[:] = True
        self.buffer.forget_running()
        self.begin(range(STREAMS))

    def check(self) -> list[int]:
        """Compares all episodes that can be drawn; returns their numbers."""
        buffer, found = self.buffer, []
        for row in buffer.whole:
            places = torch.from_numpy(buffer.frames_of(np.array([row])))
            number = int(buffer.pose[places[0], 0])
            turns = min(self.lengths[number], MAX_TURNS)
            assert buffer.pose[places, 0].tolist() == [number] * turns
            assert buffer.pose[places, 1].tolist() == list(range(turns))
            assert (buffer.executed[places] == number % 100).all()
            assert buffer.labels[places, 0].tolist() == list(range(turns))
            assert buffer.instruction_ids[row, :2].tolist() == [number % 100] * 2
            found.append(number)
        return found


@pytest.mark.parametrize("frames", [60, 400])
def test_episodes_stay_apart(frames):
    streams = Streams(frames)
    seen: set[int] = set()
    for turn in range(300):
        if turn % 50 == 49:
            streams.evaluate()
        streams.step()
        if turn % 3 == 0:
            seen.update(streams.check())
    assert streams.buffer.written > 3 * frames, "the ring was overwritten"
    assert max(seen) > streams.episodes - 30
    cut_off = [number for number in seen if streams.lengths[number] > MAX_TURNS]
    assert cut_off, "episodes that are too long were drawn as far as they go"
    streams.arrays.close()
