"""Greedy decoding of an action chunk with a KV cache, optionally held to the action grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration


@dataclass(frozen=True)
class ActionGrammar:
    """Legal answers: `chunk_size` moves, or fewer moves and STOP; then the end of the turn.

    Attributes:
        stop_id: token of STOP.
        move_ids: tokens of FORWARD, LEFT, RIGHT.
        end_id: `<|im_end|>`.
        chunk_size: actions in a full answer.
        header_ids: tokens that every answer starts with (prompt style "published"), else empty.
    """

    stop_id: int
    move_ids: tuple[int, ...]
    end_id: int
    chunk_size: int = 4
    header_ids: tuple[int, ...] = field(default=())

    def allowed(self, answer: Sequence[int]) -> tuple[int, ...]:
        """Token ids that may follow `answer` (the ids generated so far)."""
        if len(answer) < len(self.header_ids):
            return (self.header_ids[len(answer)],)
        actions = answer[len(self.header_ids) :]
        if len(actions) >= self.chunk_size or self.stop_id in actions:
            return (self.end_id,)
        return (*self.move_ids, self.stop_id)


@torch.inference_mode()
def greedy_decode(
    model: StreamVLNForConditionalGeneration,
    cache: Cache,
    prompt: Tensor,
    end_id: int,
    max_new_tokens: int,
    grammar: ActionGrammar | None = None,
    repetition_penalty: float = 1.0,
) -> list[int]:
    """Prefills `prompt` and decodes one answer.

    Args:
        model: the network, in eval mode.
        cache: KV cache of what came before; grows by the prompt and by all but the last generated token.
        prompt: (1, length, hidden) embeddings.
        end_id: token that ends the answer.
        max_new_tokens: the answer is cut here.
        grammar: restricts each token; None decodes freely.
        repetition_penalty: as in transformers; sees the current answer's tokens only.

    Returns:
        Generated ids, `end_id` included if it came.
    """
    embeddings = model.get_input_embeddings()
    logits = model.decode_step(prompt, cache)[0]
    answer: list[int] = []
    while True:
        token = _best_token(logits, answer, grammar, repetition_penalty)
        answer.append(token)
        if token == end_id or len(answer) >= max_new_tokens:
            return answer
        step = torch.tensor([[token]], device=prompt.device)
        logits = model.decode_step(embeddings(step), cache)[0]


def _best_token(logits: Tensor, answer: Sequence[int], grammar: ActionGrammar | None, penalty: float) -> int:
    if penalty != 1.0 and answer:
        seen = torch.tensor(sorted(set(answer)), device=logits.device)
        score = logits[seen]
        logits = logits.index_copy(0, seen, torch.where(score < 0, score * penalty, score / penalty))
    if grammar is None:
        return int(logits.argmax())
    allowed = grammar.allowed(answer)
    if len(allowed) == 1:
        return allowed[0]
    return allowed[int(logits[list(allowed)].argmax())]
