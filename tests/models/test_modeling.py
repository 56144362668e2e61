"""The network: structure, embedding of frames, training loss, save and load."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from streamvln_gym.models import (
    StreamingSession,
    StreamVLNConfig,
    StreamVLNForConditionalGeneration,
    StreamVLNProcessor,
)
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL, IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.decoding import ActionGrammar, AnswerRules
from streamvln_gym.models.pooling import pool_patches, pooling_matrix

IMAGE, MEMORY = IMAGE_TOKEN_ID, MEMORY_TOKEN_ID


def small_config(**overrides):
    config = StreamVLNConfig.tiny(vocab_size=64, **overrides)
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    config.text_config.initializer_range = config.initializer_range = 0.2
    return config


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return StreamVLNForConditionalGeneration.from_seed(small_config(), seed=1)


@pytest.fixture(scope="module")
def frames():
    return torch.rand(5, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_tiny_network_has_about_8_million_parameters():
    model = StreamVLNForConditionalGeneration.from_seed(StreamVLNProcessor.tiny().config)
    assert 7.5e6 < model.num_parameters() < 9e6


@torch.inference_mode()
def test_feature_is_the_raw_residual_projected_and_then_pooled(model, frames):
    tower = model.vision_tower
    hidden = tower.embeddings(frames)
    for layer in tower.encoder.layers:
        hidden = layer(hidden, None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    projector = model.projector
    hidden = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(hidden), approximate="none"))
    torch.testing.assert_close(model.encode_images(frames), pool_patches(hidden))
    assert not any("post_layernorm" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("mode", ["bilinear", "average"])
@pytest.mark.parametrize("side", [7, 8, 27])
def test_pooling_as_a_matrix(mode, side):
    features = torch.randn(2, side * side, 12, generator=torch.Generator().manual_seed(0))
    for ceil_mode in (True, False):
        matrix = pooling_matrix(side * side, mode, ceil_mode=ceil_mode)
        torch.testing.assert_close(matrix @ features, pool_patches(features, mode, ceil_mode=ceil_mode))
    assert pooling_matrix(side * side, "max") is None


def test_encode_images_refuses_another_size(model):
    with pytest.raises(ValueError, match=r"\(frames, 3, 112, 112\)"):
        model.encode_images(torch.zeros(1, 3, 224, 224))


@torch.inference_mode()
def test_embed_puts_frames_in_place(model, frames):
    features = model.encode_images(frames)
    memory = features[:3].flatten(0, 1)
    embedded = model.embed([5, MEMORY, 6, IMAGE, 7, IMAGE, 8], features[3:], memory)[0]
    table = model.get_input_embeddings().weight
    expected = torch.cat([table[5:6], memory, table[6:7], features[3], table[7:8], features[4], table[8:9]])
    torch.testing.assert_close(embedded, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ids", "images", "memory", "message"),
    [
        ([1, IMAGE], 0, False, "1 <image> positions, but 0 images"),
        ([1, IMAGE], 2, False, "1 <image> positions, but 2 images"),
        ([1, MEMORY], 0, False, "memory_features is missing"),
        ([1, 2], 0, True, "memory_features is given"),
        ([MEMORY, MEMORY], 0, True, "2 <memory> positions"),
    ],
)
def test_embed_refuses_what_does_not_match(model, ids, images, memory, message):
    features = torch.zeros(images, 16, 256) if images else None
    with pytest.raises(ValueError, match=message):
        model.embed(ids, features, torch.zeros(16, 256) if memory else None)


@torch.inference_mode()
def test_batch_equals_single_samples(model, frames):
    """Right-padded samples with different numbers of frames: same logits and the token-weighted mean of the losses."""
    first = torch.tensor([3, IMAGE, 4, 5, 6, 7])
    second = torch.tensor([3, MEMORY, 9, IMAGE, 4, IMAGE, 8, 2])
    labels_first = torch.tensor([IGNORE_LABEL] * 3 + [5, 6, 7])
    labels_second = torch.tensor([IGNORE_LABEL] * 6 + [8, 2])
    ids = torch.zeros(2, 8, dtype=torch.long)
    labels = torch.full((2, 8), IGNORE_LABEL)
    mask = torch.zeros(2, 8, dtype=torch.long)
    for row, (sample, target) in enumerate([(first, labels_first), (second, labels_second)]):
        ids[row, : len(sample)], labels[row, : len(sample)], mask[row, : len(sample)] = sample, target, 1
    both = model(
        input_ids=ids, pixel_values=frames, memory_frames=torch.tensor([0, 2]), attention_mask=mask, labels=labels
    )
    one = model(input_ids=first[None], pixel_values=frames[:1], labels=labels_first[None])
    two = model(
        input_ids=second[None],
        pixel_values=frames[1:],
        memory_frames=torch.tensor([2]),
        labels=labels_second[None],
    )
    torch.testing.assert_close(both.loss, (3 * one.loss + 2 * two.loss) / 5)
    torch.testing.assert_close(both.logits, torch.cat([one.logits, two.logits]), rtol=1e-4, atol=1e-4)
    assert both.logits.shape == (5, 64)
    full = model(inputs_embeds=model.embed(first, model.encode_images(frames[:1]))).logits[0]
    expected = torch.nn.functional.cross_entropy(full[-4:-1], first[-3:])
    torch.testing.assert_close(one.loss, expected)


def test_forward_refuses_ambiguous_inputs(model, frames):
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(input_ids=torch.tensor([[1, IMAGE]]))
    with pytest.raises(ValueError, match="places for 1 frames, but pixel_values holds 2"):
        model(input_ids=torch.tensor([[1, IMAGE]]), pixel_values=frames[:2])


def test_every_parameter_gets_a_gradient_also_with_checkpointing(frames):
    model = StreamVLNForConditionalGeneration.from_seed(small_config(), seed=1).train()
    batch = {
        "input_ids": torch.tensor([[3, MEMORY, 4, IMAGE, 5, 6]]),
        "pixel_values": frames[:3],
        "memory_frames": torch.tensor([2]),
        "labels": torch.tensor([[IGNORE_LABEL] * 4 + [5, 6]]),
    }
    model(**batch).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in plain.values())
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_streaming_equals_one_shot_prefill(model, frames):
    features = model.encode_images(frames)
    turns = [([3, 4, IMAGE, 5], 0), ([6, IMAGE, 7, 8], 1), ([9, IMAGE, 10], 2)]
    cache, streamed = model.new_cache(), []
    for ids, frame in turns:
        hidden = model.extend(model.embed(ids, features[frame : frame + 1]), cache)
        streamed.append(model.lm_head(hidden)[0])
    whole = model(inputs_embeds=model.embed([token for ids, _ in turns for token in ids], features[:3])).logits[0]
    ends = np.cumsum([len(ids) - 1 + 16 for ids, _ in turns]) - 1
    assert cache.get_seq_length() == ends[-1] + 1
    torch.testing.assert_close(torch.stack(streamed), whole[ends], rtol=0, atol=1e-4)


def answer_to(model, prompt, **rules):
    """The session's answer to a turn given as embeddings."""
    session = StreamingSession(model, AnswerRules((2,), **rules))
    session._staged = prompt
    return session.generate()


def test_generate_of_transformers_agrees_with_the_session(model, frames):
    with torch.inference_mode():
        prompt = model.embed([8, IMAGE, 5, 6], model.encode_images(frames[:1]))
    ours = answer_to(model, prompt, max_new_tokens=40)
    theirs = model.generate(inputs_embeds=prompt, max_new_tokens=40, do_sample=False, eos_token_id=2, pad_token_id=0)
    assert theirs[0].tolist() == ours
    assert len(ours) > len(set(ours)) > 10, "a long answer, with tokens to be penalised"
    penalised = answer_to(model, prompt, max_new_tokens=40, repetition_penalty=3.0)
    theirs = model.generate(
        inputs_embeds=prompt,
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
        repetition_penalty=3.0,
    )
    assert theirs[0].tolist() == penalised
    assert penalised != ours


@pytest.mark.parametrize("chunk_size", [1, 3, 4])
@pytest.mark.parametrize("header", [(), (11, 12)])
def test_grammar_only_yields_legal_chunks(model, chunk_size, header):
    grammar = ActionGrammar(20, (21, 22, 23), 2, chunk_size, header)
    generator = torch.Generator().manual_seed(chunk_size)
    lengths = set()
    for _ in range(25):
        prompt = torch.randn(1, 3, 256, generator=generator)
        answer = answer_to(model, prompt, max_new_tokens=chunk_size + 4, grammar=grammar)
        assert tuple(answer[: len(header)]) == header
        *actions, end = answer[len(header) :]
        assert end == 2
        moves = actions[:-1] if actions[-1] == 20 else actions
        assert set(moves) <= {21, 22, 23}
        assert len(actions) == chunk_size or actions[-1] == 20
        lengths.add(len(actions))
    assert max(lengths) <= chunk_size


def test_save_and_load(model, frames, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = StreamVLNForConditionalGeneration.from_pretrained(tmp_path)
    for name in (
        "pooling_mode",
        "num_history",
        "window_steps",
        "chunk_size",
        "prompt_style",
        "action_strings",
        "trained",
    ):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    assert loaded.config.text_config.hidden_size == 256
    assert loaded.config.vision_config.image_size == 112
    with torch.inference_mode():
        torch.testing.assert_close(loaded.encode_images(frames), model.encode_images(frames), rtol=0, atol=0)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), StreamVLNConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), StreamVLNForConditionalGeneration)


def test_tied_embeddings_survive_saving(tmp_path):
    config = small_config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    model = StreamVLNForConditionalGeneration.from_seed(config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = StreamVLNForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight, rtol=0, atol=0)


def test_random_weights_depend_on_the_seed_only():
    state = torch.random.get_rng_state()
    first, again, other = (StreamVLNForConditionalGeneration.from_seed(small_config(), seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_pixel_values_are_levels_over_127_5_minus_1():
    processor = StreamVLNProcessor.tiny()
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.zeros((112, 112, 3), np.uint8)
    picture[:16, :16, 1] = ramp
    values = processor.images([picture])
    assert values.shape == (1, 3, 112, 112)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0, 1, :16, :16], ramp / 127.5 - 1, atol=1e-6)
    assert (values[0, 0] == -1).all()


def test_resize_does_not_keep_the_aspect_ratio():
    processor = StreamVLNProcessor.tiny()
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, 320:] = 255
    small = processor.resize(picture)
    assert small.shape == (112, 112, 3)
    assert (small[:, :50] == 0).all()
    assert (small[:, 62:] == 255).all()
