"""One dialogue with the network as a growing KV cache: append a turn, prefill it, generate the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamvln_gym.models.branches import Branches, can_branch
from streamvln_gym.models.decoding import AnswerRules
from streamvln_gym.models.prepared_opening import PreparedOpening

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration


class StreamingSession:
    """The network's side of a dialogue. Frames come in as features; nothing is embedded or attended to twice.

        session.append(first_turn_ids, image_features, memory_features)
        answer = session.generate()
        session.append(later_turn_ids, image_features)  # opens with what the cache still lacks of `answer`
        ...

    Positions count 0, 1, 2, ... from `restart` on. An answer's last token, mostly `<|im_end|>`, is generated but not
    fed, and neither are tokens before it that nothing was decided after: they open the next turn's prefill
    (`carried_ids`). Where a grammar leaves few tokens to choose from, each pass looks one token ahead (`Branches`). So
    an answer of four moves and a forced `<|im_end|>` takes one pass after its prefill.

    Args:
        model: the network, in eval mode.
        rules: how answers are decoded.
        closing_id: token that closes an answer which was cut before its end; None leaves it open.
        record: keep the embeddings and logits of the dialogue for inspection; every token then takes a pass, without
            looking ahead.

    Attributes:
        carried_ids: ids that the cache lacks; they open the next prefill.
        prompt_ids: ids of the latest prefill, special positions unexpanded.
        prefill_length: embeddings of the latest prefill, prepared ones included.
        prepared: what `prepare` prefilled for the next dialogue, until that begins.
        embeddings: with `record`, (1, length, hidden) of each turn and generated token since `restart`.
        logits: with `record`, (vocab,) for each token of the latest answer, before any penalty or restriction.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        rules: AnswerRules,
        closing_id: int | None = None,
        record: bool = False,
    ) -> None:
        self.model = model
        self.rules = rules
        self.closing_id = closing_id
        self.record = record
        self.restart()

    def restart(self) -> None:
        """Drops the dialogue (cache, positions and what was carried), and what was prepared for the next one."""
        self.prepared: PreparedOpening | None = None
        self.begin()

    def begin(self) -> None:
        """Drops the dialogue as `restart` does, but its successor can open with what was prepared."""
        self._cache: Cache | None = None
        self._staged: Tensor | None = None
        self._hidden: Tensor | None = None
        self._branches: Branches | None = None
        self.carried_ids: list[int] = []
        self.prompt_ids: list[int] = []
        self.prefill_length = 0
        self.embeddings: list[Tensor] = []
        self.logits: list[Tensor] = []

    @property
    def kv_length(self) -> int:
        """Positions that the KV cache holds."""
        return 0 if self._cache is None else int(self._cache.get_seq_length())

    @property
    def positions(self) -> range:
        """Positions that the cache holds; the next embedding takes the one after."""
        return range(self.kv_length)

    @property
    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer (keys, values), each (1, kv_heads, kv_length, head_dim); views, not copies."""
        layers: list[Any] = [] if self._cache is None else list(self._cache.layers)
        return [(layer.keys, layer.values) for layer in layers]

    @torch.inference_mode()
    def prepare(self, opening_ids: Sequence[int], memory_features: Tensor | None = None) -> None:
        """Prefills what the next dialogue's first turn is expected to open with; the present dialogue goes on.

        After `begin`, the first prefill makes use of it if its turn does open so, and else drops it.

        Args:
            opening_ids: token ids with at most one -300 for the memory.
            memory_features: (memory_tokens, hidden).

        Raises:
            ValueError: special positions and features do not match.
        """
        self.prepared = PreparedOpening(self.model, self.model.embed(opening_ids, None, memory_features))

    @torch.inference_mode()
    def append(
        self, turn_ids: Sequence[int], image_features: Tensor | None = None, memory_features: Tensor | None = None
    ) -> None:
        """Takes a user turn in; it follows what was carried from the last answer.

        Args:
            turn_ids: token ids with -200 for each frame and at most one -300 for the memory.
            image_features: (frames, tokens_per_frame, hidden).
            memory_features: (memory_tokens, hidden).

        Raises:
            RuntimeError: the turn before has not been answered.
            ValueError: special positions and features do not match.
        """
        if self._staged is not None or self._hidden is not None:
            raise RuntimeError("the last turn is not answered yet: call generate() before the next append()")
        prompt_ids = [*self.carried_ids, *turn_ids]
        self._staged = self.model.embed(prompt_ids, image_features, memory_features)
        self.prompt_ids = prompt_ids
        self.carried_ids = []

    @torch.inference_mode()
    def prefill(self) -> int:
        """Runs the appended turn through the language model; its length in embeddings.

        Raises:
            RuntimeError: nothing was appended.
        """
        return self._prefill([])

    def _prefill(self, branches: list[int]) -> int:
        if self._staged is None:
            raise RuntimeError("there is no turn to prefill: call append() first")
        staged, self._staged = self._staged, None
        self.prefill_length = staged.shape[1]
        self._feed(staged, branches, self._take_prepared(staged))
        return self.prefill_length

    def _take_prepared(self, turn: Tensor) -> int:
        """Starts a dialogue from what was prepared, if it opens `turn`; how many embeddings of it that holds."""
        if self._cache is not None:
            return 0
        prepared, self.prepared = self.prepared, None
        if prepared is None or not prepared.opens(turn):
            return 0
        self._cache = prepared.cache
        return len(prepared)

    @torch.inference_mode()
    def generate(self) -> list[int]:
        """Decodes the answer to the appended turn (after prefilling it, where that is still due).

        Logits are computed only for tokens that are chosen: one position of a prefill, none where the grammar leaves
        no choice.

        Returns:
            Generated ids, the ending token included if it came.
        """
        answer: list[int] = []
        if self._hidden is None:
            self._prefill(self._to_branch(answer))
        self.logits = []
        fed = 0
        while not self.rules.ends(answer):
            forced = self.rules.forced(answer)
            if forced is None or self.record:
                self._catch_up(answer, fed)
                fed = len(answer)
                logits = self._logits()
                answer.append(self.rules.choose(logits, answer) if forced is None else forced)
            else:
                answer.append(forced)
        self._settle(None)
        self._hidden = None
        cut = answer[-1] not in self.rules.end_ids and self.closing_id is not None
        self.carried_ids = answer[fed:] + ([self.closing_id] if cut and self.closing_id is not None else [])
        return answer

    def _logits(self) -> Tensor:
        logits = self.model.lm_head(self._hidden)[0]
        if self.record:
            self.logits.append(logits)
        return logits

    def _to_branch(self, answer: list[int]) -> list[int]:
        return [] if self.record or not can_branch(self.model) else self.rules.branches(answer)

    def _catch_up(self, answer: list[int], fed: int) -> None:
        """Feeds what the cache lacks of `answer`: all but `fed` ids."""
        if fed < len(answer) and self._settle(answer[fed]):
            fed += 1
        if fed < len(answer):
            self._feed(self.model.embed(answer[fed:]), self._to_branch(answer))

    def _settle(self, chosen: int | None) -> bool:
        """Whether the chosen token was looked ahead to; it has then been fed."""
        branches, self._branches = self._branches, None
        hidden = None if branches is None or self._cache is None else branches.settle(self._cache, chosen)
        if hidden is not None:
            self._hidden = hidden
        return hidden is not None

    def _feed(self, embeddings: Tensor, branches: list[int], held: int = 0) -> None:
        """Goes on with `embeddings`, whose first `held` are in the cache already, and looks ahead to `branches`."""
        if self._cache is None:
            self._cache = self.model.new_cache()
        fed = embeddings[:, held:]
        if branches:
            fed = torch.cat([fed, self.model.embed(branches)], 1)
        hidden = self.model.extend(fed, self._cache, len(branches))
        self._hidden = hidden[:1]
        if branches:
            self._branches = Branches(branches, hidden[1:])
        if self.record:
            self.embeddings.append(embeddings)
