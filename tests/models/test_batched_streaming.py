"""A batched session answers as sessions of their own, in fewer passes."""

import pytest
import torch

from streamvln_gym.models.batched_streaming import (
    LENGTH_RATIO,
    PASS_EMBEDDINGS,
    BatchedStreamingSession,
    Turn,
    choose_tokens,
    group_by_length,
)
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.decoding import ActionGrammar, AnswerRules
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.streaming import StreamingSession

IMAGE, MEMORY = -200, -300
STOP, MOVES, END, HEADER = 10, (11, 12, 13), 14, (15, 16, 17)
RULES = {
    "grammar": AnswerRules((END,), 8, ActionGrammar(STOP, MOVES, END, 4)),
    "header": AnswerRules((END,), 12, ActionGrammar(STOP, MOVES, END, 4, HEADER)),
    "only a header": AnswerRules((END,), 2, ActionGrammar(STOP, MOVES, END, 4, HEADER)),
    "free": AnswerRules((END, 3), 6, None, repetition_penalty=1.7),
    "cut": AnswerRules((END,), 3, ActionGrammar(STOP, MOVES, END, 4)),
}


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    config = StreamVLNConfig.tiny(64)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    config.text_config.initializer_range = config.initializer_range = 0.1
    config.vision_config.num_hidden_layers = 1
    return StreamVLNForConditionalGeneration.from_seed(config, seed=1)


def random_turn(slot: int, opens: bool, generator: torch.Generator) -> Turn:
    def ids(most: int) -> list[int]:
        length = int(torch.randint(1, most, (1,), generator=generator))
        return torch.randint(18, 60, (length,), generator=generator).tolist()

    remembered = opens and slot % 2 == 1
    memory = torch.randn(8 * (slot + 1), 256, generator=generator) if remembered else None
    image = torch.randn(1, 16, 256, generator=generator)
    return Turn(slot, [*ids(30), *([MEMORY] if remembered else []), *ids(5), IMAGE, *ids(9)], image, memory, opens)


@pytest.mark.parametrize("name", RULES)
def test_answers_are_those_of_sessions_alone(model, name):
    rules, generator = RULES[name], torch.Generator().manual_seed(5)
    batched = BatchedStreamingSession(model, 5, closing_id=END)
    alone = [StreamingSession(model, rules, closing_id=END) for _ in range(5)]
    opened = [False] * 5
    for number in range(12):
        slots = torch.randperm(5, generator=generator)[: 1 + number % 5].tolist()
        turns = [random_turn(slot, not opened[slot] or (number + slot) % 6 == 0, generator) for slot in slots]
        answers = batched.answer(turns, rules)
        for turn, answer in zip(turns, answers, strict=True):
            session = alone[turn.slot]
            if turn.opens:
                session.restart()
            session.append(turn.ids, turn.image_features, turn.memory_features)
            assert answer.ids == session.generate()
            opened[turn.slot] = True
            unfed = len(batched.carried_ids[turn.slot]) - len(session.carried_ids)
            assert answer.kv_after + unfed == session.kv_length
            assert batched.carried_ids[turn.slot][unfed:] == session.carried_ids
            assert answer.kv_before == 0 or not turn.opens
            if not turn.opens:
                assert len(answer.prompt_ids) > len(turn.ids)
    assert batched.cache.lengths.tolist() == batched.kv_lengths


@pytest.mark.parametrize(("name", "passes"), [("grammar", 4), ("header", 4), ("only a header", 1), ("cut", 3)])
def test_forced_tokens_take_no_pass(model, name, passes):
    rules = RULES[name]

    def never_stop(ids, scores):
        scores[:, STOP] = -torch.inf
        return scores

    rules = AnswerRules(rules.end_ids, rules.max_new_tokens, rules.grammar, logits_processor=(never_stop,))
    session, counted = BatchedStreamingSession(model, 3), []
    handle = model.language_model.register_forward_hook(lambda *_: counted.append(1))
    answers = session.answer([Turn(slot, [20, 21, 22 + slot], opens=True) for slot in range(3)], rules)
    handle.remove()
    assert len(counted) == passes
    assert len({len(answer.ids) for answer in answers}) == 1


def test_what_does_not_fit_is_refused(model):
    session, rules = BatchedStreamingSession(model, 2), RULES["grammar"]
    with pytest.raises(ValueError, match="once at a time"):
        session.answer([Turn(1, [20]), Turn(1, [21])], rules)
    with pytest.raises(ValueError, match="dialogue 1 has 1 <image> positions, but features for 0"):
        session.answer([Turn(0, [20]), Turn(1, [IMAGE])], rules)
    with pytest.raises(ValueError, match="dialogue 0 has 0 <memory> positions, but features for 1"):
        session.answer([Turn(0, [20], memory_features=torch.zeros(4, 256))], rules)
    assert session.kv_lengths == [0, 0]
    assert session.answer([], rules) == []


def test_groups_are_of_similar_length():
    lengths = [40, 230, 41, 100, 38, 235, 60, 39]
    groups = group_by_length(lengths)
    assert sorted(number for group in groups for number in group) == list(range(8))
    assert len(groups) <= 4
    for group in groups:
        assert group == sorted(group)
        assert max(lengths[number] for number in group) <= LENGTH_RATIO * min(lengths[number] for number in group)
    wide = group_by_length([1000] * 100)
    assert max(map(len, wide)) * 1000 <= PASS_EMBEDDINGS
    assert group_by_length([2 * PASS_EMBEDDINGS]) == [[0]]
    assert group_by_length([]) == []


@pytest.mark.parametrize("grammar", [None, ActionGrammar(STOP, MOVES, END, 4)])
@pytest.mark.parametrize("penalty", [1.0, 1.4, 0.7])
def test_tokens_are_those_that_each_row_chooses(grammar, penalty):
    def processor(ids, scores):
        scores[:, 5:15] += 0.3 * ids.shape[1]
        return scores

    generator = torch.Generator().manual_seed(0)
    rules = AnswerRules((END,), 8, grammar, penalty, (processor,))
    for length in range(5):
        logits = torch.randn(20, 64, generator=generator)
        answers = torch.randint(10, 14, (20, length), generator=generator).tolist()
        kept = logits.clone()
        chosen = choose_tokens(rules, logits, answers)
        assert chosen == [rules.choose(row, answer) for row, answer in zip(logits, answers, strict=True)]
        assert torch.equal(logits, kept)
