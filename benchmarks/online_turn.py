"""What a worker of online training takes for a turn, on one core, when it leaves the drawing to a GPU.

    taskset -c 0 python benchmarks/online_turn.py [--streams 267] [--turns 60] [--scenes 40]

Three quarters of the streams are free, and all of them go the expert's way with a tenth of random actions. Builds the
flats first; those that the worker comes to later are read between the turns, as in a training.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.simulators.base import Action
from streamvln_gym.training.online.config import CollectConfig
from streamvln_gym.training.online.mirrored_streams import mirror_chunk
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.worker import StreamsSpec, Worker

CHUNK, SIZE, PATCHES = 4, 112, 8
WARM_UP = 5
LONGEST = 500


def choose(worker: Worker, arrays: StreamArrays, rng: np.random.Generator) -> None:
    """Writes every stream's next chunk: the expert's actions, or one at random and on from there."""
    for row, stream in enumerate(worker._streams):
        stream.enter()
        chunk = stream.follower.next_actions(stream.state, CHUNK)
        if rng.random() < 0.1:
            chunk = [int(rng.integers(1, 4)), *chunk[:-1]]
        chunk += [int(Action.STOP)] * (CHUNK - len(chunk))
        arrays.actions[row] = mirror_chunk(chunk) if worker._mirrored[row] else chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=267)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=40)
    args = parser.parse_args()
    dataset = FlatsDataset("train", scenes=args.scenes)
    dataset.build(os.cpu_count())
    collect = CollectConfig(streams=args.streams, shelf=args.scenes // 4, plays=1, spare_steps=120, drawn_by="gpu")
    scenes, free = tuple(dataset.scene_ids), int(0.75 * args.streams)
    spec = StreamsSpec(
        "flats", "train", args.scenes, scenes, 0, args.streams, SIZE, PATCHES, CHUNK, (0,), collect, free, 0.5
    )
    arrays = StreamArrays(args.streams, SIZE, PATCHES**2, CHUNK)
    worker, rng, seconds, read = Worker(spec, arrays), np.random.default_rng(0), [], []
    worker.train(LONGEST)
    for _ in range(WARM_UP + args.turns):
        choose(worker, arrays, rng)
        begin = time.perf_counter()
        worker.prepare()
        prepared = time.perf_counter()
        worker.turn(LONGEST)
        worker.hand_over()
        seconds.append(time.perf_counter() - prepared)
        read.append(prepared - begin)
    arrays.close()
    turns, reading = 1e3 * np.array(seconds[WARM_UP:]), 1e3 * np.array(read[WARM_UP:])
    print(f"{args.streams} streams: {np.median(turns):.0f} ms a turn (most {turns.max():.0f})", end="")
    print(f", {1e3 * np.median(turns) / args.streams:.0f} us a stream; reading ahead {reading.max():.0f} ms at most")


if __name__ == "__main__":
    main()
