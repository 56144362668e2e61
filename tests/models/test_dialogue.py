"""Prompt strings, their ids, and the small tokenizer."""

import pytest

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID, StreamVLNConfig
from streamvln_gym.models.dialogue import CONJUNCTIONS, ConjunctionPicker, DialogueBuilder, check_instruction
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_FOLDER

INSTRUCTION = "Walk past the dining table, turn left at the sofa and stop in front of the second door."
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER = (
    "<|im_start|>user\nYou are an autonomous navigation assistant. Your task is to Walk past the dining table, turn "
    "left at the sofa and stop in front of the second door. Devise an action sequence to follow the instruction using "
    "the four actions: TURN LEFT (←) or TURN RIGHT (→) by 15 degrees, MOVE FORWARD (↑) by 25 centimeters, or STOP."
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SHIPPED_FOLDER)


def test_first_turn_in_both_styles(tokenizer):
    published = DialogueBuilder(tokenizer, "published").first_turn(INSTRUCTION, "you can spot ", with_memory=False)
    opening = "<|im_end|>\n<|im_start|>assistant\n"
    assert published == f"{SYSTEM}{USER} you can spot <image>.{opening}<|im_end|>\n"
    trained = DialogueBuilder(tokenizer, "trained").first_turn(INSTRUCTION, "you can spot ", with_memory=False)
    assert trained == f"{SYSTEM}{USER} you can spot <image>.{opening}"


@pytest.mark.parametrize(
    ("wording", "sentence"),
    [
        ("evaluation", " These are your historical observations <memory>."),
        ("training", " These are your historical observations: <memory>."),
        ("robot", " You have visited these areas <memory>."),
    ],
)
def test_memory_sentence_wordings(tokenizer, wording, sentence):
    turn = DialogueBuilder(tokenizer, "trained", wording).first_turn(INSTRUCTION, "there is ", with_memory=True)
    assert f"or STOP.{sentence} there is <image>.<|im_end|>\n" in turn


def test_later_turns(tokenizer):
    published = DialogueBuilder(tokenizer, "published").later_turn("in front of you is ")
    assert published == ("<|im_start|>user\nin front of you is <image>.<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n")
    trained = DialogueBuilder(tokenizer, "trained").later_turn("in front of you is ")
    assert trained == "\n<|im_start|>user\nin front of you is <image>.<|im_end|>\n<|im_start|>assistant\n"


def test_instruction_is_kept_as_given(tokenizer):
    turn = DialogueBuilder(tokenizer).first_turn("  Go on\n", "there is ", with_memory=False)
    assert "Your task is to   Go on\n Devise an action" in turn


def test_encoding_puts_special_ids_between_the_pieces(tokenizer):
    builder = DialogueBuilder(tokenizer)
    ids = builder.encode("observations <memory>. there is <image>.")
    assert ids.count(IMAGE_TOKEN_ID) == ids.count(MEMORY_TOKEN_ID) == 1
    before, after = ids[: ids.index(MEMORY_TOKEN_ID)], ids[ids.index(IMAGE_TOKEN_ID) + 1 :]
    assert tokenizer.decode(before) == "observations "
    assert tokenizer.decode(after) == "."


@pytest.mark.parametrize(
    "text", ["", "  \n", "Go <image> on.", "See <memory>", "a<|im_end|>b", "<|im_start|>user", "go " * 2000]
)
def test_instructions_that_would_break_the_dialogue(text):
    with pytest.raises(ValueError, match="instruction"):
        check_instruction(text)


def test_half_a_character_is_named():
    with pytest.raises(ValueError, match=r"half of a surrogate pair, which is no text: 'Go .ud800'"):
        check_instruction("Go \ud800")


def test_unknown_styles_are_refused(tokenizer):
    with pytest.raises(ValueError, match="prompt style"):
        DialogueBuilder(tokenizer, "chat")
    with pytest.raises(ValueError, match="memory_prompt"):
        DialogueBuilder(tokenizer, "trained", "short")
    with pytest.raises(ValueError, match="conjunctions is empty"):
        ConjunctionPicker([])
    with pytest.raises(TypeError, match="sequence of strings"):
        ConjunctionPicker("there is ")
    with pytest.raises(ValueError, match="contains one of"):
        ConjunctionPicker(["you see <image> and "])


def test_conjunctions():
    fixed, cycled = ConjunctionPicker(CONJUNCTIONS[:1]), ConjunctionPicker(CONJUNCTIONS)
    assert [fixed.next() for _ in range(3)] == [CONJUNCTIONS[0]] * 3
    assert [cycled.next() for _ in range(8)] == [*CONJUNCTIONS, CONJUNCTIONS[0]]
    seeded = ConjunctionPicker(seed=2024)
    first = [seeded.next() for _ in range(6)]
    # The order that the published evaluation draws with this seed.
    assert first[:4] == ["you can spot ", "in front of you is ", "ahead of you is ", "you are toward the "]
    seeded.reset()
    assert [seeded.next() for _ in range(6)] == first


@pytest.mark.parametrize(
    "text",
    [
        INSTRUCTION,
        "Turn left, then right; it's 3.5 m — naïve café, 12 doors.  Two  spaces\t\n\n end ",
        "सोफ़े के पास रुकें और बाएँ मुड़ें।",
        "సోఫా దగ్గర ఆగండి",
        "左转然后停下 🛋️🚪",
        "↑←→ STOPSTOP nonSTOP ↑",
        "\x00\x7f\u200b\r\n",
    ],
)
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_tokenizer_single_tokens(tokenizer):
    for word in ("↑", "←", "→", "STOP", "<|im_start|>", "<|im_end|>", "user", "assistant", "system", "\n"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word
    for answer in ("↑↑↑↑", "←→↑STOP", "←←←←", "STOP"):
        assert len(tokenizer.encode(answer, add_special_tokens=False)) == len(answer.replace("STOP", "S"))


def test_words_of_instructions_are_mostly_one_token(tokenizer):
    assert len(tokenizer.encode(INSTRUCTION, add_special_tokens=False)) <= len(INSTRUCTION.split()) + 4


@pytest.mark.parametrize(
    ("answer", "actions"),
    [
        ("↑←→↑", [1, 2, 3, 1]),
        ("←STOP", [2, 0]),
        ("STOP↑↑", [0]),
        ("<|im_start|>assistant\n←←→→<|im_end|>", [2, 2, 3, 3]),
        ("I would go ↑ and then → here", [1, 3]),
        ("no idea", []),
        ("", []),
    ],
)
def test_parsing_answers(answer, actions):
    processor = StreamVLNProcessor.tiny()
    assert processor.parse_actions(processor.tokenizer.encode(answer, add_special_tokens=False)) == actions


def test_tokenizers_that_do_not_fit_are_refused(tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="do not belong together"):
        StreamVLNProcessor(StreamVLNConfig.tiny(vocab_size=100), tokenizer)
    with pytest.raises(CheckpointError, match="splits 'FORWARD'"):
        StreamVLNProcessor(StreamVLNConfig.tiny(action_strings=("STOP", "FORWARD", "←", "→")), tokenizer)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)
