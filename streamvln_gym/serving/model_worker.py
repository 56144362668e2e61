"""Between the event loop and the network: what streams ask meanwhile goes through the network together."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from streamvln_gym.agents.stream_pool import Question, StreamPool


@dataclass(frozen=True)
class Reply:
    """What the network answered to one stream.

    Attributes:
        chunk: actions.
        step: of the episode, at which the observation was made.
        batch: streams that were answered together.
        waited_ms: until the network was free.
        model_ms: the call itself.
    """

    chunk: list[int]
    step: int
    batch: int
    waited_ms: float
    model_ms: float


@dataclass(frozen=True)
class _Waiting:
    question: Question
    reply: asyncio.Future[Reply]
    since: float


class ModelWorker:
    """Runs a `StreamPool` in one thread of its own, so that the event loop stays free.

    All questions that came while the network was busy form the next call. `run` must be running.

    Args:
        pool: touched by the worker's thread only.
    """

    def __init__(self, pool: StreamPool) -> None:
        self._pool = pool
        self._thread = ThreadPoolExecutor(1, "streamvln-model")
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()

    async def join(self) -> int:
        """A place for a new stream.

        Raises:
            ValueError: all are taken.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._pool.join)

    async def leave(self, slot: int) -> None:
        """Frees the state of a stream that has no question waiting."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._pool.leave, slot)

    async def predict(self, question: Question) -> Reply:
        """Waits for the network's answer.

        Raises:
            TypeError, ValueError: the observation cannot be read; the stream is unchanged.
            Exception: what the model call raised, see `StreamPool.predict`.
        """
        waiting = _Waiting(question, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.reply

    async def run(self) -> None:
        """Serves questions until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            try:
                replies = await loop.run_in_executor(self._thread, self._answer, batch)
            except Exception as error:  # a fault of ours: those who ask must hear of it, and the next be served
                replies = [error] * len(batch)
            for waiting, reply in zip(batch, replies, strict=True):
                if waiting.reply.done():  # its connection was cancelled
                    continue
                if isinstance(reply, Exception):
                    waiting.reply.set_exception(reply)
                else:
                    waiting.reply.set_result(reply)

    def close(self) -> None:
        """Ends the thread after what it is doing; nothing is waiting any more."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _answer(self, batch: list[_Waiting]) -> list[Reply | Exception]:
        begun = time.perf_counter()
        answers = self._pool.predict([waiting.question for waiting in batch])
        model_ms = 1000.0 * (time.perf_counter() - begun)
        replies: list[Reply | Exception] = []
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                replies.append(answer)
                continue
            step = self._pool.stream(waiting.question.slot).step
            waited_ms = 1000.0 * (begun - waiting.since)
            replies.append(Reply(answer, step, len(batch), waited_ms, model_ms))
        return replies
