"""Training windows: a trajectory cut as the streaming agent will live it, and written as one dialogue with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.errors import DatasetError
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.dialogue import (
    ASSISTANT_HEADER,
    TURN_END,
    TURN_START,
    ConjunctionPicker,
    DialogueBuilder,
    check_instruction,
)
from streamvln_gym.models.memory_strategies import strategy_of
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.trajectories import MIN_ACTIONS, STOP, Trajectory


@dataclass(frozen=True)
class WindowConfig:
    """How trajectories become training windows. None means: as the checkpoint's configuration says.

    Attributes:
        num_history: frames of slow memory at a window's start (0: no memory).
        window_steps: environment steps of a window.
        chunk_size: actions of one answer; a frame is shown every so many steps.
        memory_prompt: wording of the memory sentence; the published training data was written with "training".
        conjunctions: cycled through within a window, one per turn; None draws each at random.
        seed: of the draws. They depend on seed, epoch and the window's number, not on workers or order.
        published_label_mask: learn what the published training learns: the whole assistant turns, and every newline,
            `<|im_start|>` and `<|im_end|>` of the other turns; a newline that the tokenizer joins with a word ("user"
            and its newline, in the package's own) is left out. Off: the answers with their `<|im_end|>`, nothing else.
    """

    num_history: int | None = None
    window_steps: int | None = None
    chunk_size: int | None = None
    memory_prompt: str | None = None
    conjunctions: tuple[str, ...] | None = None
    seed: int = 0
    published_label_mask: bool = False

    def __post_init__(self) -> None:
        for name, least in {"num_history": 0, "window_steps": 1, "chunk_size": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"WindowConfig.{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Window:
    """One window of one trajectory under one of its instructions.

    Attributes:
        trajectory: index of the trajectory.
        instruction: index of the instruction.
        start: step of the window's first frame.
        stop: step after its last action.
    """

    trajectory: int
    instruction: int
    start: int
    stop: int


@dataclass(frozen=True)
class EncodedWindow:
    """A window as token ids.

    Attributes:
        input_ids: -200 marks each current frame, -300 the memory.
        labels: target ids at the places of `input_ids`, -100 where nothing is learned; other than `input_ids` only
            where the expert would have done something else than was executed.
        history_steps: steps of the memory's frames, in time order.
        frame_steps: steps of the current frames.
    """

    input_ids: list[int]
    labels: list[int]
    history_steps: list[int]
    frame_steps: list[int]


def split_windows(length: int, window_steps: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cuts an episode of `length` actions into [start, stop) windows, as the agent's clock does.

    A model call comes every `chunk_size` steps and belongs to window `step // window_steps`; where chunks straddle a
    boundary, the next window starts a little later. The last window and its last chunk may be short. Episodes of fewer
    than `MIN_ACTIONS` actions give none.
    """
    if length < MIN_ACTIONS:
        return []
    calls = range(0, length, chunk_size)
    starts = [step for step in calls if step == 0 or step // window_steps != (step - chunk_size) // window_steps]
    return list(zip(starts, [*starts[1:], length], strict=True))


class WindowEncoder:
    """Writes windows as dialogues in style "trained": one assistant turn per frame, with the actions in it.

    The answers are what was executed; what is learned in their place is what the expert would have done, up to the
    first action of an answer that was another. What the expert would do after that is not learned: the network sees no
    picture in between, so that being unsure of the side to turn to, it would learn to take back each turn at once.

    Args:
        processor: tokenizer and configuration of the network to be trained.
        config: how to cut and to label.

    Attributes:
        num_history, window_steps, chunk_size: as resolved from `config` and the processor's configuration; no history
            where the memory strategy is "none".

    Raises:
        ValueError: the published label mask needs one token per newline, and the tokenizer has none.
    """

    def __init__(self, processor: StreamVLNProcessor, config: WindowConfig | None = None) -> None:
        self.processor = processor
        self.config = config or WindowConfig()
        shows_memory = strategy_of(processor.config).shows_memory
        self.num_history: int = self._setting("num_history") if shows_memory else 0
        self.window_steps: int = self._setting("window_steps")
        self.chunk_size: int = self._setting("chunk_size")
        self._dialogue = DialogueBuilder(processor.tokenizer, "trained", self._setting("memory_prompt"))
        self._header_length = len(self._dialogue.encode(ASSISTANT_HEADER))
        self._newline = self._dialogue.encode("\n")
        self._markup = self._published_markup() if self.config.published_label_mask else frozenset()

    def picker(self, epoch: int = 0, index: int = 0) -> ConjunctionPicker:
        """The conjunctions of window number `index` in `epoch`."""
        seed = int(np.random.SeedSequence([self.config.seed, epoch, index]).generate_state(1)[0])
        return ConjunctionPicker(self.config.conjunctions, seed)

    def windows(self, trajectories: list[Trajectory]) -> list[Window]:
        """All windows: trajectory by trajectory, instruction by instruction, in time order.

        Raises:
            DatasetError: an instruction contains the dialogue's own markup.
        """
        found = []
        for number, trajectory in enumerate(trajectories):
            for index, instruction in enumerate(trajectory.instructions):
                try:
                    check_instruction(instruction)
                except ValueError as error:
                    raise DatasetError(f"{trajectory.source}: instructions[{index}]: {error}") from error
                spans = split_windows(len(trajectory), self.window_steps, self.chunk_size)
                found += [Window(number, index, start, stop) for start, stop in spans]
        return found

    def encode(self, trajectory: Trajectory, window: Window, conjunctions: ConjunctionPicker) -> EncodedWindow:
        """Token ids and labels of one window.

        Args:
            trajectory: the one that `window` was cut from.
            window: the cut.
            conjunctions: gives each turn's.
        """
        history = history_steps(window.start, self.num_history)
        frames = list(range(window.start, window.stop, self.chunk_size))
        executed = trajectory.executed or trajectory.actions
        ids: list[int] = []
        labels: list[int] = []
        for step in frames:
            if step == window.start:
                instruction = trajectory.instructions[window.instruction]
                text = self._dialogue.first_turn(instruction, conjunctions.next(), bool(history))
            else:
                text = self._dialogue.later_turn(conjunctions.next())
            prompt = self._dialogue.encode(text)
            chunk = slice(step, min(step + self.chunk_size, window.stop))
            ids += prompt + self._answer(executed[chunk])
            labels += self._prompt_labels(prompt) + self._answer_labels(executed[chunk], trajectory.actions[chunk])
            if executed[chunk][-1] != STOP and len(executed[chunk]) < self.chunk_size:
                labels[-1] = IGNORE_LABEL  # cut off by the recorder's step limit: nobody ended an answer here
        ids += self._newline
        labels += self._newline if self.config.published_label_mask else [IGNORE_LABEL] * len(self._newline)
        return EncodedWindow(ids, labels, history, frames)

    def _answer(self, actions: tuple[int, ...]) -> list[int]:
        return [*(self.processor.action_ids[action] for action in actions), self.processor.turn_end_id]

    def _answer_labels(self, executed: tuple[int, ...], wanted: tuple[int, ...]) -> list[int]:
        labels = self._answer(wanted)
        followed = next((k for k, pair in enumerate(zip(executed, wanted, strict=True)) if pair[0] != pair[1]), None)
        if followed is not None:
            unknown = len(wanted) - followed - 1
            labels[followed + 1 : -1] = [IGNORE_LABEL] * unknown
        return labels

    def _prompt_labels(self, prompt: list[int]) -> list[int]:
        labels = [token if token in self._markup else IGNORE_LABEL for token in prompt]
        if self.config.published_label_mask:
            labels[-self._header_length :] = prompt[-self._header_length :]
        return labels

    def _published_markup(self) -> frozenset[int]:
        if len(self._newline) != 1:
            raise ValueError(
                f"published_label_mask needs a tokenizer with one token for a newline, this one takes "
                f"{len(self._newline)}: leave the flag off"
            )
        ends = (self._dialogue.encode(text)[0] for text in (TURN_START, TURN_END))
        return frozenset([*self._newline, *ends])

    def _setting(self, name: str) -> Any:
        value = getattr(self.config, name)
        return getattr(self.processor.config, name) if value is None else value
