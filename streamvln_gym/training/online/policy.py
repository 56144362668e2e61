"""The policy for many streams in step: one chunk for all of them at a time, every tensor on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.slot_cache import SlotCache
from streamvln_gym.training.online.batches import memory_turns
from streamvln_gym.training.online.forward import FrameTokens, to_pixels
from streamvln_gym.training.online.layout import DialogueLayout, Windows

_FRAMES_AT_ONCE = 512


@dataclass
class Answers:
    """What the streams' policy decided.

    Attributes:
        actions: (streams, chunk) int64; what follows a STOP means nothing.
        log_probs: (streams, chunk) float32, of the actions among the four.
        states: (streams, hidden), from which each answer's first action was decided.
    """

    actions: Tensor
    log_probs: Tensor
    states: Tensor


class StreamsPolicy:
    """Streams whose calls come every `chunk_size` steps, as `StreamVLNAgent` would answer them.

    Args:
        model: the network, in eval mode.
        layout: of its dialogue.
        streams: how many.
        max_turns: chunks of an episode at most, a multiple of a window's; then a stream forgets and begins anew.
        instruction_length: longest instruction, tokens.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        layout: DialogueLayout,
        streams: int,
        max_turns: int,
        instruction_length: int,
    ) -> None:
        self.model = model
        self.layout = layout
        self.device = model.lm_head.weight.device
        self._longest = int(
            layout.lengths(torch.tensor([instruction_length]), torch.tensor([True]), torch.tensor([layout.turns]))[0]
        )
        self._cache = SlotCache(model, streams, self._longest)
        hidden = model.config.text_config.hidden_size
        patches = model.config.patches_per_side**2
        kept = layout.strategy.most_tokens(1, patches, layout.tokens_per_frame)  # of a frame
        shape = (streams, max_turns, kept, hidden)
        self._kept = torch.zeros(shape, dtype=model.dtype, device=self.device)
        self._all = torch.arange(streams, device=self.device)
        self._turns = np.zeros(streams, dtype=np.int64)
        self._instructions = torch.zeros((streams, instruction_length), dtype=torch.int64, device=self.device)
        self._instruction_lengths = np.zeros(streams, dtype=np.int64)

    @property
    def turns(self) -> NDArray[np.int64]:
        """(streams,) number of the turn that the next `act` decides, where no episode starts."""
        return self._turns

    def begin(self, instructions: dict[int, list[int]]) -> None:
        """Starts episodes.

        Args:
            instructions: token ids by stream.
        """
        if not instructions:
            return
        streams = list(instructions)
        self._turns[streams] = 0
        padded = np.zeros((len(streams), self._instructions.shape[1]), dtype=np.int64)
        for k, ids in enumerate(instructions.values()):
            padded[k, : len(ids)] = ids
            self._instruction_lengths[streams[k]] = len(ids)
        rows = torch.tensor(streams, device=self.device)
        self._instructions[rows] = torch.from_numpy(padded).to(self.device)

    @torch.inference_mode()
    def act(self, rgb: Tensor, executed: Tensor, conjunctions: Tensor, sampled: Tensor | None = None) -> Answers:
        """Answers every stream's present frame.

        Args:
            rgb: (streams, size, size, 3) uint8.
            executed: (streams, chunk) int64, what was executed since the last frame (of a new episode: anything).
            conjunctions: (streams,) int64, index of `CONJUNCTIONS`.
            sampled: (streams,) bool, whose actions are drawn from the policy's distribution; None: greedy.
        """
        turns = self._turns % self._kept.shape[1]  # a stream that rests is answered too, and counts on
        turn = torch.from_numpy(turns).to(self.device)
        encoded = [self._encode(part) for part in rgb.split(_FRAMES_AT_ONCE)]
        frames = torch.cat([part.current for part in encoded]).to(self.model.dtype)
        self._kept[self._all, turn] = torch.cat([part.kept for part in encoded]).to(self.model.dtype)
        opening = np.flatnonzero(turns % self.layout.turns == 0)
        if len(opening):
            self._open(opening, turns[opening] // self.layout.turns)
        first = turn % self.layout.turns == 0
        ids, places, counts = self.layout.turn(first, executed, conjunctions)
        embeddings = self._embed(ids)
        source = frames.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, frames.shape[-1]))
        embeddings = torch.where((places >= 0)[..., None], source, embeddings)
        longest = self._longest_window(turns)
        hidden = self._cache.extend(embeddings, None, counts, longest=longest)
        answer = self._decode(hidden, sampled, longest)
        self._turns += 1
        return answer

    def _longest_window(self, turns: NDArray[np.int64]) -> int:
        """Embeddings of the longest window of all streams once it is answered: attention covers so many."""
        within = torch.from_numpy(turns % self.layout.turns + 1)
        later = torch.from_numpy((turns >= self.layout.turns) & (self.layout.num_history > 0))
        return int(self.layout.lengths(torch.from_numpy(self._instruction_lengths), later, within).max())

    def _open(self, opening: NDArray[np.int64], number: NDArray[np.int64]) -> None:
        """Prefills instruction and memory of the streams whose window (of that number) begins."""
        layout = self.layout
        rows = torch.from_numpy(opening).to(self.device)
        later = (number > 0) & (layout.num_history > 0)
        lengths = torch.from_numpy(self._instruction_lengths[opening])
        starts = layout.body_start(lengths, torch.from_numpy(later))
        windows = Windows(
            self._instructions[rows],
            lengths.to(self.device),
            torch.from_numpy(later).to(self.device),
            torch.full((len(rows), layout.turns, layout.chunk_size), -1, device=self.device),
            torch.zeros((len(rows), layout.turns), dtype=torch.int64, device=self.device),
        )
        ids, places = layout.build(windows, int(starts.max()))
        embeddings = self._embed(ids)
        if layout.num_history:
            shown = memory_turns(int(number.max()), layout.turns * layout.chunk_size, layout)[number]
            memory = layout.strategy.select(self._kept[rows[:, None], torch.from_numpy(shown).to(self.device)], ())
            inside = (places >= 0) & (places < memory.shape[1])
            source = memory.gather(1, places.clamp(0, memory.shape[1] - 1)[..., None].expand(-1, -1, memory.shape[-1]))
            embeddings = torch.where(inside[..., None], source, embeddings)
        self._cache.restart(rows)
        self._cache.extend(embeddings, rows, starts.to(self.device), longest=int(starts.max()))

    def _decode(self, hidden: Tensor, sampled: Tensor | None, longest: int) -> Answers:
        """The answers; the cache is left as it was after the prefill."""
        prefilled = self._cache.lengths.clone()
        head = self.model.lm_head.weight[self.layout.action_ids]
        states = hidden
        actions: list[Tensor] = []
        log_probs: list[Tensor] = []
        for k in range(self.layout.chunk_size):
            logits = (hidden @ head.T).float()
            action = logits.argmax(-1)
            if sampled is not None:
                drawn = torch.multinomial(logits.softmax(-1), 1)[:, 0]
                action = torch.where(sampled, drawn, action)
            actions.append(action)
            log_probs.append(logits.log_softmax(-1).gather(1, action[:, None])[:, 0])
            if k < self.layout.chunk_size - 1:
                token = self._embed(self.layout.action_ids[action])[:, None]
                hidden = self._cache.extend(token, longest=longest)
        self._cache.lengths.copy_(prefilled)
        return Answers(torch.stack(actions, 1), torch.stack(log_probs, 1), states)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.language_model.embed_tokens(ids)

    def _encode(self, rgb: Tensor) -> FrameTokens:
        patches = self.model.encode_patches(to_pixels(rgb, self.model.dtype))
        return FrameTokens.of(self.model, self.layout, patches)
