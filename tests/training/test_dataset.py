"""Samples, batches, and the way through a DataLoader into the network."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from streamvln_gym.errors import DatasetError
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.voxel_pruning import patch_points, token_centres
from streamvln_gym.training import StreamVLNCollator, StreamVLNWindows, WindowConfig
from tests.training.conftest import INTRINSICS, FolderWriter, depth, pose

SHORT_WINDOWS = WindowConfig(window_steps=8, num_history=4)
MOVES = [1, 2, 3, 1, 1, 1, 2, 2, 1]


@pytest.fixture(scope="module")
def processor():
    torch.set_num_threads(1)
    return small_processor()


def small_processor(**settings):
    processor = StreamVLNProcessor.tiny(**settings)
    for part in (processor.config.vision_config, processor.config.text_config):
        part.num_hidden_layers = 1
    processor.config.text_config.layer_types = ["full_attention"]
    return processor


def test_samples(folder, processor):
    dataset = StreamVLNWindows(folder, processor, SHORT_WINDOWS)
    spans = [(window.instruction, window.start, window.stop) for window in dataset.windows]
    assert spans == [(0, 0, 8), (0, 8, 10), (1, 0, 8), (1, 8, 10)]
    sample = dataset[1]
    assert sample["memory_frames"] == 4
    assert sample["time_ids"].tolist() == [8, 9]
    assert sample["input_ids"].shape == sample["labels"].shape
    trajectory = dataset.trajectories[0]
    expected = processor.images([trajectory.picture(step) for step in (0, 2, 4, 6, 8)])
    np.testing.assert_array_equal(sample["pixel_values"], expected)
    assert torch.equal(dataset[-3]["input_ids"], sample["input_ids"])
    with pytest.raises(IndexError):
        dataset[4]


def test_several_folders(tmp_path, processor):
    folders = []
    for name, count in (("a", 10), ("b", 4), ("c", 3)):
        (tmp_path / name).mkdir()
        writer = FolderWriter(tmp_path / name)
        writer.pictures(name, count)
        folders.append(writer.annotate(writer.entry(name, [1] * (count - 1))))
    dataset = StreamVLNWindows(folders, processor)
    assert [dataset.trajectories[window.trajectory].id for window in dataset.windows] == ["a", "a", "b", "b"]
    assert dataset.skipped == 1
    with pytest.raises(DatasetError, match=r"no training window in .*c: 1 trajectories, 1 of them shorter than 4"):
        StreamVLNWindows(folders[2:], processor)
    with pytest.raises(DatasetError, match="no training window in an empty list of folders"):
        StreamVLNWindows([], processor)


def test_epochs_redraw_conjunctions_also_in_running_workers(folder, processor):
    dataset = StreamVLNWindows(folder, processor, SHORT_WINDOWS)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append([sample["input_ids"].tolist() for sample in loader])
        assert epochs[-1] == [sample["input_ids"].tolist() for sample in dataset]
    assert epochs[0] == epochs[2] != epochs[1]


def test_batches_are_padded_on_the_right(folder, processor):
    dataset = StreamVLNWindows(folder, processor, SHORT_WINDOWS)
    samples = [dataset[1], dataset[0]]
    # The padding id is a token in use: the mask must not come from comparing ids.
    batch = StreamVLNCollator(pad_token_id=processor.turn_end_id)(samples)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert lengths[0] != lengths[1]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, sample, length in zip(range(2), samples, lengths, strict=True):
        assert torch.equal(batch["input_ids"][row, :length], sample["input_ids"])
        assert (batch["input_ids"][row, length:] == processor.turn_end_id).all()
        assert torch.equal(batch["labels"][row, :length], sample["labels"])
        assert (batch["labels"][row, length:] == IGNORE_LABEL).all()
    assert batch["memory_frames"].tolist() == [4, 0]
    assert len(batch["pixel_values"]) == 5 + 2
    assert torch.equal(batch["pixel_values"], torch.cat([sample["pixel_values"] for sample in samples]))


def test_batch_of_windows_with_and_without_memory(folder, processor):
    """One loss for both, the mean over all targets."""
    model = StreamVLNForConditionalGeneration.from_seed(processor.config, seed=0)
    dataset = StreamVLNWindows(folder, processor, SHORT_WINDOWS)
    collate = StreamVLNCollator()
    with torch.inference_mode():
        alone = [model(**collate([dataset[index]])) for index in (1, 0)]
        together = model(**collate([dataset[1], dataset[0]]))
    counts = [len(output.logits) for output in alone]
    assert counts == [3, 10]
    mean = sum(count * output.loss for count, output in zip(counts, alone, strict=True)) / sum(counts)
    torch.testing.assert_close(together.loss, mean)


def test_loss_falls(folder, processor):
    model = StreamVLNForConditionalGeneration.from_seed(processor.config, seed=0).train()
    dataset = StreamVLNWindows(folder, processor, SHORT_WINDOWS)
    loader = DataLoader(dataset, batch_size=4, collate_fn=StreamVLNCollator())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_frozen_embeddings_with_gradient_checkpointing(folder, processor):
    """What adapters do: the inputs' embeddings are a leaf of the graph, and must not be written into."""
    model = StreamVLNForConditionalGeneration.from_seed(processor.config, seed=0).train()
    model.requires_grad_(False)
    adapted = model.language_model.layers[0].self_attn.q_proj.weight.requires_grad_(True)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model(**StreamVLNCollator()([StreamVLNWindows(folder, processor, SHORT_WINDOWS)[1]])).loss.backward()
    assert adapted.grad.norm() > 0


def test_points_of_history_frames(writer):
    """Depth and poses become points per history frame, which the network prunes by; batches mix memory lengths."""
    processor = small_processor(memory_strategy="voxel", voxel_pruning={"voxel_size": 0.5})
    for name, count in (("a", 10), ("b", 6)):
        writer.pictures(name, count, geometry=True)
    folder = writer.annotate(writer.entry("a", MOVES), writer.entry("b", MOVES[:5]))
    dataset = StreamVLNWindows(folder, processor, WindowConfig(window_steps=4, num_history=4))
    samples = {(dataset.trajectories[w.trajectory].id, w.start): dataset[i] for i, w in enumerate(dataset.windows)}
    assert "memory_points" not in samples["a", 0]
    late = samples["a", 8]
    assert late["memory_steps"].tolist() == [0, 2, 4, 6]
    centres = token_centres(processor.config)
    for row, step in enumerate((0, 2, 4, 6)):
        metres = depth(step).astype(np.float32) / 1000
        np.testing.assert_array_equal(late["memory_points"][row], patch_points(metres, INTRINSICS, pose(step), centres))
    chosen = [late, samples["a", 0], samples["b", 4]]
    batch = StreamVLNCollator()(chosen)
    assert batch["memory_frames"].tolist() == [4, 0, 4]
    assert batch["memory_steps"].tolist() == [0, 2, 4, 6, 0, 1, 2, 3]
    assert batch["memory_points"].shape == (8, processor.config.tokens_per_frame, 3)
    model = StreamVLNForConditionalGeneration.from_seed(processor.config, seed=0)
    with torch.inference_mode():
        alone = [model(**StreamVLNCollator()([sample])) for sample in chosen]
        together = model(**batch)
    torch.testing.assert_close(together.logits, torch.cat([output.logits for output in alone]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda video: (video / "camera.json").unlink(), r"camera.json .*record the trajectory with depth and poses"),
        (
            lambda video: (video / "camera.json").write_text("{}"),
            r"camera.json .*is malformed: KeyError\('intrinsics'\)",
        ),
        (lambda video: cut_poses(video / "camera.json"), r"\(\(3, 3\), \(9, 4, 4\)\), but must have"),
        (lambda video: (video / "depth/002.png").unlink(), r"002.png \(depth of step 2, .*or train with memory_strat"),
        (
            lambda video: (video / "depth/002.png").write_bytes((video / "rgb/002.jpg").read_bytes()),
            r"002.png .* must be a 16-bit grey picture in millimetres, got uint8 \(48, 64, 3\)",
        ),
    ],
)
def test_damaged_geometry_is_named(writer, damage, message):
    video = writer.pictures("a", 10, geometry=True)
    folder = writer.annotate(writer.entry("a", MOVES))
    processor = StreamVLNProcessor.tiny(memory_strategy="voxel")
    dataset = StreamVLNWindows(folder, processor, WindowConfig(window_steps=8, num_history=4))
    damage(video)
    with pytest.raises(DatasetError, match=message):
        dataset[1]


def cut_poses(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "poses": content["poses"][1:]}))


def test_truncated_picture_stops_training_with_its_name(folder, processor):
    path = folder / "images/a/rgb/004.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"004.jpg \(picture of step 4, .*entry 0 \(id 'a'\)\) cannot be read"):
        StreamVLNWindows(folder, processor)[0]


def test_inconsistent_samples(folder, processor):
    good = StreamVLNWindows(folder, processor, SHORT_WINDOWS)[1]
    collate = StreamVLNCollator()
    with pytest.raises(ValueError, match="at least one sample"):
        collate([])
    with pytest.raises(ValueError, match=r"sample 1 has .* input_ids but"):
        collate([good, {**good, "labels": good["labels"][1:]}])
    with pytest.raises(ValueError, match="sample 0 has 5 frames, of which memory_frames claims 6"):
        collate([{**good, "memory_frames": 6}])
    with pytest.raises(ValueError, match="sample 0 has 3 rows of 'memory_steps' for 4 history frames"):
        collate([{**good, "memory_steps": torch.arange(3)}])
    with pytest.raises(ValueError, match="sample 1 has a memory but lacks 'memory_steps'"):
        collate([{**good, "memory_steps": torch.arange(4)}, good])
