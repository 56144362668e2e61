"""How long `StreamVLNAgent.act` takes, by kind of call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamvln_gym.agents import StreamVLNAgent

# The first three are model calls. A hand-out only pops a decided action; "before a window" it also prefills what the
# window begins with.
KINDS = ("episode start", "window start", "within a window", "before a window", "hand-out")


class ActTimes:
    """Acts, and keeps the milliseconds of every call.

    On a CPU the process's own seconds count, so that other programs disturb less.

    Args:
        agent: acts one environment at a time.

    Attributes:
        milliseconds: of all calls since the last `clear`, by kind.
    """

    def __init__(self, agent: StreamVLNAgent) -> None:
        self.agent = agent
        self._clock = time.process_time if agent.device.type == "cpu" else time.perf_counter
        self.clear()

    def clear(self) -> None:
        self.milliseconds: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def act(self, obs: Mapping[str, Any]) -> int:
        """`agent.act`, timed."""
        agent = self.agent
        step, calls, prepared = agent.step, agent.stats.calls, agent.session.prepared
        begun = self._clock()
        action = agent.act(obs)
        taken = 1000.0 * (self._clock() - begun)
        if agent.stats.calls == calls:
            kind = "hand-out" if agent.session.prepared is prepared else "before a window"
        elif step == 0:
            kind = "episode start"
        else:
            opened = agent.last_call is not None and agent.last_call.kv_before == 0
            kind = "window start" if opened else "within a window"
        self.milliseconds[kind].append(taken)
        return action

    def summary(self) -> dict[str, dict[str, float]]:
        """`median`, `p95`, `max` milliseconds and `calls` of each kind that there was."""
        return {
            kind: {
                "median": round(float(np.median(times)), 2),
                "p95": round(float(np.quantile(times, 0.95)), 2),
                "max": round(max(times), 2),
                "calls": len(times),
            }
            for kind, times in self.milliseconds.items()
            if times
        }
