"""Many dialogues with one network: turns of several of them are prefilled, and answered, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.decoding import with_noise
from streamvln_gym.models.slot_cache import SlotCache

if TYPE_CHECKING:
    from streamvln_gym.models.decoding import AnswerRules
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration

# Turns go through together where the longest is at most this much longer than the shortest.
LENGTH_RATIO = 1.5
# Embeddings, padding included, of one pass: bounds the space for activations.
PASS_EMBEDDINGS = 32_768
# Positions that a slot has space for to begin with; the cache grows.
FIRST_LENGTH = 256


@dataclass(frozen=True)
class Turn:
    """A user turn of one dialogue.

    Attributes:
        slot: which dialogue.
        ids: token ids with -200 for each frame and at most one -300 for the memory.
        image_features: (frames, tokens_per_frame, hidden), one per -200.
        memory_features: (memory_tokens, hidden) for -300.
        opens: the dialogue starts anew with this turn.
    """

    slot: int
    ids: Sequence[int]
    image_features: Tensor | None = None
    memory_features: Tensor | None = None
    opens: bool = False


@dataclass(frozen=True)
class Answer:
    """What the network said to a turn.

    Attributes:
        ids: generated ids, the ending token included if it came.
        prompt_ids: ids of the prefill, special positions unexpanded; they open with what was carried.
        prefill_length: embeddings of the prompt.
        kv_before: positions that the dialogue held before.
        kv_after: positions that it holds now.
    """

    ids: list[int]
    prompt_ids: list[int]
    prefill_length: int
    kv_before: int
    kv_after: int


class BatchedStreamingSession:
    """`StreamingSession` for many dialogues at once: the same answers, with one pass for many of them.

    Tokens of an answer that nothing was decided after are not fed by themselves. They open the dialogue's next prefill,
    so an answer of four moves and `<|im_end|>` takes three passes after its prefill, and a forced header takes none.

    Args:
        model: the network, in eval mode on one device.
        slots: dialogues.
        closing_id: token that closes an answer which was cut before its end; None leaves it open.

    Attributes:
        carried_ids: per dialogue the ids that its cache lacks; they open its next prefill.
        kv_lengths: per dialogue the positions in its cache.
        cache: keys and values; made at the first answer.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, slots: int, closing_id: int | None = None) -> None:
        self.model = model
        self.slots = slots
        self.closing_id = closing_id
        self.cache: SlotCache | None = None
        self.carried_ids: list[list[int]] = [[] for _ in range(slots)]
        self.kv_lengths = [0] * slots

    def restart(self, slots: Sequence[int]) -> None:
        """Drops dialogues: positions and what was carried."""
        for slot in slots:
            self.carried_ids[slot] = []
            self.kv_lengths[slot] = 0
        if self.cache is not None and slots:
            self.cache.restart(self._index(slots))

    @torch.inference_mode()
    def answer(self, turns: Sequence[Turn], rules: AnswerRules) -> list[Answer]:
        """Prefills turns and decodes the answers to them.

        Args:
            turns: at most one per dialogue.
            rules: how answers are decoded. Its logits processors see all answers that are still going on at once, as
                rows.

        Returns:
            One answer per turn.

        Raises:
            ValueError: two turns are of one dialogue, or special positions and features do not match. After this or
                any other error, `restart` the dialogues of these turns.
        """
        if not turns:
            return []
        if len({turn.slot for turn in turns}) != len(turns):
            raise ValueError(f"a dialogue can be answered once at a time, got turns of {[turn.slot for turn in turns]}")
        self.restart([turn.slot for turn in turns if turn.opens])
        rows = sorted((Row(turn, self.carried_ids[turn.slot]) for turn in turns), key=lambda row: row.turn.slot)
        before = {row.turn.slot: self.kv_lengths[row.turn.slot] for row in rows}
        for row in rows:
            row.extend_by_force(rules)
        hidden = self._prefill(rows, rules)
        active = [] if rules.ends(rows[0].answer) else rows  # what is forced at first is the same for all
        while active:
            tokens = choose_tokens(rules, self.model.lm_head(hidden), [row.answer for row in active])
            for row, token in zip(active, tokens, strict=True):
                row.answer.append(token)
                row.extend_by_force(rules)
            active = [row for row in active if not rules.ends(row.answer)]
            if active:
                hidden = self._feed(active, [row.take_unfed() for row in active])
        for row in rows:
            cut = row.answer[-1] not in rules.end_ids and self.closing_id is not None
            closing = [self.closing_id] if cut and self.closing_id is not None else []
            self.carried_ids[row.turn.slot] = row.answer[row.fed :] + closing
        done = {row.turn.slot: row for row in rows}
        return [self._report(done[turn.slot], before[turn.slot]) for turn in turns]

    def _report(self, row: Row, kv_before: int) -> Answer:
        return Answer(row.answer, row.prompt_ids, row.prompt_length, kv_before, self.kv_lengths[row.turn.slot])

    def _prefill(self, rows: list[Row], rules: AnswerRules) -> Tensor:
        """The prompts, those of similar length together; (rows, hidden) after each."""
        prompts = [row.take_prompt(rules) for row in rows]
        order: list[int] = []
        parts: list[Tensor] = []
        for group in group_by_length([len(prompt) for prompt in prompts]):
            members = [rows[number] for number in group]
            parts.append(self._feed(members, [prompts[number] for number in group]))
            order += group
        return parts[0] if len(parts) == 1 else torch.cat(parts)[self._index(np.argsort(order))]

    def _feed(self, rows: list[Row], ids: list[list[int]]) -> Tensor:
        """One pass; `ids` have special ids repeated as often as they take embeddings."""
        counts = [len(row) for row in ids]
        slots = [row.turn.slot for row in rows]
        padded = np.zeros((len(ids), max(counts)), np.int64)
        for number, row in enumerate(ids):
            padded[number, : len(row)] = row
        embeddings = self._embed(padded, [row.turn for row in rows])
        for slot, count in zip(slots, counts, strict=True):
            self.kv_lengths[slot] += count
        longest = max(self.kv_lengths[slot] for slot in slots)
        if self.cache is None:
            self.cache = SlotCache(self.model, self.slots, max(FIRST_LENGTH, longest))
        every = len(slots) == self.slots
        even = min(counts) == max(counts)
        return self.cache.extend(
            embeddings, None if every else self._index(slots), None if even else self._index(counts), longest
        )

    def _embed(self, ids: NDArray[np.int64], turns: list[Turn]) -> Tensor:
        """(rows, length, hidden) with features where `ids` has special positions."""
        table = cast(nn.Embedding, self.model.get_input_embeddings())
        embeddings = table(self._index(np.maximum(ids, 0)))
        images = [turn.image_features.flatten(0, 1) for turn in turns if turn.image_features is not None]
        memories = [turn.memory_features for turn in turns if turn.memory_features is not None]
        flat = embeddings.flatten(0, 1)
        for special, features in ((IMAGE_TOKEN_ID, images), (MEMORY_TOKEN_ID, memories)):
            places = np.flatnonzero(ids == special)
            if len(places):
                flat.index_copy_(0, self._index(places), torch.cat(features).to(flat))
        return embeddings

    def _index(self, numbers: Sequence[int] | NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(np.asarray(numbers, dtype=np.int64)).to(self.model.device)


class Row:
    """A turn on its way to its answer.

    Attributes:
        turn: the turn.
        prompt_ids: carried ids and the turn's.
        prompt_length: embeddings that they take.
        answer: ids generated so far.
        fed: how many of them went through the network.
    """

    def __init__(self, turn: Turn, carried: Sequence[int]) -> None:
        self.turn = turn
        self.prompt_ids = [*carried, *turn.ids]
        self._expanded = expand_ids(turn, self.prompt_ids)
        self.prompt_length = len(self._expanded)
        self.answer: list[int] = []
        self.fed = 0

    def extend_by_force(self, rules: AnswerRules) -> None:
        """Adds the tokens that the grammar leaves no choice about."""
        while not rules.ends(self.answer):
            forced = rules.forced(self.answer)
            if forced is None:
                return
            self.answer.append(forced)

    def take_unfed(self) -> list[int]:
        """Generated ids that the network has yet to see."""
        ids, self.fed = self.answer[self.fed :], len(self.answer)
        return ids

    def take_prompt(self, rules: AnswerRules) -> list[int]:
        """The prefill: the prompt, and what of the answer was forced, unless that is all of it."""
        return self._expanded if rules.ends(self.answer) else self._expanded + self.take_unfed()


def expand_ids(turn: Turn, prompt_ids: list[int]) -> list[int]:
    """Repeats special ids once per embedding that takes their place."""
    images = 0 if turn.image_features is None else len(turn.image_features)
    memories = 0 if turn.memory_features is None else 1
    for name, special, given in (("<image>", IMAGE_TOKEN_ID, images), ("<memory>", MEMORY_TOKEN_ID, memories)):
        if prompt_ids.count(special) != given:
            raise ValueError(
                f"the turn of dialogue {turn.slot} has {prompt_ids.count(special)} {name} positions, but features for "
                f"{given} were given"
            )
    expanded: list[int] = []
    for token in prompt_ids:
        if token == IMAGE_TOKEN_ID and turn.image_features is not None:
            expanded += [token] * turn.image_features.shape[1]
        elif token == MEMORY_TOKEN_ID and turn.memory_features is not None:
            expanded += [token] * len(turn.memory_features)
        else:
            expanded.append(token)
    return expanded


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Which rows go through together, so that little of a pass is padding.

    Args:
        lengths: embeddings of each row.

    Returns:
        Groups of row numbers, each in ascending order.
    """
    groups: list[list[int]] = []
    shortest = 0
    for number in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        length = lengths[number]
        fits = groups and length <= LENGTH_RATIO * shortest and length * (len(groups[-1]) + 1) <= PASS_EMBEDDINGS
        if not fits:
            groups.append([])
            shortest = length
        groups[-1].append(number)
    return [sorted(group) for group in groups]


def choose_tokens(rules: AnswerRules, logits: Tensor, answers: Sequence[Sequence[int]]) -> list[int]:
    """`AnswerRules.choose` for many answers of the same length.

    Args:
        rules: how answers are decoded.
        logits: (rows, vocab); left unchanged.
        answers: ids generated so far, one row each.

    Returns:
        The token after each answer.
    """
    ids = torch.tensor([list(answer) for answer in answers], dtype=torch.long, device=logits.device)
    if rules.repetition_penalty != 1.0 and ids.shape[1]:
        score, factor = logits.gather(1, ids), rules.repetition_penalty
        logits = logits.scatter(1, ids, torch.where(score < 0, score * factor, score / factor))
    if rules.logits_processor:
        logits = logits.clone()
        for processor in rules.logits_processor:
            logits = processor(ids, logits)
    if rules.drawn:
        logits = with_noise(logits)
    if rules.grammar is None:
        return logits.argmax(1).tolist()
    allowed = [rules.grammar.allowed(answer) for answer in answers]
    widest = max(map(len, allowed))
    padded = [[*tokens, *tokens[:1] * (widest - len(tokens))] for tokens in allowed]
    best = logits.gather(1, torch.tensor(padded, device=logits.device)).argmax(1).tolist()
    return [tokens[index] for tokens, index in zip(padded, best, strict=True)]
