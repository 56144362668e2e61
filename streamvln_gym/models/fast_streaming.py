"""Dialogues at the speed of the hardware: answers of actions alone, decided on the device, one transfer each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamvln_gym.models.batched_streaming import Answer, Turn, expand_ids
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.look_ahead import MoveTree, deepest_tree, walk
from streamvln_gym.models.packed_language import PackedLanguageModel, is_plain, weights_place
from streamvln_gym.models.packed_ops import PackedOps, TorchOps
from streamvln_gym.models.packed_plan import RECORDED_TOKENS, PackedArrays, PackedPlan, pack_rows, send
from streamvln_gym.models.recorded_calls import RecordedCalls
from streamvln_gym.models.stream_cache import StreamCache

if TYPE_CHECKING:
    from streamvln_gym.models.decoding import ActionGrammar, AnswerRules
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration

# Embeddings of one pass: bounds the space for activations. Far less would leave a large GPU idle.
PASS_TOKENS = 16_384
# Streams up to which an answer is looked ahead to as a whole: their trees cost less than reading the weights again.
WHOLE_ANSWERS = 4
# Positions that a slot has space for to begin with.
FIRST_LENGTH = 1024


def why_not_fast(model: StreamVLNForConditionalGeneration, rules: AnswerRules) -> str | None:
    """What keeps `FastSession` from serving this network with these rules; None: nothing."""
    return _why_not_network(model) or _why_not_rules(rules)


def _why_not_network(model: StreamVLNForConditionalGeneration) -> str | None:
    if set(model.language_model.config.layer_types or ()) != {"full_attention"}:
        return "the language model has sliding attention"
    if not is_plain(model.lm_head) or model.lm_head.bias is not None:
        return "the head is no plain linear layer"
    if len({weight.device for weight in model.parameters()}) > 1:
        return "the network is spread over devices"
    if model.device.type == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    return None


def _why_not_rules(rules: AnswerRules) -> str | None:
    grammar = rules.grammar
    if grammar is None:
        return "answers are not held to the action grammar (constrained=False)"
    if rules.logits_processor:
        return "there are logits processors"
    longest = len(grammar.header_ids) + grammar.chunk_size + 1
    inner = {*grammar.move_ids, grammar.stop_id, *grammar.header_ids}
    if rules.max_new_tokens < longest or grammar.end_id not in rules.end_ids or inner & set(rules.end_ids):
        return "answers could end before the grammar's end"
    return None


@dataclass(frozen=True)
class _Rules:
    """What of the rules an answer on the device depends on."""

    grammar: ActionGrammar
    penalty: float

    @property
    def allowed(self) -> tuple[int, ...]:
        return (*self.grammar.move_ids, self.grammar.stop_id)

    @property
    def seen(self) -> list[bool]:
        """Which allowed tokens the answer has before its first action."""
        return [token in self.grammar.header_ids for token in self.allowed]


class FastSession:
    """`BatchedStreamingSession` for answers under the action grammar, without waiting for the device on the way.

    The prompts of all streams are packed into one pass, without padding; a tree of the moves that may follow
    (`MoveTree`) lies behind each. A few streams look ahead to their whole answer, which then takes no further pass;
    many look one move ahead, so four moves take one more pass. Logits are computed for the four allowed tokens only.
    On a GPU the shorter passes are CUDA graphs. The same code runs on a CPU, with plain calls.

    Args:
        model: the network, in eval mode on one device.
        slots: dialogues.
        max_length: positions per dialogue to begin with; the cache grows.
        ops: what is not a matrix product; None means Triton's kernels on a GPU, else torch's.
        record: replay passes as CUDA graphs; None: where the device and `ops` allow it.
        depth: moves to look ahead; None chooses by the number of streams.

    Raises:
        ValueError: the network is none that `why_not_fast` allows.

    Attributes:
        cache: keys and values; made at the first answer.
        carried_ids: per dialogue the ids that its cache lacks; they open its next prefill.
        calls: the recordings.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        slots: int,
        max_length: int = FIRST_LENGTH,
        ops: PackedOps | None = None,
        record: bool | None = None,
        depth: int | None = None,
    ) -> None:
        if (reason := _why_not_network(model)) is not None:
            raise ValueError(f"fast streaming cannot be used here: {reason}")
        self.model = model
        self.slots = slots
        self.cache: StreamCache | None = None
        self.carried_ids: list[list[int]] = [[] for _ in range(slots)]
        self.calls = RecordedCalls(False)
        self._max_length = max_length
        self._given_ops, self._given_record = ops, record
        self._settle()
        self._depth = depth
        self._language: PackedLanguageModel | None = None
        self._rules: _Rules | None = None

    def _settle(self) -> None:
        """Takes what suits the device that the network is on."""
        self._device = self.model.device
        on_gpu = self._device.type == "cuda"
        self._ops = self._given_ops or _default_ops(on_gpu)
        own = on_gpu and not isinstance(self._ops, TorchOps)
        self._record = own if self._given_record is None else self._given_record

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again at the next answer: functions over the weights, and recordings."""
        return {**self.__dict__, "_language": None, "_rules": None, "calls": RecordedCalls(False)}

    @property
    def kv_lengths(self) -> list[int]:
        """Per dialogue the positions in its cache."""
        return [0] * self.slots if self.cache is None else list(self.cache.held)

    def restart(self, slots: Sequence[int]) -> None:
        """Drops dialogues: positions and what was carried."""
        for slot in slots:
            self.carried_ids[slot] = []
        if self.cache is not None:
            self.cache.restart(list(slots))

    @torch.inference_mode()
    def answer(self, turns: Sequence[Turn], rules: AnswerRules) -> list[Answer]:
        """Prefills turns and decodes the answers to them.

        Args:
            turns: at most one per dialogue.
            rules: how answers are decoded.

        Returns:
            One answer per turn.

        Raises:
            ValueError: two turns are of one dialogue, special positions and features do not match, or the rules are
                none that `why_not_fast` allows. After this or any other error, `restart` the dialogues of these turns.
            RuntimeError: the network was moved or cast within a dialogue.
        """
        if not turns:
            return []
        if len({turn.slot for turn in turns}) != len(turns):
            raise ValueError(f"a dialogue can be answered once at a time, got turns of {[turn.slot for turn in turns]}")
        reason = _why_not_rules(rules)
        if reason is not None or rules.grammar is None:
            raise ValueError(f"fast streaming cannot be used here: {reason}; make the agent with fast=False")
        self.restart([turn.slot for turn in turns if turn.opens])
        prompts = [[*self.carried_ids[turn.slot], *turn.ids] for turn in turns]
        expanded = [expand_ids(turn, ids) for turn, ids in zip(turns, prompts, strict=True)]
        header = list(rules.grammar.header_ids)
        needed = [len(ids) + len(header) for ids in expanded]
        cache = self._ready(turns, needed, _Rules(rules.grammar, rules.repetition_penalty))
        before = [cache.held[turn.slot] for turn in turns]
        choices = self._decide(turns, [ids + header for ids in expanded], rules.drawn)
        answers = []
        for turn, prompt, ids, held, chosen in zip(turns, prompts, expanded, before, choices, strict=True):
            actions = self._actions(chosen)
            cache.held[turn.slot] = held + len(ids) + len(header) + len(actions) - 1
            self.carried_ids[turn.slot] = [actions[-1], rules.grammar.end_id]
            said = [*header, *actions, rules.grammar.end_id]
            answers.append(Answer(said, prompt, len(ids), held, cache.held[turn.slot]))
        return answers

    def _actions(self, chosen: list[int]) -> list[int]:
        """Tokens of an answer's actions, up to STOP."""
        allowed = cast(_Rules, self._rules).allowed
        stop = len(allowed) - 1
        count = chosen.index(stop) + 1 if stop in chosen else len(chosen)
        return [allowed[choice] for choice in chosen[:count]]

    def _ready(self, turns: Sequence[Turn], lengths: list[int], rules: _Rules) -> StreamCache:
        """Makes, or remakes, what passes work with; the cache has space for the turns then."""
        if self._language is None or self._language.place != weights_place(self.model):
            self._follow()
            self._language = PackedLanguageModel(self.model, self._ops)
            self.calls.clear()
        held = self.kv_lengths
        spare = rules.grammar.chunk_size + MoveTree(len(rules.grammar.move_ids), self._tree_depth(rules, 1)).nodes
        needed = spare + max(held[turn.slot] + length for turn, length in zip(turns, lengths, strict=True))
        if self.cache is None:
            self.cache = StreamCache(self.model, self.slots, max(self._max_length, needed))
            self._rules = None
        elif needed > self.cache.max_length:
            self.cache.grow(max(needed, self.cache.max_length * 3 // 2))
            self.calls.clear()
        if rules != self._rules:
            self._rules = rules
            self._make_state(self.cache, rules)
        return self.cache

    def _follow(self) -> None:
        """Goes where the network has been moved or cast to; the cache holds nothing then."""
        there = (self.model.device, self.model.dtype)
        if self.cache is not None and (self.cache.memory.device, self.cache.memory.dtype) != there:
            if any(self.kv_lengths):
                raise RuntimeError("the network was moved or cast within a dialogue: call agent.reset() first")
            self.cache = None
        if self._device != self.model.device:
            self._settle()

    def _make_state(self, cache: StreamCache, rules: _Rules) -> None:
        """Per slot: what has been decided of its answer."""
        slots, device = self.slots + 1, self._device
        with torch.inference_mode(False):
            self._chosen = torch.zeros((slots, rules.grammar.chunk_size), dtype=torch.long, device=device)
            self._done = torch.zeros(slots, dtype=torch.bool, device=device)
            self._seen = torch.zeros((slots, len(rules.allowed)), dtype=torch.bool, device=device)
            self._seen_first = torch.tensor(rules.seen, device=device)
            self._allowed = torch.tensor(rules.allowed, device=device)
        self.calls = RecordedCalls(self._record, [cache.lengths, self._chosen, self._done, self._seen])

    def _tree_depth(self, rules: _Rules, streams: int) -> int:
        whole = rules.grammar.chunk_size - 1
        if self._depth is not None:
            return min(self._depth, whole)
        if streams > WHOLE_ANSWERS:
            return min(1, whole)
        return min(whole, deepest_tree(len(rules.grammar.move_ids)))

    def _decide(self, turns: Sequence[Turn], prompts: Sequence[list[int]], drawn: bool) -> list[list[int]]:
        """The places of the chosen tokens among the allowed ones, for each turn; waits for the device once."""
        rules = cast(_Rules, self._rules)
        chunk, moves = rules.grammar.chunk_size, len(rules.grammar.move_ids)
        tree = MoveTree(moves, self._tree_depth(rules, len(turns)))
        for group in _fill_passes([len(ids) + tree.nodes for ids in prompts]):
            members = [turns[number] for number in group]
            self._first_pass(members, [prompts[number] for number in group], tree, drawn)
        decided = tree.depth + 1
        slots = [turn.slot for turn in turns]
        while decided < chunk:
            tree = MoveTree(moves, min(tree.depth, chunk - decided - 1))
            self._next_pass(slots, tree, decided, drawn)
            decided += tree.depth + 1
        chosen: list[list[int]] = self._chosen[send(np.array(slots), self._device)].tolist()
        return chosen

    def _first_pass(self, turns: Sequence[Turn], prompts: Sequence[list[int]], tree: MoveTree, drawn: bool) -> None:
        """Prefills, and decides the first actions."""
        rules = cast(_Rules, self._rules)
        tree_ids = tree.ids(rules.grammar.move_ids)
        tokens = sum(map(len, prompts)) + tree.nodes * len(prompts)
        recorded = tokens <= RECORDED_TOKENS
        arrays = self._pack([len(ids) for ids in prompts], [turn.slot for turn in turns], tree, recorded)
        ids = np.zeros(arrays.sizes[0], np.int64)
        ids[:tokens] = [token for prompt in prompts for token in (*prompt, *tree_ids)]
        x = self._embed(ids, turns)
        numbers = send(arrays.numbers, self._device)

        def prefill(x: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
            plan = arrays.plan(numbers)
            slots = plan.slots[:-1]
            self._done.index_fill_(0, slots, False)
            self._seen[slots] = self._seen_first
            return self._pass(x, plan, tree, 0, drawn)

        self.calls(("prefill", arrays.key, tree.depth, drawn) if recorded else None, prefill, x, numbers)

    def _next_pass(self, slots: list[int], tree: MoveTree, decided: int, drawn: bool) -> None:
        """Feeds each answer's last action and decides the next ones."""
        rules = cast(_Rules, self._rules)
        arrays = self._pack([1] * len(slots), slots, tree, False)
        tree_ids = send(np.array(tree.ids(rules.grammar.move_ids), np.int64), self._device)

        def decode(numbers: Tensor, tree_ids: Tensor) -> tuple[Tensor, ...]:
            plan = arrays.plan(numbers)
            last = self._allowed[self._chosen[plan.slots[:-1], decided - 1]]
            ids = torch.cat([last[:, None], tree_ids.expand(len(last), -1)], 1)
            return self._pass(self._table(ids.flatten()), plan, tree, decided, drawn)

        recorded = arrays.sizes[0] <= RECORDED_TOKENS
        key = ("decode", arrays.key, tree.depth, decided, drawn) if recorded else None
        self.calls(key, decode, send(arrays.numbers, self._device), tree_ids)

    def _pass(self, x: Tensor, plan: PackedPlan, tree: MoveTree, decided: int, drawn: bool) -> tuple[Tensor, ...]:
        """The language model, and the actions that it decides; only the device's state changes."""
        rules, cache = cast(_Rules, self._rules), cast(StreamCache, self.cache)
        slots = plan.slots[:-1]
        hidden = cast(PackedLanguageModel, self._language)(x, plan, cache)
        scores = (hidden @ self.model.lm_head.weight[self._allowed].T).view(len(slots), 1 + tree.nodes, -1)
        past, done = cache.lengths[slots], self._done[slots]
        levels = min(tree.depth + 1, rules.grammar.chunk_size - decided)
        taken = walk(tree, scores, levels, done, self._seen[slots], rules.penalty, drawn)
        if tree.depth:
            behind = (slots * cache.max_length + past + plan.known)[:, None]
            places = torch.arange(taken.nodes.shape[1], device=behind.device)
            cache.move((behind + taken.nodes - 1).flatten(), (behind + places).flatten())
        self._chosen[slots, decided : decided + levels] = taken.choices
        self._done[slots] = taken.done
        self._seen[slots] = taken.seen
        cache.lengths[slots] = torch.where(done, past, past + plan.known + taken.fed)
        return (taken.choices,)

    def _pack(self, counts: list[int], slots: list[int], tree: MoveTree, recorded: bool) -> PackedArrays:
        cache = cast(StreamCache, self.cache)
        group = self.model.language_model.config.num_attention_heads // cache.kv_heads
        # In float32 and with long heads, a larger tile fits into the shared memory of data centres' cards alone.
        most = 64 if cache.memory.dtype == torch.float32 and cache.head_dim > 64 else 128
        return pack_rows(counts, slots, self.slots, tree, group, recorded, most)

    def _embed(self, ids: NDArray[np.int64], turns: Sequence[Turn]) -> Tensor:
        """(tokens, hidden) with features where `ids` has special positions."""
        embeddings = self._table(send(np.maximum(ids, 0), self._device))
        images = [turn.image_features.flatten(0, 1) for turn in turns if turn.image_features is not None]
        memories = [turn.memory_features for turn in turns if turn.memory_features is not None]
        for special, features in ((IMAGE_TOKEN_ID, images), (MEMORY_TOKEN_ID, memories)):
            places = np.flatnonzero(ids == special)
            if len(places):
                given = features[0] if len(features) == 1 else torch.cat(features)
                embeddings.index_copy_(0, send(places, self._device), given.to(embeddings))
        return embeddings

    def _table(self, ids: Tensor) -> Tensor:
        return cast(nn.Embedding, self.model.get_input_embeddings())(ids)


def _default_ops(on_gpu: bool) -> PackedOps:
    if not on_gpu:
        return TorchOps()
    from streamvln_gym.models.triton_ops import TritonOps

    return TritonOps()


def _fill_passes(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of each pass, in order."""
    groups: list[list[int]] = [[]]
    tokens = 0
    for number, length in enumerate(lengths):
        if groups[-1] and tokens + length > PASS_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(number)
        tokens += length
    return groups
