"""One episode as the streaming agent sees it: its clock, window, memory and pending actions."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamvln_gym.agents.action_queue import ActionQueue
from streamvln_gym.agents.fast_window import FastWindow
from streamvln_gym.agents.observation import Sight
from streamvln_gym.agents.slow_memory import SlowMemory
from streamvln_gym.arguments import is_whole
from streamvln_gym.models.dialogue import ConjunctionPicker, check_instruction


@dataclass
class StreamStats:
    """Counters since the agent was made (they survive `reset`).

    Attributes:
        calls: model calls; in a batch each stream's counts.
        windows: windows opened.
        current_frames: frames encoded as the current frame of a call: one each, never again.
        history_frames: frames encoded only when a window showed them, because no call had had them.
        generated_tokens: tokens decoded.
        parse_failures: answers without any action, taken as STOP.
    """

    calls: int = 0
    windows: int = 0
    current_frames: int = 0
    history_frames: int = 0
    generated_tokens: int = 0
    parse_failures: int = 0

    @property
    def tower_frames(self) -> int:
        """Frames that went through the vision tower."""
        return self.current_frames + self.history_frames


@dataclass(frozen=True)
class Call:
    """What the last model call saw and said; for inspection and tests.

    Attributes:
        step: environment step.
        prompt_ids: ids of the prefill, special positions unexpanded; they open with what was carried from the last
            answer.
        prefill_length: embeddings prefilled.
        answer_ids: generated ids.
        history_steps: steps of the frames shown as memory (empty within a window).
        kv_before: positions in the KV cache before the prefill.
        kv_after: positions after the answer; its last token is not among them.
    """

    step: int
    prompt_ids: list[int]
    prefill_length: int
    answer_ids: list[int]
    history_steps: list[int] = field(default_factory=list)
    kv_before: int = 0
    kv_after: int = 0


class Stream:
    """The state of one episode, but for the dialogue's KV cache.

    Args:
        memory: the slow memory.
        window: the fast window.
        conjunctions: of this stream's turns.

    Attributes:
        queue: actions decided but not yet executed.
        step: actions executed since `reset`, as far as is known.
        uncounted: actions of the last `predict_chunk`, which the clock does not yet count.
        instruction: of the episode, None before its first observation.
        last_call: the latest model call, None before the first; survives `reset`.
    """

    def __init__(self, memory: SlowMemory, window: FastWindow, conjunctions: ConjunctionPicker) -> None:
        self.memory = memory
        self.window = window
        self.conjunctions = conjunctions
        self.queue = ActionQueue()
        self.last_call: Call | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the episode."""
        self.step = 0
        self.uncounted = 0
        self.instruction: str | None = None
        self.memory.reset()
        self.window.clear()
        self.queue.clear()
        self.conjunctions.reset()

    @property
    def needs_picture(self) -> bool:
        """Whether the picture of the present step is looked at, now or in a later window's memory."""
        return not self.queue or self.memory.may_show(self.step)

    def expect(self, sight: Sight, n_executed: int | None = None, starts: bool = False) -> int:
        """The step at which `sight` was seen; nothing changes yet.

        Args:
            sight: the current observation.
            n_executed: actions executed since the last one that the clock counts; None means the last chunk.
            starts: an episode begins with it, and `reset` is due: step 0.

        Raises:
            ValueError: the instruction changed, or the clock does not advance.
        """
        if self.instruction is None or starts:
            check_instruction(sight.instruction)
        elif sight.instruction != self.instruction:
            raise ValueError(
                "obs['instruction'] changed within an episode: call agent.reset() at the start of every episode "
                "(in a batch, mark it in episode_starts)"
            )
        if starts:
            return 0
        if n_executed is not None and not is_whole(n_executed, 0):
            raise ValueError(f"n_executed must be a number of actions, 0 or more, got {n_executed!r}")
        step = self.step + (self.uncounted if n_executed is None else int(n_executed))
        seen = self.memory.steps
        if seen and step <= seen[-1]:
            raise ValueError(f"the agent has already seen step {step}: pass n_executed >= 1, or call act() per step")
        return step

    def advance(self, sight: Sight, step: int) -> None:
        """Sets the clock to the step of `sight`."""
        self.step = step
        self.uncounted = 0
        self.instruction = sight.instruction


@dataclass(frozen=True)
class Moment:
    """A stream at its current step.

    Attributes:
        stream: its state up to now.
        sight: what it sees.
        step: at which step.
        slot: which dialogue is the stream's.
    """

    stream: Stream
    sight: Sight
    step: int
    slot: int = 0
