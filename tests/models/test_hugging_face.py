"""The network as a Hugging Face model: Auto classes, attention, dtypes, checkpointing, LoRA, quantisation."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration, StreamVLNProcessor

IMAGE, MEMORY = -200, -300
OBSERVATION = {"rgb": np.full((48, 64, 3), 90, np.uint8), "instruction": "Go to the sofa."}
LORA_TARGETS = r"language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj|projector\.linear_[12]"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return StreamVLNForConditionalGeneration.from_seed(StreamVLNProcessor.tiny().config, seed=3)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[3, MEMORY, 4, IMAGE, 5, 6]])
    return {
        "input_ids": ids,
        "pixel_values": torch.rand(3, 3, 112, 112, generator=generator) * 2 - 1,
        "memory_frames": torch.tensor([2]),
        "labels": ids.masked_fill(torch.arange(6) < 4, -100),
    }


def test_auto_classes_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), StreamVLNConfig)
    for auto in (AutoModel, AutoModelForCausalLM):
        loaded = auto.from_pretrained(tmp_path)
        assert isinstance(loaded, StreamVLNForConditionalGeneration)
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_shards_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="8MB")
    StreamVLNProcessor.tiny().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = StreamVLNAgent.from_pretrained(tmp_path).model
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementations_agree(model, batch, tmp_path, implementation):
    model.save_pretrained(tmp_path)
    loaded = StreamVLNForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=implementation)
    for part in (loaded, loaded.language_model, loaded.vision_tower):
        assert part.config._attn_implementation == implementation
    with torch.inference_mode():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_and_device_map(model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    StreamVLNProcessor.tiny().save_pretrained(tmp_path)
    mapped = StreamVLNAgent.from_pretrained(tmp_path, dtype=dtype, device_map="cpu")
    plain = StreamVLNAgent.from_pretrained(tmp_path, dtype=dtype)
    assert mapped.model.dtype == plain.model.dtype == dtype
    assert mapped.predict_chunk(OBSERVATION) == plain.predict_chunk(OBSERVATION)


def test_gradient_checkpointing_gives_the_same_gradients(batch):
    gradients = []
    for checkpointing in (False, True):
        model = StreamVLNForConditionalGeneration.from_seed(StreamVLNProcessor.tiny().config, seed=3).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch).loss.backward()
        gradients.append(model.projector.linear_1.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_a_later_turn_with_pictures_goes_on_from_the_cache(model, batch):
    pixels = batch["pixel_values"]
    first, second = torch.tensor([[3, IMAGE, 4]]), torch.tensor([[5, IMAGE, 6, 7]])
    whole = model(input_ids=torch.cat([first, second], 1), pixel_values=pixels[:2]).logits[:, -4:]
    for covered in ("nothing", "the ids", "all"):
        cache = model.new_cache()
        model(input_ids=first, pixel_values=pixels[:1], cache=cache, use_cache=True)
        length = 4 if covered == "the ids" else cache.get_seq_length() + 4
        mask = None if covered == "nothing" else torch.ones((1, length), dtype=torch.long)
        with pytest.raises(ValueError, match="length of input_ids"):
            model(input_ids=second, pixel_values=pixels[1:2], attention_mask=torch.ones((1, 2)), cache=cache)
        later = model(input_ids=second, pixel_values=pixels[1:2], attention_mask=mask, cache=cache).logits[:, -4:]
        torch.testing.assert_close(later, whole, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_generate_takes_dialogues_with_pictures(model, batch):
    pixels, rules = batch["pixel_values"], {"max_new_tokens": 6, "do_sample": False}
    long, short = [3, MEMORY, 4, IMAGE, 5, 6], [3, IMAGE, 8]
    alone = [
        model.generate(torch.tensor([long]), pixel_values=pixels, memory_frames=torch.tensor([2]), **rules),
        model.generate(input_ids=torch.tensor([short]), pixel_values=pixels[:1], **rules),
    ]
    embedded = model.embed(short, model.encode_images(pixels[:1]))
    assert torch.equal(alone[1], model.generate(inputs_embeds=embedded, **rules))
    both = model.generate(
        torch.tensor([long, [*short, 0, 0, 0]]),
        attention_mask=torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
        pixel_values=torch.cat([pixels, pixels[:1]]),
        memory_frames=torch.tensor([2, 0]),
        **rules,
    )
    assert torch.equal(both, torch.cat(alone))
    with pytest.raises(ValueError, match="input_ids"):
        model.generate(pixel_values=pixels)


def test_positions_keep_their_precision_when_weights_are_cast(model):
    exact = model.language_model.rotary_emb.inv_freq.clone()
    cast = copy.deepcopy(model).to(torch.bfloat16)
    assert cast.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(cast.language_model.rotary_emb.inv_freq, exact)


def test_weights_that_accelerate_offloads(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    config = copy.deepcopy(StreamVLNProcessor.tiny().config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    untied, processor = StreamVLNForConditionalGeneration.from_seed(config, seed=3), StreamVLNProcessor.tiny()
    expected = StreamVLNAgent(copy.deepcopy(untied), processor).predict_chunk(OBSERVATION)
    places = dict.fromkeys(("vision_tower", "projector", "language_model"), "cpu") | {"lm_head": "disk"}
    offloaded = accelerate.dispatch_model(untied, places, main_device="cpu", offload_dir=tmp_path)
    assert offloaded.lm_head.weight.device.type == "meta"
    agent = StreamVLNAgent(offloaded, processor)
    assert agent.device.type == "cpu"
    assert agent.predict_chunk(OBSERVATION) == expected


def test_training_mode_with_gradient_checkpointing_streams_nothing(model):
    training = copy.deepcopy(model)
    training.gradient_checkpointing_enable()
    agent = StreamVLNAgent(training, StreamVLNProcessor.tiny())
    agent.act(OBSERVATION)
    training.train()
    agent.reset()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        agent.act(OBSERVATION)


def test_an_agent_with_adapters_is_not_saved_as_a_folder_that_cannot_be_read(model, tmp_path):
    peft = pytest.importorskip("peft")
    adapted = copy.deepcopy(model)
    peft.get_peft_model(adapted, peft.LoraConfig(target_modules=LORA_TARGETS))
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        StreamVLNAgent(adapted, StreamVLNProcessor.tiny()).save_pretrained(tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


def test_lora_on_language_model_and_projector(batch, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LORA_TARGETS)
    base = StreamVLNForConditionalGeneration.from_seed(StreamVLNProcessor.tiny().config, seed=3)
    frozen = base.lm_head.weight.clone()
    model = peft.get_peft_model(base, config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("projector.linear_2" in name for name in trained)
    assert all("lora_" in name for name in trained)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(base.lm_head.weight, frozen)
    model.save_pretrained(tmp_path)
    fresh = StreamVLNForConditionalGeneration.from_seed(StreamVLNProcessor.tiny().config, seed=3)
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(**batch).loss, model(**batch).loss)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(**batch).loss, model(**batch).loss, rtol=1e-4, atol=1e-5)
    agent = StreamVLNAgent(merged.eval(), StreamVLNProcessor.tiny())
    assert agent.predict_chunk(OBSERVATION)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_loading(model, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model.save_pretrained(tmp_path)
    StreamVLNProcessor.tiny().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_compute_dtype=torch.bfloat16)
    agent = StreamVLNAgent.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cuda", quantization_config=config)
    plain = StreamVLNAgent.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cuda")
    kinds = {type(module).__name__ for module in agent.model.language_model.modules()}
    assert ("Linear4bit" if bits == 4 else "Linear8bitLt") in kinds
    chunk = agent.predict_chunk(OBSERVATION)
    assert 1 <= len(chunk) <= 4
    assert agent.model.get_memory_footprint() < 0.75 * plain.model.get_memory_footprint()


@pytest.mark.gpu
@needs_gpu
def test_gpu_and_cpu_give_the_same_actions(model):
    processor = StreamVLNProcessor.tiny()
    first = StreamVLNAgent(model, processor)
    expected = [first.act(OBSERVATION) for _ in range(40)]
    second = StreamVLNAgent.untrained(3, device="cuda")
    assert [second.act(OBSERVATION) for _ in range(40)] == expected
