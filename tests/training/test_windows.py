"""Where windows are cut, what is said in them and what is learned of it."""

import pytest

from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.errors import DatasetError
from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL, IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.training import Window, WindowConfig, WindowEncoder, load_trajectories, split_windows


@pytest.fixture(scope="module")
def processor():
    return StreamVLNProcessor.tiny()


@pytest.fixture
def trajectory(folder):
    return load_trajectories(folder)[0]


def encoded(processor, trajectory, window, **settings):
    encoder = WindowEncoder(processor, WindowConfig(**settings))
    return encoder.encode(trajectory, window, encoder.picker())


def text_of(processor, ids):
    names = {IMAGE_TOKEN_ID: "<image>", MEMORY_TOKEN_ID: "<memory>"}
    return "".join(names.get(token) or processor.tokenizer.decode([token]) for token in ids)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (3, []),
        (4, [(0, 4)]),
        (32, [(0, 32)]),
        (33, [(0, 32), (32, 33)]),
        (75, [(0, 32), (32, 64), (64, 75)]),
    ],
)
def test_windows_of_32_steps(length, expected):
    assert split_windows(length, 32, 4) == expected


def test_chunks_that_straddle_a_boundary():
    """The call at step 30 covers steps 30-34; the next window's first call comes at 35, as the agent's would."""
    assert split_windows(75, 32, 5) == [(0, 35), (35, 65), (65, 75)]


def test_chunks_longer_than_a_window():
    assert split_windows(20, 4, 8) == [(0, 8), (8, 16), (16, 20)]


def test_dialogue_and_answers(processor, trajectory):
    """One assistant turn per frame; the last chunk is short and ends with STOP."""
    window = encoded(processor, trajectory, Window(0, 0, 0, 10), conjunctions=("there is ",))
    assert window.frame_steps == [0, 4, 8]
    assert window.history_steps == []
    opening, *turns = text_of(processor, window.input_ids).split("<image>.<|im_end|>\n")
    assert opening.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nYou are")
    assert "Your task is to Leave the bedroom and wait by the piano. Devise" in opening
    assert opening.endswith("or STOP. there is ")
    assert turns == [
        "<|im_start|>assistant\n↑←→↑<|im_end|>\n<|im_start|>user\nthere is ",
        "<|im_start|>assistant\n↑↑←←<|im_end|>\n<|im_start|>user\nthere is ",
        "<|im_start|>assistant\n↑STOP<|im_end|>\n",
    ]


@pytest.mark.parametrize(
    ("wording", "sentence"),
    [
        (None, " These are your historical observations <memory>. there is <image>."),
        ("training", " These are your historical observations: <memory>. there is <image>."),
    ],
)
def test_later_window_shows_the_past(processor, trajectory, wording, sentence):
    settings = {"memory_prompt": wording, "conjunctions": ("there is ",), "window_steps": 4, "num_history": 3}
    window = encoded(processor, trajectory, Window(0, 1, 8, 10), **settings)
    assert window.history_steps == history_steps(8, 3) == [0, 2, 4]
    assert window.frame_steps == [8]
    text = text_of(processor, window.input_ids)
    assert "Your task is to Go to the piano. Devise" in text
    assert sentence in text


def test_no_history_means_no_memory_sentence(processor, trajectory):
    window = encoded(processor, trajectory, Window(0, 0, 8, 10), window_steps=4, num_history=0)
    assert window.history_steps == []
    assert MEMORY_TOKEN_ID not in window.input_ids


def test_memory_strategy_none_shows_nothing(trajectory):
    processor = StreamVLNProcessor.tiny(memory_strategy="none")
    window = encoded(processor, trajectory, Window(0, 0, 8, 10), window_steps=4)
    assert window.history_steps == []
    assert MEMORY_TOKEN_ID not in window.input_ids


def test_only_answers_are_learned(processor, trajectory):
    window = encoded(processor, trajectory, Window(0, 0, 0, 10))
    learned = [(token, label) for token, label in zip(window.input_ids, window.labels, strict=True)]
    assert all(label in (IGNORE_LABEL, token) for token, label in learned)
    stop, forward, left, right = processor.action_ids
    end = processor.turn_end_id
    targets = [label for label in window.labels if label != IGNORE_LABEL]
    chunks = [[forward, left, right, forward], [forward, forward, left, left], [forward, stop]]
    assert targets == [token for chunk in chunks for token in (*chunk, end)]


@pytest.mark.parametrize("published", [False, True])
def test_answers_are_what_was_executed_and_targets_are_the_experts(processor, writer, published):
    labels, executed = (2, 2, 0, 1, 3, 1, 1, 0, 2, 1), (2, 1, 3, 1, 3, 1, 2, 1, 1, 0)
    writer.pictures("a", 10)
    writer.pictures("b", 10)
    folder = writer.annotate(writer.driven("a", labels, executed), writer.entry("b", executed[:-1]))
    driven, shown = load_trajectories(folder)
    settings = {"published_label_mask": published, "conjunctions": ("there is ",)}
    window = encoded(processor, driven, Window(0, 0, 0, 10), **settings)
    expert = encoded(processor, shown, Window(1, 0, 0, 10), **settings)
    assert window.input_ids == expert.input_ids
    assert (window.frame_steps, window.history_steps) == (expert.frame_steps, expert.history_steps)
    names = {token: action for action, token in enumerate(processor.action_ids)}
    taught = [names[label] for label in window.labels if label in names]
    assert taught == [2, 2, 3, 1, 1, 2], "of each answer up to the first action that was another's"
    others = [(a, b) for a, b in zip(window.labels, expert.labels, strict=True) if b not in names]
    assert all(a == b for a, b in others), "everything but the actions is learned as ever"


def test_an_answer_that_was_cut_off_has_no_end(processor, writer):
    writer.pictures("a", 6)
    driven = load_trajectories(writer.annotate(writer.driven("a", [1] * 6, [1, 1, 1, 2, 2, 2])))[0]
    window = encoded(processor, driven, Window(0, 0, 0, 6))
    targets = [label for label in window.labels if label != IGNORE_LABEL]
    forward = processor.action_ids[1]
    assert targets == [*[forward] * 4, processor.turn_end_id, forward]


def test_published_mask_adds_headers_and_markup(processor, trajectory):
    window = encoded(processor, trajectory, Window(0, 0, 0, 10), published_label_mask=True, conjunctions=("you see ",))
    learned = [label for label in window.labels if label != IGNORE_LABEL]
    other_turn = "<|im_start|><|im_end|>\n"  # "user\n" is a single token: its newline is not learned by itself
    answers = ("↑←→↑", "↑↑←←", "↑STOP")
    expected = [f"{other_turn}<|im_start|>assistant\n{answer}<|im_end|>\n" for answer in answers]
    assert text_of(processor, learned) == other_turn + "".join(expected)
    assert encoded(processor, trajectory, Window(0, 0, 0, 10), conjunctions=("you see ",)).input_ids == window.input_ids


def test_published_mask_needs_a_newline_token(processor, monkeypatch):
    split = lambda text, **kwargs: [1, 2, 3]  # noqa: E731
    encoder = WindowEncoder(processor)
    monkeypatch.setattr(processor.tokenizer, "encode", split)
    with pytest.raises(ValueError, match="one token for a newline, this one takes 3: leave the flag off"):
        WindowEncoder(processor, WindowConfig(published_label_mask=True))
    assert encoder.config.published_label_mask is False


def test_conjunctions_depend_on_seed_epoch_and_number_only(processor):
    def drawn(seed, epoch, index):
        picker = WindowEncoder(processor, WindowConfig(seed=seed)).picker(epoch, index)
        return [picker.next() for _ in range(8)]

    assert drawn(0, 0, 0) == drawn(0, 0, 0)
    different = [drawn(0, 0, 0), drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1)]
    assert all(different.count(sequence) == 1 for sequence in different)


def test_markup_in_an_instruction_is_refused(processor, writer):
    writer.pictures("a", 4)
    entry = {**writer.entry("a", [1, 1, 1]), "instructions": ["Go.", "Go <image>."]}
    trajectories = load_trajectories(writer.annotate(entry))
    with pytest.raises(DatasetError, match=r"entry 0 \(id 'a'\): instructions\[1\]: instruction contains '<image>'"):
        WindowEncoder(processor).windows(trajectories)


@pytest.mark.parametrize("name", ["num_history", "window_steps", "chunk_size", "seed"])
def test_impossible_settings(name):
    with pytest.raises(ValueError, match=f"WindowConfig.{name} must be at least"):
        WindowConfig(**{name: -1})
