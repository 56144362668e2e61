"""Auxiliary losses in supervised training: the right states meet the right targets, and the heads are dropped."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import DatasetError
from streamvln_gym.models import StreamVLNForConditionalGeneration
from streamvln_gym.training import AugmentationConfig, StreamVLNWindows, train
from streamvln_gym.training.auxiliary_loss import AuxiliaryLoss
from streamvln_gym.training.config import BatchConfig, LoraSettings, MachineConfig, ReportConfig
from streamvln_gym.training.privileged import AuxiliaryConfig, Privileged
from streamvln_gym.training.recorder import RecordConfig, record
from streamvln_gym.training.sft_trainer import WindowBatches
from tests.training.demonstrations import (
    ACTIONS,
    recipe,
    thin_processor,
    weights,
    write_checkpoint,
    write_demonstrations,
)

FRAMES, PATCHES = len(ACTIONS["red"]), 64


def write_targets(folder, episodes=2, patches=PATCHES):
    for number in range(episodes):
        rng = np.random.default_rng(number)
        Privileged(
            rng.integers(0, 9, (FRAMES, patches)).astype(np.uint8),
            rng.integers(0, 200, (FRAMES, patches)).astype(np.uint8),
            rng.normal(size=(FRAMES, 5)).astype(np.float32),
            rng.integers(0, 4, (FRAMES, 2)).astype(np.uint8),
        ).save(folder / f"episode{number}" / "privileged.npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("auxiliary")
    data = write_demonstrations(root / "data")
    write_targets(data)
    return data, write_checkpoint(root / "thin")


@pytest.fixture
def model():
    return StreamVLNForConditionalGeneration.from_seed(thin_processor().config)


def test_targets_are_those_of_the_window_s_frames(files):
    sample = StreamVLNWindows(files[0], thin_processor(), privileged=True)[1]
    target = Privileged.load(files[0] / "episode0" / "privileged.npz")
    assert sample["memory_frames"] == 2
    np.testing.assert_array_equal(sample["patch_class"], target.patch_class[[0, 4, 8]])
    np.testing.assert_array_equal(sample["patch_depth"], target.patch_depth[[0, 4, 8]])
    np.testing.assert_array_equal(sample["pose"], target.pose[[8]])
    np.testing.assert_array_equal(sample["rooms"], target.rooms[[8]])


def test_each_answer_s_first_state_meets_its_frame_s_target(files, model):
    """Found anew: the state before an answer's first token, one window at a time; also when grouped in a batch."""
    windows = StreamVLNWindows(files[0], thin_processor(), privileged=True)
    samples = [windows[index] for index in (0, 1, 2)]
    batch = WindowBatches()(samples)
    AuxiliaryLoss(model, thin_processor().turn_end_id, AuxiliaryConfig(vision=0.7, pose=0.3))
    features, states = [], []
    with torch.inference_mode():
        for sample in samples:
            features.append(model.vision_tower(pixel_values=sample["pixel_values"]).last_hidden_state)
            tokens = model.encode_images(sample["pixel_values"])
            history, now = tokens[: sample["memory_frames"]], tokens[sample["memory_frames"] :]
            memory = history.flatten(0, 1) if len(history) else None
            hidden = model.language_model(inputs_embeds=model.embed(sample["input_ids"], now, memory)).last_hidden_state
            ids, at, position = sample["input_ids"].tolist(), [], 0
            for index, token in enumerate(ids):
                if sample["labels"][index] >= 0 > sample["labels"][index - 1]:
                    at.append(position - 1)
                position += 16 if token == -200 else 32 if token == -300 else 1
            states.append(hidden[0, at])
        expected = 0.7 * model.auxiliary.vision_loss(
            torch.cat(features), batch["patch_class"], batch["patch_depth"], torch.ones(len(batch["patch_class"]))
        ) + 0.3 * model.auxiliary.pose_loss(
            torch.cat(states), batch["pose"], batch["rooms"], torch.ones(len(batch["pose"]))
        )
        plain = {k: v for k, v in batch.items() if k not in ("patch_class", "patch_depth", "pose", "rooms", "window")}
        torch.testing.assert_close(model(**batch).loss - model(**plain).loss, expected, rtol=1e-4, atol=1e-4)
        half = model(**batch, num_items_in_batch=2 * (batch["labels"] >= 0).sum()).loss
        torch.testing.assert_close(half, model(**batch).loss / 2)


def test_an_answer_that_the_driver_left_is_one_answer(files, model, tmp_path):
    """Its end is learned, after actions that are not: no state of another answer."""
    folder = shutil.copytree(files[0], tmp_path / "driven")
    entries = json.loads((folder / "annotations.json").read_text())
    for entry in entries:
        wanted = [*entry["actions"][1:], 0]
        entry["actions"] = [-1, *wanted]
        entry["executed"] = [-1, *(1 if step % 4 == 1 else action for step, action in enumerate(wanted))]
    (folder / "annotations.json").write_text(json.dumps(entries))
    sample = StreamVLNWindows(folder, thin_processor(), privileged=True)[0]
    starts = [k for k in range(1, len(sample["labels"])) if sample["labels"][k] >= 0 > sample["labels"][k - 1]]
    assert len(starts) > len(sample["pose"]), "the labels do have gaps within answers"
    AuxiliaryLoss(model, thin_processor().turn_end_id, AuxiliaryConfig(vision=0.7, pose=0.3))
    assert torch.isfinite(model(**WindowBatches()([sample, sample])).loss)
    result = train(recipe(folder, files[1], tmp_path / "run", auxiliary=(0.3, 0.2), max_steps=2))
    assert np.isfinite(result.loss)


def test_heads_learn_and_are_dropped(files, tmp_path):
    config = recipe(*files, tmp_path / "run", auxiliary=(0.3, 0.2), epochs=4, report=ReportConfig(quiet=True, keep=9))
    result = train(config)
    model = StreamVLNAgent.from_pretrained(result.model).model
    assert not [name for name in model.state_dict() if "auxiliary" in name]
    from safetensors.torch import load_file

    first, last = (load_file(tmp_path / "run" / f"checkpoint-{n}" / "model.safetensors") for n in (2, 8))
    assert not torch.equal(first["auxiliary.patch.weight"], last["auxiliary.patch.weight"])
    assert not torch.equal(first["auxiliary.decision.weight"], last["auxiliary.decision.weight"])
    plain = weights(train(replace(config, out=tmp_path / "plain", auxiliary=None)).model)
    name = "vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(plain[name], model.state_dict()[name]), "the heads teach the network"


def test_resumed_with_its_heads(files, tmp_path, monkeypatch):
    config = recipe(*files, tmp_path / "whole", auxiliary=(0.3, 0.2), epochs=2, batch=BatchConfig(1))
    expected = weights(train(config).model)
    stopped = replace(config, out=tmp_path / "stopped")
    monkeypatch.setattr("streamvln_gym.training.sft._save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    (tmp_path / "stopped" / "checkpoint-8" / "whole").unlink()
    monkeypatch.undo()
    found = weights(train(replace(stopped, resume=True)).model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("machine", [MachineConfig(bf16=True), MachineConfig(gradient_checkpointing=True)])
def test_with_other_precisions(files, tmp_path, machine):
    assert np.isfinite(train(recipe(*files, tmp_path / "run", auxiliary=(0.3, 0.2), max_steps=2, machine=machine)).loss)


def test_recorded_flats_can_be_trained_on(tiny_flats, files, tmp_path):
    """From a simulator's episodes to a network: the recorder's folder, with targets, as it is."""
    folder = tmp_path / "recorded"
    data = str(tiny_flats.episodes_path)
    size = {"width": 112, "height": 112}
    record(
        RecordConfig(folder, data, "tiny", per_scene=1, privileged=True, workers=1, data_dir=tiny_flats.root, **size)
    )
    result = train(recipe(folder, files[1], tmp_path / "run", auxiliary=(0.3, 0.2), max_steps=2))
    assert result.steps == 2


def test_no_targets_or_others(files, tmp_path):
    bare = write_demonstrations(tmp_path / "bare")
    with pytest.raises(DatasetError, match=r"there are no auxiliary targets .*privileged.npz: record with them"):
        train(recipe(bare, files[1], tmp_path / "run", auxiliary=(0.3, 0.2)))
    write_targets(bare, patches=16)
    with pytest.raises(DatasetError, match=r"record with patches=8"):
        train(recipe(bare, files[1], tmp_path / "other", auxiliary=(0.3, 0.2)))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora", "lora": LoraSettings()},
        {"published_label_mask": True},
        {"auxiliary": (-0.1, 0.2)},
    ],
)
def test_settings_that_exclude_each_other(files, tmp_path, changes):
    with pytest.raises(ValueError, match="auxiliary losses"):
        recipe(*files, tmp_path / "run", **{"auxiliary": (0.3, 0.2), **changes})


def test_cut_pictures_and_targets_exclude_each_other(files, tmp_path):
    config = recipe(*files, tmp_path / "run", auxiliary=(0.3, 0.2), augmentation=AugmentationConfig(crop=0.1))
    with pytest.raises(ValueError, match="auxiliary targets must know"):
        train(config)
