"""Looking one token ahead, and opening a dialogue with what was prepared: the same answers in other passes."""

import pytest
import torch

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration
from streamvln_gym.models.branches import Branches, branch_mask, branch_positions
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID as IMAGE
from streamvln_gym.models.configuration_streamvln import MEMORY_TOKEN_ID as MEMORY
from streamvln_gym.models.decoding import ActionGrammar, AnswerRules
from streamvln_gym.models.streaming import StreamingSession

STOP, MOVES, END = 20, (21, 22, 23), 2


def grammar(chunk_size=4, header=()):
    return ActionGrammar(STOP, MOVES, END, chunk_size, header)


RULES = {
    "chunk of 4": AnswerRules((END,), 8, grammar()),
    "chunk of 1": AnswerRules((END,), 8, grammar(1)),
    "chunk of 7": AnswerRules((END,), 11, grammar(7)),
    "header": AnswerRules((END,), 10, grammar(4, (11, 12))),
    "cut": AnswerRules((END,), 3, grammar()),
    "penalty": AnswerRules((END,), 8, grammar(), repetition_penalty=4.0),
    "free": AnswerRules((END,), 6),
}


@pytest.fixture(scope="module")
def model():
    """Float64: what is compared differs by rounding only."""
    config = StreamVLNConfig.tiny(64)
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = 2
        part.initializer_range = 0.2
    config.text_config.layer_types = ["full_attention"] * 2
    return StreamVLNForConditionalGeneration.from_seed(config, seed=1).double()


def random_ids(length, generator):
    return torch.randint(24, 64, (length,), generator=generator).tolist()


def random_features(*shape, generator):
    return torch.randn(*shape, 256, generator=generator, dtype=torch.float64)


class Watched(StreamingSession):
    """A session that keeps the logits it chose by, and the length of each pass."""

    def __init__(self, model, rules, **settings):
        super().__init__(model, rules, closing_id=END, **settings)
        self.seen = []
        self.passes = []

    def _logits(self):
        self.seen.append(super()._logits())
        return self.seen[-1]

    def _feed(self, *arguments):
        before = self.kv_length
        super()._feed(*arguments)
        self.passes.append(self.kv_length - before)


def play(session, turns):
    answers = []
    for turn in turns:
        session.append(*turn)
        answers.append(session.generate())
    return answers


def turns_of(seed, count=6):
    generator = torch.Generator().manual_seed(seed)
    return [
        ([*random_ids(9, generator), IMAGE, *random_ids(3, generator)], random_features(1, 16, generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", RULES)
def test_looking_ahead_changes_no_answer(model, name):
    """Against a session that records, which feeds and decides one token after the other."""
    for seed in range(4):
        ahead, plain = Watched(model, RULES[name]), Watched(model, RULES[name], record=True)
        for turn in turns_of(seed):
            (answer,) = play(ahead, [turn])
            assert [answer] == play(plain, [turn])
            chosen = [index for index in range(len(answer)) if plain.rules.forced(answer[:index]) is None]
            logits = torch.stack(ahead.seen)
            torch.testing.assert_close(logits, torch.stack(plain.seen)[chosen], rtol=0, atol=1e-9)
            unfed = len(ahead.carried_ids) - len(plain.carried_ids)
            assert ahead.carried_ids[unfed:] == plain.carried_ids
            assert ahead.kv_length + unfed == plain.kv_length
            for mine, theirs in zip(ahead.keys_and_values, plain.keys_and_values, strict=True):
                for part, whole in zip(mine, theirs, strict=True):
                    torch.testing.assert_close(part, whole[:, :, : ahead.kv_length], rtol=0, atol=1e-9)
            ahead.seen.clear()
            plain.seen.clear()


@pytest.mark.parametrize(
    ("name", "passes"), [("chunk of 4", [28 + 3, 1 + 3]), ("chunk of 1", [28]), ("header", [28, 2 + 3, 1 + 3])]
)
def test_passes_of_an_answer(model, name, passes):
    """An answer of four moves and the forced end takes the prefill and one pass more."""

    def never_stop(ids, scores):
        scores[:, STOP] = -torch.inf
        return scores

    rules = RULES[name]
    session = Watched(model, AnswerRules(rules.end_ids, 10, rules.grammar, logits_processor=(never_stop,)))
    (answer,) = play(session, turns_of(0, 1))
    assert session.passes == passes
    assert len(answer) == rules.grammar.chunk_size + len(rules.grammar.header_ids) + 1


def test_networks_that_cannot_keep_branches_apart_do_not_look_ahead(model):
    session = Watched(model, RULES["chunk of 4"])
    attention = model.language_model.config._attn_implementation
    model.language_model.config._attn_implementation = "flash_attention_2"
    try:
        assert session._to_branch([]) == []
    finally:
        model.language_model.config._attn_implementation = attention
    assert session._to_branch([]) == list(MOVES)


def test_branches_see_the_past_and_themselves():
    mask = branch_mask(2, 4, 2, torch.float32, torch.device("cpu"))[0, 0] == 0
    assert mask.long().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1]]
    assert branch_positions(2, 4, 2, torch.device("cpu")).tolist() == [[2, 3, 4, 4]]


@pytest.mark.parametrize(("chosen", "kept"), [(21, 0), (22, 1), (23, 2), (STOP, None), (None, None)])
def test_settling_keeps_the_chosen_branch(model, chosen, kept):
    cache, embeddings = model.new_cache(), random_features(1, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden = model.extend(embeddings, cache, 3)
        assert hidden.shape == (4, 256)
        before = cache.layers[1].keys.clone()
        settled = Branches(MOVES, hidden[1:]).settle(cache, chosen)
    held = [0, 1] if kept is None else [0, 1, 2 + kept]
    torch.testing.assert_close(cache.layers[1].keys, before[:, :, held], rtol=0, atol=0)
    if kept is None:
        assert settled is None
    else:
        torch.testing.assert_close(settled, hidden[1 + kept][None], rtol=0, atol=0)


def opening(seed, memory_tokens=40):
    generator = torch.Generator().manual_seed(seed)
    ids = [*random_ids(12, generator), MEMORY]
    rest = [*random_ids(3, generator), IMAGE, *random_ids(3, generator)]
    memory = random_features(memory_tokens, generator=generator)
    return ids, memory, ([*ids, *rest], random_features(1, 16, generator=generator), memory)


@pytest.mark.parametrize("record", [False, True])
def test_a_prepared_opening_changes_no_answer(model, record):
    ids, memory, first = opening(3)
    turns = [first, *turns_of(4, 3)]
    prepared, plain = (Watched(model, RULES["chunk of 4"], record=record) for _ in range(2))
    play(prepared, turns_of(5, 2))
    before = prepared.kv_length
    prepared.prepare(ids, memory)
    assert prepared.kv_length == before, "the dialogue can go on"
    prepared.begin()
    for session in (prepared, plain):
        session.seen.clear()
        session.passes.clear()
    assert play(prepared, turns) == play(plain, turns)
    torch.testing.assert_close(torch.stack(prepared.seen), torch.stack(plain.seen), rtol=0, atol=1e-9)
    assert prepared.kv_length == plain.kv_length
    assert prepared.prefill_length == plain.prefill_length
    assert [part.shape for part in prepared.embeddings] == [part.shape for part in plain.embeddings]
    assert prepared.passes[1:] == plain.passes[1:]


@pytest.mark.parametrize("change", ["ids", "memory", "longer", "nothing after"])
def test_a_wrong_guess_costs_time_and_nothing_else(model, change):
    ids, memory, turn = opening(3)
    guess = {
        "ids": ([*ids[:-2], ids[-2] - 1, MEMORY], memory),
        "memory": (ids, memory + 1e-9),
        "longer": (ids, torch.cat([memory, memory[:1]])),
        "nothing after": (turn[0][:3], None),
    }[change]
    if change == "nothing after":
        turn = (turn[0][:3], None, None)
    plain, guessed = (Watched(model, RULES["chunk of 4"]) for _ in range(2))
    guessed.prepare(*guess)
    guessed.begin()
    assert play(guessed, [turn]) == play(plain, [turn])
    assert guessed.passes == plain.passes
    assert guessed.prepared is None
    torch.testing.assert_close(torch.stack(guessed.seen), torch.stack(plain.seen), rtol=0, atol=0)


def test_a_guess_that_is_too_short_serves_as_far_as_it_goes(model):
    ids, memory, turn = opening(3)
    plain, guessed = (Watched(model, RULES["chunk of 4"]) for _ in range(2))
    guessed.prepare(ids, memory[:-1])
    guessed.begin()
    assert play(guessed, [turn]) == play(plain, [turn])
    assert guessed.passes[0] == plain.passes[0] - (12 + 39)


def test_restart_forgets_what_was_prepared(model):
    session = StreamingSession(model, RULES["free"])
    session.prepare(*opening(3)[:2])
    assert session.prepared is not None
    session.restart()
    assert session.prepared is None
