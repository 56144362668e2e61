"""Published checkpoints: loading, conversion, and what is refused."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import SiglipVisionConfig

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models import StreamVLNForConditionalGeneration, conversion
from streamvln_gym.models.conversion import config_from_published, convert_checkpoint, our_key, published_key
from streamvln_gym.models.shipped import SHIPPED_FOLDER
from tests.golden_streamvln import (
    VISION_CONFIG,
    description,
    published_tensors,
    write_published_checkpoint,
    write_tokenizer,
)

OPTIONS = LoadOptions(vision_config=VISION_CONFIG)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published_checkpoint(tmp_path_factory.mktemp("published"))


def damaged(published, folder, change):
    """A copy of the checkpoint whose tensors went through `change`."""
    folder.mkdir(exist_ok=True)
    for path in published.iterdir():
        if path.suffix == ".json":
            (folder / path.name).symlink_to(path)
    tensors = published_tensors()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def shard(published, folder, count=3):
    """The same checkpoint in shards with an index."""
    folder.mkdir(exist_ok=True)
    for path in published.iterdir():
        if path.suffix == ".json":
            (folder / path.name).symlink_to(path)
    tensors = load_file(published / "model.safetensors")
    places = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::count]}
        save_file(part, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(part, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def same_weights(first, second):
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_every_published_key_has_one_counterpart_or_a_reason(published):
    model, _ = load_checkpoint(published, options=OPTIONS)
    ours = {our_key(key): key for key in published_tensors() if our_key(key)}
    assert set(ours) == set(model.state_dict())
    assert {key for key in published_tensors() if our_key(key) is None} == {
        f"model.vision_tower.vision_tower.vision_model.post_layernorm.{part}" for part in ("weight", "bias")
    }
    assert all(published_key(name) == key for name, key in ours.items())


def test_published_defaults(published):
    agent = StreamVLNAgent.from_pretrained(published, vision_config=VISION_CONFIG)
    config = agent.model.config
    assert (config.num_history, config.chunk_size, config.window_steps) == (8, 4, 32)
    assert (config.prompt_style, config.memory_prompt, config.pooling_mode) == ("published", "evaluation", "bilinear")
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert config.tokens_per_frame == 196
    assert agent.trained
    assert agent.session.rules.grammar is None, "published answers are not restricted"
    assert agent.model.dtype == torch.float32, "float16 is widened on a CPU"
    assert agent.session.rules.end_ids == (151645,)


def test_so400m_by_default():
    config = config_from_published(description()["config"])
    vision = config.vision_config
    assert (vision.hidden_size, vision.intermediate_size, vision.num_attention_heads) == (1152, 4304, 16)
    assert vision.num_hidden_layers == 26, "the last of 27 is dropped"
    assert (config.image_size, vision.patch_size, config.patches_per_side) == (384, 14, 27)
    assert (vision.hidden_act, vision.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-6)


@pytest.mark.parametrize("layers", [2, 3])
def test_vision_sizes_with_and_without_the_dropped_layer(published, layers):
    given = SiglipVisionConfig(**{**VISION_CONFIG, "num_hidden_layers": layers, "image_size": 384, "patch_size": 14})
    model, _ = load_checkpoint(published, options=LoadOptions(vision_config=given))
    assert len(model.vision_tower.encoder.layers) == 2


def test_published_modes_floor_where_published_code_floors():
    values = {**description()["config"], "mm_spatial_pool_mode": "average"}
    assert config_from_published(values).tokens_per_frame == 169


def test_shards_and_dtypes(published, tmp_path):
    whole, _ = load_checkpoint(published, options=OPTIONS)
    parts, _ = load_checkpoint(shard(published, tmp_path / "shards"), options=OPTIONS)
    assert same_weights(whole, parts)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast, _ = load_checkpoint(published, dtype, options=OPTIONS)
        assert {parameter.dtype for parameter in cast.parameters()} == {dtype}
        assert all(torch.equal(cast.state_dict()[name], value.to(dtype)) for name, value in whole.state_dict().items())


def test_small_networks_in_bfloat16_are_widened_on_a_cpu(published, tmp_path, monkeypatch):
    half, processor = load_checkpoint(published, torch.bfloat16, options=OPTIONS)
    StreamVLNAgent(half, processor).save_pretrained(tmp_path / "half")
    wide, _ = load_checkpoint(tmp_path / "half")
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert wide.config.dtype == torch.float32
    assert all(torch.equal(wide.state_dict()[name], value.float()) for name, value in half.state_dict().items())
    monkeypatch.setattr(conversion, "SMALL_BYTES", 1000)
    large, _ = load_checkpoint(tmp_path / "half")
    assert {parameter.dtype for parameter in large.parameters()} == {torch.bfloat16}, "which float32 might not fit"


def test_same_weights_through_transformers_own_loader(published):
    ours, _ = load_checkpoint(published, torch.float32, options=OPTIONS)
    spread = LoadOptions(vision_config=VISION_CONFIG, device_map="cpu", attn_implementation="eager")
    theirs, _ = load_checkpoint(published, torch.float32, options=spread)
    assert same_weights(ours, theirs)
    assert theirs.config._attn_implementation == theirs.language_model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: [tensors.pop(f"model.layers.1.mlp.{name}_proj.weight") for name in ("up", "down")],
            r"2 missing keys: model\.layers\.1\.mlp\.up_proj\.weight, model\.layers\.1\.mlp\.down_proj\.weight",
        ),
        (
            lambda tensors: tensors.update({"model.extra": np.zeros(2, np.float16), "other": np.zeros(1, np.float16)}),
            "2 unexpected keys: model.extra, other",
        ),
        (
            lambda tensors: tensors.update({"model.mm_projector.2.bias": np.zeros(31, np.float16)}),
            r"1 mismatched keys: model\.mm_projector\.2\.bias is \(31,\) instead of \(32,\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_listed(published, tmp_path, change, message):
    folder = damaged(published, tmp_path / "damaged", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, options=OPTIONS)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, tmp_path / "out", VISION_CONFIG)
    assert not (tmp_path / "out").exists()


def test_all_kinds_of_misfit_in_one_message(published, tmp_path):
    def change(tensors):
        tensors["model.layers.0.extra"] = tensors.pop("model.norm.weight")
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:8]

    with pytest.raises(CheckpointError, match=r"1 missing keys.*1 unexpected keys.*1 mismatched keys"):
        load_checkpoint(damaged(published, tmp_path / "damaged", change), options=OPTIONS)


def test_other_vision_sizes_point_to_the_option(published):
    with pytest.raises(CheckpointError, match=r"taken to be 1152 wide with 26 layers.*vision_config="):
        load_checkpoint(published)


def test_wrong_tokenizers_are_listed(published, tmp_path):
    folder = damaged(published, tmp_path / "other", lambda tensors: None)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
        (folder / name).write_bytes((SHIPPED_FOLDER / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"'<\|im_start\|>' gives \[\d+\] instead of \[151644\].*'↑' gives"):
        load_checkpoint(folder, options=OPTIONS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_checkpoint(folder, options=OPTIONS)
    write_tokenizer(tmp_path)
    elsewhere = LoadOptions(vision_config=VISION_CONFIG, tokenizer=tmp_path)
    assert load_checkpoint(folder, options=elsewhere)[1].turn_end_id == 151645


def test_missing_special_tokens_are_listed(published, tmp_path):
    folder = damaged(published, tmp_path / "bare", lambda tensors: None)
    values = json.loads((published / "tokenizer.json").read_text(encoding="utf-8"))
    values["added_tokens"] = []
    settings = json.loads((published / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in ("added_tokens_decoder", "additional_special_tokens", "eos_token", "pad_token"):
        settings.pop(name)
    for name, content in (("tokenizer.json", values), ("tokenizer_config.json", settings)):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"'<\|im_start\|>' gives \[.*'<\|im_end\|>' gives \["):
        load_checkpoint(folder, options=OPTIONS)


def test_broken_files(published, tmp_path):
    folder = shard(published, tmp_path / "shards")
    second = folder / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors cannot be read.*it is cut"):
        load_checkpoint(folder, options=OPTIONS)
    second.write_bytes(b"not a checkpoint at all, but longer than eight bytes")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder, options=OPTIONS)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"lack 1 of 3 shards: model-00002-of-00003\.safetensors"):
        load_checkpoint(folder, options=OPTIONS)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no index"):
        load_checkpoint(folder, options=OPTIONS)


def test_conversion_is_byte_for_byte_and_loads_alike(published, tmp_path):
    target = tmp_path / "ours"
    report = convert_checkpoint(published, target, VISION_CONFIG, max_shard_bytes=200_000)
    assert json.loads((target / conversion.CHECKSUMS_NAME).read_text()) == report
    assert len(report["tensors"]) == 66
    assert report["left_out"] == sorted(key for key in published_tensors() if our_key(key) is None)
    tensors = published_tensors()
    for entry in report["tensors"].values():
        assert entry["sha256"] == hashlib.sha256(tensors[entry["published"]].tobytes()).hexdigest()
    assert (target / "model.safetensors.index.json").is_file()
    direct = StreamVLNAgent.from_pretrained(published, vision_config=VISION_CONFIG)
    ours = StreamVLNAgent.from_pretrained(target)
    assert same_weights(direct.model, ours.model)
    assert ours.model.config.prompt_style == "published"
    assert ours.trained
    theirs = StreamVLNForConditionalGeneration.from_pretrained(target, dtype=torch.float32)
    assert same_weights(direct.model, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"], "no partial folder is left"


def test_conversion_refuses_and_leaves_nothing(published, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(published, tmp_path / "full", VISION_CONFIG)
    convert_checkpoint(published, tmp_path / "ours", VISION_CONFIG)
    with pytest.raises(CheckpointError, match="nothing to convert"):
        convert_checkpoint(tmp_path / "ours", tmp_path / "again")

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        convert_checkpoint(published, tmp_path / "third", VISION_CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "ours"]


def test_repetition_penalty_and_several_ends_of_the_generation_configuration(published, tmp_path):
    folder = damaged(published, tmp_path / "penalty", lambda tensors: None)
    (folder / "generation_config.json").unlink()
    values = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
    values |= {"eos_token_id": [151645, 151643], "pad_token_id": 151643}
    (folder / "generation_config.json").write_text(json.dumps(values))
    agent = StreamVLNAgent.from_pretrained(folder, vision_config=VISION_CONFIG, max_new_tokens=3)
    agent.predict_chunk({"rgb": np.zeros((48, 64, 3), np.uint8), "instruction": "Go."})
    assert agent.session.rules.repetition_penalty == 1.05
    assert agent.session.rules.end_ids == (151645, 151643)


def test_hub_ids_are_downloaded_only_when_named(published, monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(repo_id, revision=None, allow_patterns=None):
        asked.append((repo_id, revision, allow_patterns))
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    agent = StreamVLNAgent.from_pretrained("someone/StreamVLN", vision_config=VISION_CONFIG, revision="abc")
    assert agent.trained
    assert asked == [("someone/StreamVLN", "abc", ["*.json", "*.safetensors", "*.txt"])]
    StreamVLNAgent.from_pretrained(str(published), vision_config=VISION_CONFIG)
    StreamVLNAgent.from_pretrained()
    assert len(asked) == 1
    with pytest.raises(CheckpointError, match="there is no folder"):
        StreamVLNAgent.from_pretrained("just_a_name")
    assert len(asked) == 1

    def offline(repo_id, revision=None, allow_patterns=None):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"'someone/StreamVLN' cannot be downloaded from the hub: no route"):
        StreamVLNAgent.from_pretrained("someone/StreamVLN")


def test_convert_on_the_command_line(published, tmp_path, capsys):
    from streamvln_gym.cli import main

    vision = tmp_path / "siglip.json"
    vision.write_text(json.dumps(VISION_CONFIG))
    target = tmp_path / "ours"
    main(["convert", str(published), str(target), "--vision-config", str(vision)])
    output = capsys.readouterr().out
    assert "66 tensors, 0.02 GB" in output
    assert "conversion.json" in output
    assert StreamVLNAgent.from_pretrained(target).model.config.num_history == 8
    with pytest.raises(SystemExit, match="exists already"):
        main(["convert", str(published), str(target), "--vision-config", str(vision)])
    with pytest.raises(SystemExit, match="vision_config="):
        main(["convert", str(published), str(tmp_path / "other")])


def rewrite_header(path, change):
    """Replaces a safetensors file's header by what `change` makes of it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path.unlink()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def halved(header):
    first, last = header["lm_head.weight"]["data_offsets"]
    header["lm_head.weight"]["data_offsets"] = [first, (first + last) // 2]
    return header


def reversed_range(header):
    header["lm_head.weight"]["data_offsets"] = header["lm_head.weight"]["data_offsets"][::-1]
    return header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (halved, r"lm_head\.weight takes \d+ bytes, but its shape .* needs"),
        (reversed_range, r"lm_head\.weight takes -\d+ bytes"),
        (lambda header: list(header), "no JSON object"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(published, tmp_path, change, message):
    folder = damaged(published, tmp_path / "header", lambda tensors: None)
    rewrite_header(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, options=OPTIONS)


def test_an_empty_file_is_refused(published, tmp_path):
    folder = damaged(published, tmp_path / "empty", lambda tensors: None)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="it has only 0 bytes"):
        load_checkpoint(folder, options=OPTIONS)


@pytest.mark.parametrize("places", [["a"], {"lm_head.weight": 3}])
def test_an_index_of_another_form_is_refused(published, tmp_path, places):
    folder = shard(published, tmp_path / "shards")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load_checkpoint(folder, options=OPTIONS)


def test_sizes_that_the_published_configuration_lacks_are_listed(published):
    values = json.loads((published / "config.json").read_text())
    for name in ("rope_theta", "num_key_value_heads"):
        values.pop(name)
    with pytest.raises(CheckpointError, match="lacks num_key_value_heads, rope_theta"):
        config_from_published(values)
    with pytest.raises(CheckpointError, match="vision_config must be"):
        config_from_published(json.loads((published / "config.json").read_text()), vision_config=[1, 2])


@pytest.mark.parametrize("penalty", ["high", 0, True])
def test_a_repetition_penalty_that_is_no_number_is_refused(published, tmp_path, penalty):
    folder = damaged(published, tmp_path / "penalty", lambda tensors: None)
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": penalty}))
    with pytest.raises(CheckpointError, match="repetition_penalty must be a positive number"):
        load_checkpoint(folder, options=OPTIONS)


def test_an_unknown_attention_is_named(published):
    with pytest.raises(CheckpointError, match="attn_implementation='flash' cannot be had"):
        load_checkpoint(published, options=LoadOptions(vision_config=VISION_CONFIG, attn_implementation="flash"))
