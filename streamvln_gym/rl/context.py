"""The context of one stream as the environment's side keeps it: frames and dialogue, without the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamvln_gym.agents.fast_window import FastWindow
from streamvln_gym.agents.slow_memory import SlowMemory
from streamvln_gym.agents.streamvln import ANSWER_SLACK, StreamVLNAgentConfig
from streamvln_gym.models.dialogue import CONJUNCTIONS, ConjunctionPicker, DialogueBuilder, check_instruction
from streamvln_gym.models.memory_strategies import make_strategy
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.rl.layout import ContextLayout


class StreamContext:
    """What the streaming agent would be shown, kept as pictures and ids: memory, window and dialogue.

    It follows the same rules with the same objects (`SlowMemory`, `FastWindow`, `ConjunctionPicker`), so a policy that
    reads `observe()` decides as the streaming agent does.

    Args:
        processor: pictures, tokenizer and actions of the network.
        config: how to stream, as of `StreamVLNAgent`.
        max_instruction: ids of the longest instruction.

    Attributes:
        layout: the observation's sizes.
        step: environment step of the latest frame.

    Raises:
        ValueError: the memory strategy needs depth and poses, which the observation has no place for.
    """

    def __init__(self, processor: StreamVLNProcessor, config: StreamVLNAgentConfig, max_instruction: int) -> None:
        self._processor = processor
        self._config = config
        strategy = self._setting("memory_strategy")
        if strategy == "voxel":
            raise ValueError(
                "the memory strategy 'voxel' needs depth and camera poses, which this observation does not hold: pass "
                "memory_strategy='pooled'"
            )
        self._max_instruction = max_instruction
        self._dialogue = DialogueBuilder(
            processor.tokenizer, self._setting("prompt_style"), self._setting("memory_prompt")
        )
        self._header = self._dialogue.encode(self._dialogue.answer_header) if self._dialogue.answer_header else []
        self._picker = ConjunctionPicker(config.conjunctions, config.seed)
        self._window = FastWindow(self._setting("window_steps"))
        chunk, window = self._setting("chunk_size"), self._setting("window_steps")
        if window % chunk and window != processor.config.window_steps:
            raise ValueError(
                f"window_steps is {window}, no multiple of the chunk of {chunk} actions: a policy that has learned "
                "with it could not be saved with it"
            )
        num_history = self._setting("num_history") if make_strategy(strategy).shows_memory else 0
        self._memory = SlowMemory(num_history, window, chunk + ANSWER_SLACK, config.max_steps)
        side = processor.config.image_size
        turns = -(-window // chunk)
        self.layout = ContextLayout(self._longest(turns, chunk), num_history, turns, (side, side, 3), chunk)
        self._ids: list[int] = []
        self._frames: list[tuple[int, NDArray[np.uint8]]] = []
        self._history: list[tuple[int, NDArray[np.uint8]]] = []
        self.step = 0
        self._instruction = ""

    def reset(self, instruction: str) -> None:
        """An episode begins.

        Raises:
            ValueError: the instruction is blank, holds the dialogue's markup, or is longer than `max_instruction` ids.
        """
        check_instruction(instruction)
        length = len(self._processor.tokenizer.encode(instruction, add_special_tokens=False))
        if length > self._max_instruction:
            raise ValueError(
                f"the instruction takes {length} ids, but max_instruction is {self._max_instruction}: pass a larger "
                "max_instruction to SlowFastObservation"
            )
        self._instruction = instruction
        self.step = 0
        self._ids, self._frames, self._history = [], [], []
        self._memory.reset()
        self._window.clear()
        self._picker.reset()

    def see(self, rgb: NDArray[np.uint8]) -> None:
        """The next decision's frame, (height, width, 3); `reset` or `execute` came before."""
        frame = self._processor.resize(rgb)
        # Only where an episode's end cuts a chunk can a window be full: nobody decides there any more.
        if self._window.covers(self.step) and len(self._frames) < self.layout.turns:
            self._ids += self._dialogue.encode(self._dialogue.later_turn(self._picker.next()))
        else:
            self._open()
        self._ids += self._header
        self._frames.append((self.step, frame))
        self._memory.add(self.step, tokens=torch.from_numpy(frame.copy()))

    def execute(self, actions: Sequence[int]) -> None:
        """The actions of a chunk that were executed, a final STOP included."""
        self._ids += [*(self._processor.action_ids[action] for action in actions), self._processor.turn_end_id]
        self.step += len(actions)

    def observe(self) -> dict[str, NDArray]:
        """The observation, see `ContextLayout`; its arrays are new.

        Raises:
            ValueError: the dialogue is longer than there is space for.
        """
        observation = self.layout.empty()
        if len(self._ids) > self.layout.dialogue_ids:
            raise ValueError(
                f"the dialogue takes {len(self._ids)} ids, but there is space for {self.layout.dialogue_ids}: pass a "
                "larger max_instruction to SlowFastObservation"
            )
        observation["dialogue"][: len(self._ids)] = self._ids
        for name, frames in (("history", self._history), ("window", self._frames)):
            if frames:
                steps, pictures = zip(*frames, strict=True)
                observation[f"{name}_steps"][: len(steps)] = steps
                packed = np.concatenate([picture.ravel() for picture in pictures])
                observation[name][: len(packed)] = packed
        return observation

    def _open(self) -> None:
        """A window opens at the present step."""
        shown = self._memory.sample(self.step) if self._memory.num_history else []
        self._history = [(frame.step, frame.tokens.numpy()) for frame in shown if frame.tokens is not None]
        self._frames = []
        self._ids = self._dialogue.encode(
            self._dialogue.first_turn(self._instruction, self._picker.next(), bool(self._history))
        )
        self._window.open(self.step)
        self._memory.window_opened(self.step)

    def _longest(self, turns: int, chunk: int) -> int:
        """Ids that a full window's dialogue can take."""
        phrases = self._picker.phrases or CONJUNCTIONS
        encode, answer = self._dialogue.encode, chunk + 1 + len(self._header)
        first = max(len(encode(self._dialogue.first_turn("Go.", phrase, True))) for phrase in phrases)
        later = max(len(encode(self._dialogue.later_turn(phrase))) for phrase in phrases)
        return first + self._max_instruction + (turns - 1) * (later + answer) + len(self._header)

    def _setting(self, name: str) -> Any:
        value = getattr(self._config, name)
        return getattr(self._processor.config, name) if value is None else value
