"""A look inside a streaming agent: what it remembered, decided and paid at a step. Nobody looking costs nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.agents.base import Observation
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID

if TYPE_CHECKING:
    from streamvln_gym.agents.stream import Call
    from streamvln_gym.agents.streamvln import StreamVLNAgent

THUMBNAIL = 112
"""Pixels: the longest side of a memory frame's picture in a view."""
CALLS_SHOWN = 64
"""How many model calls a view tells of."""


@dataclass(frozen=True)
class TimedCall:
    """What one model call cost.

    Attributes:
        step: environment step.
        milliseconds: of the `act` that made it.
        prefill_length: embeddings prefilled.
        kv_length: positions in the KV cache after it.
        opened: whether it opened a window.
    """

    step: int
    milliseconds: float
    prefill_length: int
    kv_length: int
    opened: bool


@dataclass(frozen=True)
class MemoryPicture:
    """A frame of the slow memory.

    Attributes:
        step: environment step at which it was seen.
        picture: uint8 (height, width, 3), what the network saw of it, at most THUMBNAIL pixels a side; None where
            nobody watched that step.
    """

    step: int
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True)
class AgentView:
    """A streaming agent's state after it acted.

    Attributes:
        step: environment step that it acted at.
        action: its action, 0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT.
        chunk: all actions of the last answer, `action` among them.
        queue: those not yet handed out.
        called: whether this act called the network.
        milliseconds: of this act.
        calls: the last calls, at most CALLS_SHOWN, the newest last.
        kv_length: positions in the KV cache.
        window_steps: steps of a window.
        window_start: step of the window's first call.
        memory: the frames that the present window was shown at its start.
        memory_tokens: embeddings that these took.
        num_history: frames that a window shows at most; 0: the agent has no slow memory.
        memory_strategy: of the agent.
        aspect: width / height of the camera's pictures (the network's are square).
    """

    step: int
    action: int
    chunk: tuple[int, ...]
    queue: tuple[int, ...]
    called: bool
    milliseconds: float
    calls: tuple[TimedCall, ...]
    kv_length: int
    window_steps: int
    window_start: int
    memory: tuple[MemoryPicture, ...]
    memory_tokens: int
    num_history: int
    memory_strategy: str
    aspect: float

    @property
    def window(self) -> int:
        """The number of the open window; the first is 0."""
        return self.window_start // self.window_steps

    @property
    def position(self) -> int:
        """Steps since the window's boundary, from 0; `window_steps` or more while its last chunk runs over its end."""
        return self.step - self.window * self.window_steps


class WatchedAgent:
    """A `StreamVLNAgent` that can be looked at: acts as the agent does, and has a `view` of it.

    It keeps a small picture of each frame that the slow memory holds, and no others.

    Args:
        agent: the agent; `reset` and `act` are to be called here from now on.

    Attributes:
        agent: the same.
        view: the agent after its latest `act`, None before the first of an episode.
    """

    def __init__(self, agent: StreamVLNAgent) -> None:
        self.agent = agent
        self.view: AgentView | None
        self._chunk: tuple[int, ...]
        self._forget()

    def reset(self) -> None:
        """Forgets the episode."""
        self.agent.reset()
        self._forget()

    def act(self, obs: Observation) -> int:
        """Chooses the next action, see `StreamVLNAgent.act`."""
        agent = self.agent
        calls = agent.stats.calls
        begin = perf_counter()
        action = agent.act(obs)
        milliseconds = 1000.0 * (perf_counter() - begin)
        called = agent.stats.calls > calls
        queue = agent.stream.queue.pending
        if called:
            self._chunk = (action, *queue)
            self._note(milliseconds)
        self._keep_picture(obs["rgb"])
        self.view = self._look(action, queue, called, milliseconds, np.shape(obs["rgb"]))
        return action

    def _forget(self) -> None:
        self.view = None
        self._calls: deque[TimedCall] = deque(maxlen=CALLS_SHOWN)
        self._chunk = ()
        self._pictures: dict[int, NDArray[np.uint8]] = {}
        self._shown: tuple[MemoryPicture, ...] = ()
        self._tokens = 0

    def _note(self, milliseconds: float) -> None:
        """Notes the model call that was just made."""
        call, stream = self.agent.last_call, self.agent.stream
        assert call is not None
        opened = stream.window.start == call.step
        if opened:
            self._shown = tuple(MemoryPicture(step, self._pictures.get(step)) for step in call.history_steps)
            self._tokens = _memory_tokens(call, self.agent.model.config.tokens_per_frame)
        self._calls.append(TimedCall(call.step, milliseconds, call.prefill_length, call.kv_after, opened))

    def _keep_picture(self, rgb: Any) -> None:
        """Takes the current frame, and drops those that the memory dropped."""
        memory = self.agent.stream.memory
        held = set(memory.steps)
        self._pictures = {step: picture for step, picture in self._pictures.items() if step in held}
        picture = Image.fromarray(self.agent.processor.resize(np.asarray(rgb)))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        self._pictures[self.agent.step - 1] = np.asarray(picture)

    def _look(
        self, action: int, queue: list[int], called: bool, milliseconds: float, shape: tuple[int, ...]
    ) -> AgentView:
        agent, stream = self.agent, self.agent.stream
        assert stream.window.start is not None  # the first act opened it
        return AgentView(
            step=agent.step - 1,
            action=action,
            chunk=self._chunk,
            queue=tuple(queue),
            called=called,
            milliseconds=milliseconds,
            calls=tuple(self._calls),
            kv_length=agent.session.kv_length if agent.fast_session is None else agent.fast_session.kv_lengths[0],
            window_steps=stream.window.window_steps,
            window_start=stream.window.start,
            memory=self._shown,
            memory_tokens=self._tokens,
            num_history=stream.memory.num_history,
            memory_strategy=agent.config.memory_strategy or agent.model.config.memory_strategy,
            aspect=shape[1] / shape[0],
        )


def _memory_tokens(call: Call, tokens_per_frame: int) -> int:
    """How many of a call's embeddings were memory: what neither text nor the current frame accounts for."""
    frames, memories = call.prompt_ids.count(IMAGE_TOKEN_ID), call.prompt_ids.count(MEMORY_TOKEN_ID)
    return call.prefill_length - (len(call.prompt_ids) - frames - memories) - frames * tokens_per_frame
