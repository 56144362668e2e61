"""Where a model call's time goes, and how often the fast path chooses as the eager one; for `streaming_latency.py`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from streaming_bench import Bench, decide, play


@contextmanager
def parts_timed(bench: Bench, parts: dict[str, tuple[Any, str]]):  # type: ignore[no-untyped-def]
    """Adds up the seconds of methods, each waited for; what one calls of the others counts for the inner one.

    Args:
        bench: where the device is.
        parts: name: (object, method).
    """
    spent: dict[str, float] = defaultdict(float)
    open_parts: list[list[float]] = []

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            bench.synchronize()
            begin = time.perf_counter()
            open_parts.append([0.0])
            result = method(*arguments, **named)
            bench.synchronize()
            taken = time.perf_counter() - begin
            spent[name] += taken - open_parts.pop()[0]
            if open_parts:
                open_parts[-1][0] += taken
            return result

        return call

    for name, (owner, method) in parts.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        yield spent
    finally:
        for owner, method in parts.values():
            delattr(owner, method)


def profile(bench: Bench, fast: bool, streams: int) -> dict[str, Any]:
    """Milliseconds of the parts of a call in a window, and of one that opens a window with memory."""
    agent = bench.agent(fast)
    play(bench, agent, streams, 44)
    caller: Any = agent._caller
    session: Any = agent._dialogue() if streams == 1 else agent.batch.session if agent.batch else None
    if streams == 1 and not fast:
        session = agent.session
    parts: dict[str, tuple[Any, str]] = {"prompt": (caller, "_turn"), "vision": (caller.frames, "encode")}
    if fast:
        parts["send"] = (caller.frames, "_send")
        parts["prefill"], parts["decode"] = (session, "_first_pass"), (session, "_next_pass")
    else:
        parts["resize"] = (bench.processor, "images")
        parts["prefill"] = (session, "_prefill")
        parts["decode"] = (session, "_catch_up" if streams == 1 else "_feed")
        if streams > 1:
            del parts["prefill"]  # `_prefill` is calls of `_feed` itself
    found: dict[str, Any] = {}
    for step in range(0, 64, 4):
        observations = [bench.observe(step, stream) for stream in range(streams)]
        with parts_timed(bench, parts) as spent:
            begin = time.perf_counter()
            decide(agent, observations, step == 0)
            bench.synchronize()
            total = time.perf_counter() - begin
        kind = {32: "window start", 56: "in window"}.get(step)
        if kind:
            milliseconds = {name: 1e3 * spent[name] for name in parts}
            found[kind] = {**milliseconds, "rest": 1e3 * (total - sum(spent.values())), "total": 1e3 * total}
    return found


def kernels(bench: Bench, streams: int, rows: int = 22) -> list[dict[str, Any]]:
    """The kernels of a fast call in a window that take most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as trace

    agent = bench.agent(True)
    play(bench, agent, streams, 60)
    observations = [bench.observe(60, stream) for stream in range(streams)]
    with trace(activities=[ProfilerActivity.CUDA]) as seen:
        decide(agent, observations, False)
        bench.synchronize()
    found = [
        {"kernel": event.key[:90], "calls": event.count, "ms": event.self_device_time_total / 1e3}
        for event in seen.key_averages()
    ]
    return sorted(found, key=lambda row: -row["ms"])[:rows]


def agreement(bench: Bench, chunks: int) -> dict[str, Any]:
    """How many of the eager path's choices the fast path makes, given the same dialogue up to there.

    A dialogue in which they differed is left until the next begins. Beside it the same for two eager sessions, which
    differ in rounding only: the batched one and the one that looks a token ahead. `margins` are between the two best
    scores of the eager path where the choices differed, and of all choices (10th percentile and median).
    """
    fast, eager, other = bench.agent(True), bench.agent(False), bench.agent(False)
    session: Any = eager.session
    margins: list[float] = []
    scores = session._logits
    allowed = [*bench.processor.action_ids[1:]]

    def watched() -> torch.Tensor:
        logits: torch.Tensor = scores()
        best = logits[allowed].float().topk(2).values
        margins.append(float(best[0] - best[1]))
        return logits

    session._logits = watched
    found: dict[str, Any] = {"differing_margins": {}, "answers": 0}
    same, compared, per_chunk = defaultdict(int), defaultdict(int), defaultdict(int)
    every: list[float] = []
    answers: set[tuple[int, ...]] = set()
    done = 0
    episode = 0
    while done < chunks:
        alive = {"fast": True, "eager, batched": True}
        for agent in (fast, eager, other):
            agent.reset()
        episode += 1
        for step in range(0, 72, 4):
            margins.clear()
            obs = bench.observe(step, 5 * episode)
            expected = eager.predict_chunk(obs)
            own = list(margins)
            every += own
            answers.add(tuple(expected))
            chosen = {
                "fast": fast.predict_chunk(obs) if alive["fast"] else None,
                "eager, batched": other.predict_chunk_batch([obs], [step == 0])[0] if alive["eager, batched"] else None,
            }
            done += 1
            for name, given in chosen.items():
                if given is None:
                    continue
                per_chunk[name] += 1
                for place, (ours, theirs) in enumerate(zip(given, expected, strict=True)):
                    compared[name] += 1
                    if ours != theirs:
                        found["differing_margins"].setdefault(name, []).append(own[place])
                        alive[name] = False
                        break
                    same[name] += 1
            if not any(alive.values()):
                break
    found["answers"] = len(answers)
    found["margin_percentiles"] = {"10": float(np.percentile(every, 10)), "50": float(np.percentile(every, 50))}
    for name in compared:
        found[name] = {"choices": compared[name], "agree": same[name] / compared[name], "chunks": per_chunk[name]}
    return found
