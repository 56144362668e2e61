"""Model calls of one stream or of many: what the network is shown, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.agents.slow_memory import MemoryFrame
from streamvln_gym.agents.stream import Call, Moment, StreamStats
from streamvln_gym.devices import current_device
from streamvln_gym.models.batched_streaming import Answer, Turn
from streamvln_gym.models.decoding import AnswerRules
from streamvln_gym.models.dialogue import DialogueBuilder
from streamvln_gym.models.frame_encoder import FrameEncoder
from streamvln_gym.models.memory_strategies import MemoryStrategy
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.models.streaming import StreamingSession

STOP = 0
# Frames of one vision-tower pass: bounds the space for activations.
TOWER_FRAMES = 32


class Dialogues(Protocol):
    """The network's side of one or more dialogues, as `BatchedStreamingSession` has it."""

    def answer(self, turns: Sequence[Turn], rules: AnswerRules) -> list[Answer]: ...

    def restart(self, slots: Sequence[int]) -> None: ...


class OneDialogue:
    """A `StreamingSession` as `Dialogues` of a single one."""

    def __init__(self, session: StreamingSession) -> None:
        self._session = session

    def answer(self, turns: Sequence[Turn], rules: AnswerRules) -> list[Answer]:
        (turn,), session = turns, self._session
        if turn.opens:
            session.begin()
        kv_before = session.kv_length
        session.rules = rules
        session.append(turn.ids, turn.image_features, turn.memory_features)
        ids = session.generate()
        return [Answer(ids, session.prompt_ids, session.prefill_length, kv_before, session.kv_length)]

    def restart(self, slots: Sequence[int]) -> None:
        if slots:
            self._session.restart()


class ModelCaller:
    """Moves streams on: by their pending actions, or by model calls that they make together.

    Args:
        model: the network.
        processor: its pictures, tokenizer and actions.
        dialogue: writes the turns.
        strategy: what is kept of frames, and shown.
        rules: gives the decoding rules; asked for each call, so that a changed generation configuration counts at once.
        stats: counters.
        frames: encodes pictures; None means `FrameEncoder`.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        processor: StreamVLNProcessor,
        dialogue: DialogueBuilder,
        strategy: MemoryStrategy,
        rules: Callable[[], AnswerRules],
        stats: StreamStats,
        frames: FrameEncoder | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.frames = frames or FrameEncoder(model, processor)
        self.dialogue = dialogue
        self.strategy = strategy
        self.rules = rules
        self.stats = stats

    def act(self, moments: Sequence[Moment], dialogues: Dialogues) -> list[int]:
        """One action for each stream; those without a pending one call the model."""
        waiting = [moment for moment in moments if not moment.stream.queue]
        chunks = iter(self._call(waiting, dialogues))
        for moment in moments:
            stream = moment.stream
            if stream.queue:
                # A window may show this frame although no call has it (chunks that miss the sampling rule's steps).
                stream.memory.add(moment.step, picture=moment.sight.rgb.copy(), points=moment.sight.points)
                stream.advance(moment.sight, moment.step)
            else:
                stream.queue.push(next(chunks))
            stream.step += 1
        return [moment.stream.queue.pop() for moment in moments]

    @torch.inference_mode()
    def prepare(self, moment: Moment, session: StreamingSession) -> None:
        """Prefills what the next window opens with, where `act` now hands out the last action before its first call.

        The instruction and the memory are known by then, which leaves the new frame to the call itself. Nothing is
        done where a frame of the memory has yet to be encoded (it came with no call): that stays the call's.
        """
        stream, opening = moment.stream, moment.step + 1
        pending = stream.queue.pending
        if len(pending) != 1 or pending[0] == STOP or stream.window.covers(opening):
            return
        history = stream.memory.sample(opening)
        with current_device(self.model.device):
            memory = None if any(frame.tokens is None for frame in history) else self._memory_tokens(history)
            if memory is not None:
                session.prepare(self.dialogue.encode(self.dialogue.opening(moment.sight.instruction)), memory)

    def predict(self, moments: Sequence[Moment], dialogues: Dialogues) -> list[list[int]]:
        """A model call for each stream, and its whole answer; pending actions are dropped."""
        chunks = self._call(moments, dialogues)
        for moment, chunk in zip(moments, chunks, strict=True):
            moment.stream.queue.clear()
            moment.stream.uncounted = len(chunk)
        return chunks

    @torch.inference_mode()
    def _call(self, moments: Sequence[Moment], dialogues: Dialogues) -> list[list[int]]:
        if not moments:
            return []
        try:
            with current_device(self.model.device):
                history = [self._history(moment) for moment in moments]
                features, kept = self._encode(moments, history)
                turns = [self._turn(*parts) for parts in zip(moments, features, history, strict=True)]
                answers = dialogues.answer(turns, self.rules())
        except BaseException:  # out of memory, an interrupt: the dialogue is broken, so the next call opens a window
            for moment in moments:
                moment.stream.window.clear()
            dialogues.restart([moment.slot for moment in moments])
            raise
        for moment, turn, tokens, answer, frames in zip(moments, turns, kept, answers, history, strict=True):
            self._remember(moment, turn.opens, tokens, answer, [frame.step for frame in frames])
        return [self._actions(answer) for answer in answers]

    def _history(self, moment: Moment) -> list[MemoryFrame]:
        """The frames that a window shows that opens now; empty within a window."""
        stream = moment.stream
        return [] if stream.window.covers(moment.step) else stream.memory.sample(moment.step)

    def _encode(
        self, moments: Sequence[Moment], history: Sequence[list[MemoryFrame]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Encodes current frames, and history frames that have not been; no frame twice.

        Returns:
            Per moment the current frame's pooled tokens (1, tokens_per_frame, hidden), and what memory keeps of it.
        """
        frames = {id(frame): frame for part in history for frame in part if frame.tokens is None}
        missing = [(frame, frame.picture) for frame in frames.values() if frame.picture is not None]
        pictures = [picture for _, picture in missing] + [moment.sight.rgb for moment in moments]
        pooled, kept = self._encode_pictures(pictures)
        for (frame, _), tokens in zip(missing, kept, strict=False):
            frame.tokens, frame.picture = tokens, None
        self.stats.history_frames += len(missing)
        self.stats.current_frames += len(moments)
        return [row[None] for row in pooled[len(missing) :]], kept[len(missing) :]

    def _encode_pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[Tensor], list[Tensor]]:
        """Per frame the pooled tokens (tokens_per_frame, hidden), and what the memory keeps (kept, hidden)."""
        features: list[Tensor] = []
        kept: list[Tensor] = []
        for begin in range(0, len(pictures), TOWER_FRAMES):
            patches, pooled = self.frames.encode(pictures[begin : begin + TOWER_FRAMES])
            features += pooled.unbind()
            # Copies: a view would keep the whole batch alive for as long as one of its frames.
            kept += [tokens.clone() for tokens in self.strategy.frame_tokens(patches, pooled)]
        return features, kept

    def _turn(self, moment: Moment, frame: Tensor, history: list[MemoryFrame]) -> Turn:
        stream = moment.stream
        memory = None
        opens = not stream.window.covers(moment.step)
        if opens:
            memory = self._memory_tokens(history)
            instruction = moment.sight.instruction
            text = self.dialogue.first_turn(instruction, stream.conjunctions.next(), memory is not None)
        else:
            text = self.dialogue.later_turn(stream.conjunctions.next())
        return Turn(moment.slot, self.dialogue.encode(text), frame, memory, opens)

    def _memory_tokens(self, frames: list[MemoryFrame]) -> Tensor | None:
        if not frames:
            return None
        kept = torch.stack([frame.tokens for frame in frames if frame.tokens is not None])
        points = [frame.points for frame in frames if frame.points is not None]
        return self.strategy.select(kept, [frame.step for frame in frames], np.stack(points) if points else None)

    def _remember(self, moment: Moment, opened: bool, tokens: Tensor, answer: Answer, history: list[int]) -> None:
        stream, step = moment.stream, moment.step
        stream.advance(moment.sight, step)
        if opened:
            stream.window.open(step)
            stream.memory.window_opened(step)
            self.stats.windows += 1
        stream.memory.add(step, tokens=tokens, points=moment.sight.points)
        self.stats.calls += 1
        self.stats.generated_tokens += len(answer.ids)
        stream.last_call = Call(
            step, answer.prompt_ids, answer.prefill_length, answer.ids, history, answer.kv_before, answer.kv_after
        )

    def _actions(self, answer: Answer) -> list[int]:
        actions = self.processor.parse_actions(answer.ids)
        if not actions:
            self.stats.parse_failures += 1
        return actions or [STOP]
