"""How long a robot waits for its chunk of actions, on loopback: `streamvln-gym serve` and N clients.

    python benchmarks/serving.py [--streams 1 8 64] [--agent FOLDER --device cuda]

The server is a process of its own, the clients are one other. Frames are JPEGs of 640×480 pixels (some 60 KB); the time
is that from sending an observation to having its answer, encoding at the client not included. "at once": every stream
asks again as soon as it has its answer, the most that the server can be asked. "every 2 s": as robots that execute a
chunk meanwhile. The first window of every stream (32 steps) warms up and does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import subprocess
import sys
import time

import msgpack
import numpy as np
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

WIDTH, HEIGHT = 640, 480
CAMERA = {"width": WIDTH, "height": HEIGHT, "fx": 388.2, "fy": 388.2, "cx": 319.5, "cy": 239.5}
MEANING = {"forward_metres": 0.25, "turn_degrees": 15.0}
INSTRUCTION = "Walk past the dining table, turn left at the sofa and stop in front of the second door."
WARM_UP = 8  # calls, a window


def make_frames(count: int = 16) -> list[bytes]:
    """JPEGs with edges and areas, as rooms have them."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
        noisy = np.asarray(coarse, np.int16) + rng.integers(-6, 7, (HEIGHT, WIDTH, 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        frames.append(file.getvalue())
    return frames


class Robot:
    """A client that measures.

    Args:
        number: which.
        socket: connected.
        frames: shown in turn.
    """

    def __init__(self, number: int, socket: ClientConnection, frames: list[bytes]) -> None:
        self.number, self.socket, self.frames = number, socket, frames
        self.milliseconds: list[float] = []
        self.answers: list[dict] = []

    async def ask(self, kind: str, **entries: object) -> dict:
        await self.socket.send(msgpack.packb({"type": kind, **entries}))
        answer = msgpack.unpackb(await self.socket.recv())
        if answer["type"] == "error":
            raise RuntimeError(f"{answer['code']}: {answer['message']}")
        return answer

    async def run(self, calls: int, interval: float) -> None:
        """Asks `calls` times after warming up, every `interval` seconds (0: at once)."""
        await asyncio.sleep(interval * (self.number * 0.618 % 1.0))
        seq = executed = 0
        for call in range(WARM_UP + calls):
            if seq == 0:
                await self.ask("reset", instruction=INSTRUCTION)
            frame = {"encoding": "jpeg", "data": self.frames[(self.number + call) % len(self.frames)]}
            begun = time.perf_counter()
            answer = await self.ask("observe", seq=seq, n_executed=executed, frame=frame)
            spent = time.perf_counter() - begun
            seq, executed = (0, 0) if 0 in answer["actions"] else (seq + 1, len(answer["actions"]))
            if call >= WARM_UP:
                self.milliseconds.append(1000 * spent)
                self.answers.append(answer)
            await asyncio.sleep(max(interval - spent, 0))
        await self.ask("close")


async def measure(url: str, streams: int, calls: int, interval: float, frames: list[bytes]) -> None:
    """Prints a row."""
    sockets = [await connect(url, compression=None, proxy=None) for _ in range(streams)]
    robots = [Robot(number, socket, frames) for number, socket in enumerate(sockets)]
    for robot in robots:
        await robot.ask("hello", version=1, camera=CAMERA, actions=MEANING)
    begun = time.perf_counter()
    await asyncio.gather(*(robot.run(calls, interval) for robot in robots))
    rate = streams * (calls + WARM_UP) / (time.perf_counter() - begun)
    for socket in sockets:
        await socket.close()
    waited = np.concatenate([robot.milliseconds for robot in robots])
    answers = [answer for robot in robots for answer in robot.answers]
    batch, model = (np.mean([answer[key] for answer in answers]) for key in ("batch", "model_ms"))
    p50, p95 = np.percentile(waited, [50, 95])
    asked = f"every {interval:g} s" if interval else "at once"
    print(f"{streams:8} {asked:>12} {p50:9.1f} {p95:9.1f} {model:10.1f} {batch:7.1f} {rate:10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--calls", type=int, default=32, help="counted, of each stream")
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("--agent", default="streamvln-tiny")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    command = [sys.executable, "-m", "streamvln_gym.cli", "serve", "--port", "0", "--device", options.device]
    command += ["--agent", options.agent, "--max-streams", str(max(options.streams)), "--messages-per-second", "1000"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        told = server.stdout.readline()
        url = next((word for word in told.replace(";", " ").split() if word.startswith("ws://")), None)
        if url is None:
            sys.exit(f"the server did not start (exit code {server.wait()}): what it says stands above")
        print(f"{told.strip()}\nload of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(" streams       asking  p50 (ms)  p95 (ms) model (ms)   batch   chunks/s")
        frames = make_frames()
        print(f"{'':8} frames of {np.mean([len(frame) for frame in frames]) / 1000:.0f} KB")
        for streams in options.streams:
            for interval in (0.0, options.interval):
                asyncio.run(measure(url, streams, options.calls, interval, frames))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
