"""The dialogue that StreamVLN's weights know: strings, and the token ids of each model call's user turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID, PROMPT_STYLES

SYSTEM_PROMPT = "You are a helpful assistant."
USER_PROMPT = (
    "You are an autonomous navigation assistant. Your task is to <instruction>. Devise an action sequence to follow "
    "the instruction using the four actions: TURN LEFT (←) or TURN RIGHT (→) by 15 degrees, MOVE FORWARD (↑) by 25 "
    "centimeters, or STOP."
)
MEMORY_PROMPTS = {
    "evaluation": " These are your historical observations <memory>.",
    "training": " These are your historical observations: <memory>.",
    "robot": " You have visited these areas <memory>.",
}
CONJUNCTIONS = (
    "you can see ",
    "in front of you is ",
    "there is ",
    "you can spot ",
    "you are toward the ",
    "ahead of you is ",
    "in your sight is ",
)
IMAGE, MEMORY = "<image>", "<memory>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
MAX_INSTRUCTION = 4000  # characters
SPECIAL_STRINGS = (IMAGE, MEMORY, TURN_START, TURN_END, "<|endoftext|>")  # the last is Qwen's padding
ASSISTANT_HEADER = f"{TURN_START}assistant\n"


class Tokenizer(Protocol):
    """What the dialogue needs of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...


class ConjunctionPicker:
    """Chooses each model call's conjunction: drawn from a seed, or taken from a list in turn.

    Args:
        phrases: cycled through, one per model call, e.g. `CONJUNCTIONS[:1]` for always the same. None draws from
            `CONJUNCTIONS` as the published evaluation does.
        seed: of the draws; every `reset` starts the same sequence again.
    """

    def __init__(self, phrases: Sequence[str] | None = None, seed: int = 0) -> None:
        if isinstance(phrases, str):
            raise TypeError(f"conjunctions must be a sequence of strings, got the string {phrases!r}")
        if phrases is not None and not phrases:
            raise ValueError("conjunctions is empty: give at least one, or None to draw from the published seven")
        for phrase in phrases or ():
            if any(special in phrase for special in SPECIAL_STRINGS):
                raise ValueError(f"conjunction {phrase!r} contains one of {', '.join(SPECIAL_STRINGS)}: remove it")
        self.phrases = None if phrases is None else tuple(phrases)
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        self._random = random.Random(self.seed)
        self._turn = 0

    def next(self) -> str:
        if self.phrases is None:
            return self._random.choice(CONJUNCTIONS)
        self._turn += 1
        return self.phrases[(self._turn - 1) % len(self.phrases)]


@dataclass(frozen=True)
class DialogueBuilder:
    """Writes user turns and turns them into ids.

    Style "published" closes an empty assistant turn in every prompt, as the published evaluation does, and leaves out
    the newline after an answer; the published weights then open a second assistant turn on their own. Style "trained"
    is the training dialogue itself, cut where the answer begins.

    Attributes:
        tokenizer: of the language model.
        style: "published" or "trained".
        memory_prompt: key of `MEMORY_PROMPTS`.
    """

    tokenizer: Tokenizer
    style: str = "trained"
    memory_prompt: str = "evaluation"

    def __post_init__(self) -> None:
        if self.style not in PROMPT_STYLES:
            raise ValueError(f"prompt style must be one of {', '.join(PROMPT_STYLES)}, got {self.style!r}")
        if self.memory_prompt not in MEMORY_PROMPTS:
            raise ValueError(f"memory_prompt must be one of {', '.join(MEMORY_PROMPTS)}, got {self.memory_prompt!r}")

    def first_turn(self, instruction: str, conjunction: str, with_memory: bool) -> str:
        """System turn, the window's first user turn and the opening of the answer."""
        check_instruction(instruction)
        # The published prompt replaces "<instruction>." with its dot: the instruction brings its own.
        user = USER_PROMPT.replace("<instruction>.", instruction)
        memory = MEMORY_PROMPTS[self.memory_prompt] if with_memory else ""
        system = f"{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}\n"
        return f"{system}{TURN_START}user\n{user}{memory} {conjunction}{IMAGE}.{TURN_END}\n{self.answer_opening}"

    def opening(self, instruction: str) -> str:
        """What a first turn with memory begins with, up to the memory: it knows nothing of the current step."""
        return self.first_turn(instruction, "", True).partition(MEMORY)[0] + MEMORY

    def later_turn(self, conjunction: str) -> str:
        """A later user turn of the window and the opening of the answer; follows the last answer's `<|im_end|>`."""
        separator = "" if self.style == "published" else "\n"
        return f"{separator}{TURN_START}user\n{conjunction}{IMAGE}.{TURN_END}\n{self.answer_opening}"

    @property
    def answer_opening(self) -> str:
        return ASSISTANT_HEADER + (f"{TURN_END}\n" if self.style == "published" else "")

    @property
    def answer_header(self) -> str:
        """What an answer starts with before its actions: empty, but for the second header of style "published"."""
        return ASSISTANT_HEADER if self.style == "published" else ""

    def encode(self, text: str) -> list[int]:
        """Token ids of a turn; `<image>` becomes -200 and `<memory>` -300."""
        ids: list[int] = []
        for index, part in enumerate(text.split(IMAGE)):
            if index:
                ids.append(IMAGE_TOKEN_ID)
            for inner, piece in enumerate(part.split(MEMORY)):
                if inner:
                    ids.append(MEMORY_TOKEN_ID)
                if piece:
                    ids.extend(self.tokenizer.encode(piece, add_special_tokens=False))
        return ids


def check_instruction(instruction: str) -> None:
    """Refuses an instruction that would be read as part of the dialogue's own markup, or is no instruction.

    Raises:
        ValueError: the instruction is blank, has more than `MAX_INSTRUCTION` characters, is no valid text or contains a
            special string.
    """
    if not instruction.strip():
        raise ValueError("instruction is empty: pass the sentence that the agent is to follow")
    if len(instruction) > MAX_INSTRUCTION:
        raise ValueError(
            f"instruction has {len(instruction)} characters, {MAX_INSTRUCTION} at most are read: it begins with "
            f"{instruction[:40]!r}"
        )
    if any("\ud800" <= character <= "\udfff" for character in instruction):
        raise ValueError(f"instruction holds half of a surrogate pair, which is no text: {instruction!r:.80}")
    for special in SPECIAL_STRINGS:
        if special in instruction:
            raise ValueError(f"instruction contains {special!r}, which the dialogue uses itself: remove it")
