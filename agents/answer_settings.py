"""How an agent's answers are decoded: what its settings and the checkpoint's generation configuration come to."""

from __future__ import annotations

from collections.abc import Sequence

from streamvln_gym.models.decoding import ActionGrammar, AnswerRules, LogitsProcessor
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor


def action_grammar(processor: StreamVLNProcessor, chunk_size: int, header_ids: Sequence[int]) -> ActionGrammar:
    """The grammar of a processor's actions.

    Args:
        processor: knows the tokens.
        chunk_size: actions of a full answer.
        header_ids: tokens that every answer starts with.
    """
    stop_id, *move_ids = processor.action_ids
    return ActionGrammar(stop_id, tuple(move_ids), processor.turn_end_id, chunk_size, tuple(header_ids))


class AnswerSettings:
    """Makes the rules of each model call anew, so that a changed generation configuration counts at once.

    Args:
        model: whose generation configuration is read.
        turn_end_id: `<|im_end|>`, which ends every answer.
        max_new_tokens: cut of an answer.
        grammar: what answers are held to; None: nothing.
        repetition_penalty: None means as the generation configuration says.
        logits_processor: transformers' logits processors.

    Attributes:
        drawn: whether tokens are drawn from their probabilities for now.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        turn_end_id: int,
        max_new_tokens: int,
        grammar: ActionGrammar | None,
        repetition_penalty: float | None,
        logits_processor: Sequence[LogitsProcessor],
    ) -> None:
        self.drawn = False
        self.logits_processor = tuple(logits_processor)
        self._model = model
        self._turn_end_id = turn_end_id
        self._max_new_tokens = max_new_tokens
        self._grammar = grammar
        self._penalty = repetition_penalty

    def rules(self) -> AnswerRules:
        """The rules as of now."""
        generation = self._model.generation_config
        ends = getattr(generation, "eos_token_id", None)
        end_ids = dict.fromkeys([self._turn_end_id, *(ends if isinstance(ends, list) else [ends])])
        end_ids.pop(None, None)
        penalty = self._penalty
        if penalty is None:
            penalty = getattr(generation, "repetition_penalty", None) or 1.0
        return AnswerRules(
            tuple(end_ids), self._max_new_tokens, self._grammar, penalty, self.logits_processor, self.drawn
        )
