"""How an answer's next token is chosen: repetition penalty, logits processors, the action grammar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# As in transformers: (ids generated so far (rows, n), scores (rows, vocab)) -> scores (rows, vocab).
LogitsProcessor = Callable[[Tensor, Tensor], Tensor]


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


@dataclass(frozen=True)
class AnswerRules:
    """Decoding of one answer: the best token at each place, or a drawn one.

    The order is that of transformers' `generate`: repetition penalty, then the processors, then the grammar.

    Attributes:
        end_ids: tokens that end the answer.
        max_new_tokens: the answer is cut here.
        grammar: restricts each token; None decodes freely.
        repetition_penalty: as in transformers; sees the tokens of the current answer only, as `generate` does when it
            is given embeddings.
        logits_processor: transformers' logits processors (or plain callables of that signature).
        drawn: draw tokens from their probabilities, with torch's own random state.
    """

    end_ids: tuple[int, ...]
    max_new_tokens: int
    grammar: ActionGrammar | None = None
    repetition_penalty: float = 1.0
    logits_processor: tuple[LogitsProcessor, ...] = ()
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}")

    def forced(self, answer: Sequence[int]) -> int | None:
        """The only token that the grammar lets follow `answer`; no logits are needed for it."""
        if self.grammar is None:
            return None
        allowed = self.grammar.allowed(answer)
        return allowed[0] if len(allowed) == 1 else None

    def branches(self, answer: Sequence[int]) -> list[int]:
        """Tokens that the grammar lets follow `answer` and after which there is a choice again."""
        if self.grammar is None:
            return []
        allowed = self.grammar.allowed(answer)
        longer = [[*answer, token] for token in allowed]
        return [ids[-1] for ids in longer if not self.ends(ids) and self.forced(ids) is None]

    def choose(self, logits: Tensor, answer: Sequence[int]) -> int:
        """The token after `answer`.

        Args:
            logits: (vocab,) as the network gives them; left unchanged.
            answer: ids generated so far.
        """
        if self.repetition_penalty != 1.0 and answer:
            seen = torch.tensor(sorted(set(answer)), device=logits.device)
            score = logits[seen]
            factor = self.repetition_penalty
            logits = logits.index_copy(0, seen, torch.where(score < 0, score * factor, score / factor))
        if self.logits_processor:
            ids = torch.tensor([list(answer)], dtype=torch.long, device=logits.device)
            scores = logits[None].clone()
            for processor in self.logits_processor:
                scores = processor(ids, scores)
            logits = scores[0]
        if self.drawn:
            logits = with_noise(logits)
        if self.grammar is None:
            return int(logits.argmax())
        allowed = self.grammar.allowed(answer)
        return allowed[int(logits[list(allowed)].argmax())]

    def ends(self, answer: Sequence[int]) -> bool:
        """Whether `answer` is complete, or cut."""
        return bool(answer) and (answer[-1] in self.end_ids or len(answer) >= self.max_new_tokens)


def with_noise(scores: Tensor) -> Tensor:
    """Scores plus Gumbel noise: the best of them is then one drawn from their softmax."""
    return scores - torch.empty_like(scores, dtype=torch.float32).exponential_().log()
