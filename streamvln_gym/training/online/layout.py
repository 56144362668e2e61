"""Where what stands in a window's dialogue: token ids of many windows at once, without a Python loop over tokens.

The ids are those of `training.windows.WindowEncoder` (tested); this is the form that runs on the training device.

    prefix | instruction | closing | [memory sentence | memory frames | "."] | turn 0 | turn 1 | ...
    turn 0:  conjunction | frame | "." closing | answer        turn k: opening | conjunction | frame | closing | answer
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.dialogue import (
    ASSISTANT_HEADER,
    CONJUNCTIONS,
    MEMORY_PROMPTS,
    SYSTEM_PROMPT,
    TURN_END,
    TURN_START,
    USER_PROMPT,
    DialogueBuilder,
)
from streamvln_gym.models.memory_strategies import strategy_of
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor

_TEXT, _CONJUNCTION, _IMAGE, _ANSWER = range(4)


@dataclass
class Windows:
    """Windows as tensors, one row each.

    Attributes:
        instructions: (rows, longest) int64 ids, padded.
        instruction_lengths: (rows,) int64.
        with_memory: (rows,) bool.
        executed: (rows, turns, chunk) int64 actions, -1 where none was executed.
        conjunctions: (rows, turns) int64, index of `CONJUNCTIONS`.
    """

    instructions: Tensor
    instruction_lengths: Tensor
    with_memory: Tensor
    executed: Tensor
    conjunctions: Tensor


class DialogueLayout:
    """Positions and ids of windows for one processor; prompt style "trained", chunks that fit the window.

    Args:
        processor: tokenizer and configuration of the network.
        device: where the tensors go.

    Attributes:
        strategy: what windows show of their memory frames.
        num_history: of these frames; 0 where the strategy shows none.
        memory_tokens: embeddings that they take.

    Raises:
        CheckpointError: the tokenizer joins what this layout keeps apart, or the configuration's chunks or memory do
            not fit.
    """

    def __init__(self, processor: StreamVLNProcessor, device: torch.device | str = "cpu") -> None:
        config = processor.config
        if config.window_steps % config.chunk_size or config.prompt_style != "trained":
            raise CheckpointError(
                "online training needs window_steps that is a multiple of chunk_size and the prompt style 'trained'"
            )
        self.strategy = strategy_of(config)
        self.num_history = config.num_history if self.strategy.shows_memory else 0
        if self.num_history and (self.strategy.needs_geometry or self.num_history > config.window_steps):
            raise CheckpointError(
                "online training needs memories of one length, so no strategy with geometry and at most window_steps "
                f"frames, but memory_strategy is {config.memory_strategy!r} and num_history {config.num_history}: "
                "train from recorded trajectories, or with another memory_strategy or num_history"
            )
        self.tokens_per_frame = config.tokens_per_frame
        self.memory_tokens = self.strategy.most_tokens(
            self.num_history, config.patches_per_side**2, config.tokens_per_frame
        )
        self.chunk_size = config.chunk_size
        self.turns = config.window_steps // config.chunk_size
        self._dialogue = DialogueBuilder(processor.tokenizer, "trained", config.memory_prompt)
        encode = self._dialogue.encode
        opening, closing = USER_PROMPT.split("<instruction>.")
        before, after = MEMORY_PROMPTS[config.memory_prompt].split("<memory>")
        pieces = {
            "prefix": f"{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}\n{TURN_START}user\n{opening}",
            "closing": closing,
            "memory_before": before,
            "memory_after": after,
            "turn_opening": f"\n{TURN_START}user\n",
            "turn_closing": f".{TURN_END}\n{ASSISTANT_HEADER}",
        }
        self._ids = {name: encode(text) for name, text in pieces.items()}
        self._first_conjunctions = [encode(f" {text}") for text in CONJUNCTIONS]
        self._later_conjunctions = [encode(text) for text in CONJUNCTIONS]
        self._check()
        self.end_id = processor.turn_end_id
        self.action_ids = torch.tensor(processor.action_ids, device=device)
        self._pieces = {name: torch.tensor(ids, device=device) for name, ids in self._ids.items()}
        self._conjunction_ids = torch.tensor(
            [[ids[0] for ids in self._first_conjunctions], [ids[0] for ids in self._later_conjunctions]], device=device
        )
        self._make_tables(device)

    def lengths(self, instruction_lengths: Tensor, with_memory: Tensor, turns: Tensor) -> Tensor:
        """Embeddings of windows with so many turns, answers included; tensors or arrays, (rows,) each."""
        ends = self._turn_ends.to(turns.device)
        return self.body_start(instruction_lengths, with_memory) + ends[turns - 1]

    def body_start(self, instruction_lengths: Tensor, with_memory: Tensor) -> Tensor:
        """(rows,) position at which the first turn begins."""
        fixed = len(self._ids["prefix"]) + len(self._ids["closing"])
        return fixed + instruction_lengths + with_memory.long() * self.memory_length

    @property
    def memory_length(self) -> int:
        """Embeddings of the memory sentence with its frames."""
        text = len(self._ids["memory_before"]) + len(self._ids["memory_after"])
        return text + self.memory_tokens

    def deciding_positions(self, windows: Windows) -> Tensor:
        """(rows, turns, chunk + 1): positions from which each token of each answer is predicted."""
        start = self.body_start(windows.instruction_lengths, windows.with_memory)
        steps = torch.arange(self.chunk_size + 1, device=start.device) - 1
        return start[:, None, None] + self._answer_starts[None, :, None] + steps

    def build(self, windows: Windows, length: int) -> tuple[Tensor, Tensor]:
        """Ids of windows, and where their frames' embeddings go.

        Args:
            windows: what they hold.
            length: positions per row; what is beyond a row's end is filled with anything.

        Returns:
            ids (rows, length) int64; places (rows, length) int64: for positions of frames, index of the embedding
            among the row's `memory_tokens` and those of its `turns` current frames, `tokens_per_frame` each; -1 for
            text.
        """
        device = windows.instructions.device
        places = torch.arange(length, device=device)[None]
        q = places - len(self._ids["prefix"]) - windows.instruction_lengths[:, None]
        instruction = places - len(self._ids["prefix"])
        ids = windows.instructions.gather(1, instruction.clamp(0, windows.instructions.shape[1] - 1).expand(q.shape))
        ids = torch.where(instruction < 0, _look_up(self._pieces["prefix"], places), ids)
        ids = torch.where(q >= 0, _look_up(self._pieces["closing"], q), ids)
        memory = q - len(self._ids["closing"])
        in_memory = (memory >= 0) & (memory < self.memory_length) & windows.with_memory[:, None]
        frames = memory - len(self._ids["memory_before"])
        tokens = self.memory_tokens
        sentence = torch.where(
            frames < 0,
            _look_up(self._pieces["memory_before"], memory),
            _look_up(self._pieces["memory_after"], frames - tokens),
        )
        ids = torch.where(in_memory, sentence, ids)
        sources = torch.where(in_memory & (frames >= 0) & (frames < tokens), frames, -1)
        body = memory - windows.with_memory.long()[:, None] * self.memory_length
        return self._fill_body(windows, body, ids, sources)

    def turn(self, first: Tensor, executed: Tensor, conjunctions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prefill of one turn after the opening: the last answer as it was executed, then the new user turn.

        Args:
            first: (rows,) bool, whether it is the window's first turn (then nothing was answered before).
            executed: (rows, chunk) actions executed since the last turn.
            conjunctions: (rows,) index of `CONJUNCTIONS`.

        Returns:
            ids (rows, longest) int64, right-padded; places (rows, longest): index of the frame's embedding or -1;
            counts (rows,).
        """
        tk = self.tokens_per_frame
        closing = len(self._ids["turn_closing"])
        actions = self.action_ids[executed.clamp(min=0)]
        rows = len(first)
        fixed = self._pieces["turn_opening"].expand(rows, -1)
        end = torch.full_like(conjunctions, self.end_id)[:, None]
        first_conjunction, later_conjunction = (table[conjunctions][:, None] for table in self._conjunction_ids)
        image = torch.full((rows, tk), IMAGE_TOKEN_ID, device=first.device)
        tail = torch.cat([image, self._pieces["turn_closing"].expand(rows, -1)], 1)
        later = torch.cat([actions, end, fixed, later_conjunction, tail], 1)
        opened = torch.cat([first_conjunction, tail], 1)
        opened = torch.nn.functional.pad(opened, (0, later.shape[1] - opened.shape[1]))
        ids = torch.where(first[:, None], opened, later)
        steps = torch.arange(later.shape[1], device=first.device)[None]
        begin = torch.where(first, 1, later.shape[1] - closing - tk)[:, None]
        inside = (steps >= begin) & (steps < begin + tk)
        counts = torch.where(first, 1 + tk + closing, later.shape[1])
        return ids.clamp(min=0), torch.where(inside, steps - begin, -1), counts

    def _fill_body(self, windows: Windows, body: Tensor, ids: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        inside = body >= 0
        r = body.clamp(0, len(self._kinds) - 1)
        kind, turn, value = self._kinds[r], self._turn_of[r], self._values[r]
        conjunction = windows.conjunctions.gather(1, turn)
        actions = windows.executed.flatten(1).gather(
            1, (turn * self.chunk_size + value).clamp(0, windows.executed[0].numel() - 1)
        )
        # After a STOP the turn ends; what stands after that end is never looked at.
        answer = torch.where(
            (value < self.chunk_size) & (actions >= 0), self.action_ids[actions.clamp(min=0)], self.end_id
        )
        text = torch.where(
            kind == _CONJUNCTION, self._conjunction_ids[(turn > 0).long(), conjunction], value.clamp(min=0)
        )
        text = torch.where(kind == _ANSWER, answer, text)
        image = self.memory_tokens + turn * self.tokens_per_frame + value
        ids = torch.where(inside, text, ids)
        return ids, torch.where(inside & (kind == _IMAGE), image, torch.where(inside, -1, sources))

    def _make_tables(self, device: torch.device | str) -> None:
        """Kind, turn and value of every position of a window's turns."""
        kinds: list[int] = []
        turns: list[int] = []
        values: list[int] = []
        answers, ends = [], []

        def put(kind: int, turn: int, entries: list[int]) -> None:
            kinds.extend([kind] * len(entries))
            turns.extend([turn] * len(entries))
            values.extend(entries)

        for turn in range(self.turns):
            if turn:
                put(_TEXT, turn, self._ids["turn_opening"])
            put(_CONJUNCTION, turn, [0])
            put(_IMAGE, turn, list(range(self.tokens_per_frame)))
            put(_TEXT, turn, self._ids["turn_closing"])
            answers.append(len(kinds))
            put(_ANSWER, turn, list(range(self.chunk_size + 1)))
            ends.append(len(kinds))
        self._kinds, self._turn_of, self._values = (torch.tensor(t, device=device) for t in (kinds, turns, values))
        self._answer_starts = torch.tensor(answers, device=device)
        self._turn_ends = torch.tensor(ends, device=device)

    def _check(self) -> None:
        """The pieces, each encoded alone, must be what the dialogue encodes as a whole."""
        ids = self._ids
        words = self._dialogue.encode("Go.")
        image = [IMAGE_TOKEN_ID, *ids["turn_closing"]]
        memory = [*ids["memory_before"], MEMORY_TOKEN_ID, *ids["memory_after"]]
        for number, text in enumerate(CONJUNCTIONS):
            first, later = self._first_conjunctions[number], self._later_conjunctions[number]
            start = [*ids["prefix"], *words, *ids["closing"]]
            expected = {
                tuple(self._dialogue.encode(self._dialogue.first_turn("Go.", text, False))): [*start, *first, *image],
                tuple(self._dialogue.encode(self._dialogue.first_turn("Go.", text, True))): [
                    *start, *memory, *first, *image
                ],
                tuple(self._dialogue.encode(self._dialogue.later_turn(text))): [
                    *ids["turn_opening"], *later, *image
                ],
            }  # fmt: skip
            if len(first) != 1 or len(later) != 1 or any(list(whole) != parts for whole, parts in expected.items()):
                raise CheckpointError(
                    "online training needs a tokenizer in which each conjunction is one token and the dialogue's "
                    "sentences do not join (the package's small one); train this checkpoint from recorded trajectories"
                )


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table[index.clamp(0, len(table) - 1)]
