"""What each slow-memory strategy shows, alone and in batches of training windows."""

import numpy as np
import pytest
import torch

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_STRATEGIES, MEMORY_TOKEN_ID
from streamvln_gym.models.memory_strategies import STRATEGIES, make_strategy, memory_tokens, strategy_of
from streamvln_gym.models.voxel_pruning import VoxelPruning

STEPS = [0, 4, 8, 12, 16, 20, 24, 28]
ONE_FRAME_LEFT = np.zeros((8, 4, 3), dtype=np.float32) + np.arange(4, dtype=np.float32)[None, :, None]


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 9, 5, generator=generator), torch.randn(8, 4, 5, generator=generator)


def shown(name, features, steps=STEPS, points=None, frames=8):
    strategy = make_strategy(name)
    return strategy.select(strategy.frame_tokens(*features)[:frames], steps[:frames], points)


def test_what_each_strategy_shows(features):
    patches, pooled = features
    assert tuple(STRATEGIES) == MEMORY_STRATEGIES
    torch.testing.assert_close(shown("pooled", features), torch.cat(list(pooled)), rtol=0, atol=0)
    torch.testing.assert_close(shown("full", features), torch.cat(list(patches)), rtol=0, atol=0)
    pairs = torch.stack([patches[0:2].mean(0), patches[2:4].mean(0), patches[4:6].mean(0), patches[6:8].mean(0)])
    torch.testing.assert_close(shown("temporal_pool", features), pairs.flatten(0, 1))
    assert shown("none", features).shape == (0, 5)
    three = shown("temporal_pool", features, frames=3)
    torch.testing.assert_close(three, torch.stack([pairs[0], patches[2]]).flatten(0, 1))
    torch.testing.assert_close(shown("temporal_pool", features, frames=1), patches[0])


def test_voxel_keeps_the_latest_and_without_valid_depth_equals_pooled(features):
    pooled = features[1]
    torch.testing.assert_close(shown("voxel", features, points=ONE_FRAME_LEFT), pooled[7], rtol=0, atol=0)
    nothing = np.full((8, 4, 3), np.nan, dtype=np.float32)
    torch.testing.assert_close(shown("voxel", features, points=nothing), shown("pooled", features), rtol=0, atol=0)
    with pytest.raises(ValueError, match="needs points"):
        shown("voxel", features)
    with pytest.raises(ValueError, match="points must have shape"):
        shown("voxel", features, points=ONE_FRAME_LEFT[:3])


@pytest.mark.parametrize("frames", [0, 1, 3, 8])
@pytest.mark.parametrize("name", MEMORY_STRATEGIES)
def test_most_tokens_is_the_length_without_pruning(name, frames, features):
    nothing = np.full((8, 4, 3), np.nan, dtype=np.float32)
    longest = len(shown(name, features, points=nothing[:frames], frames=frames))
    assert make_strategy(name).most_tokens(frames, patches=9, tokens=4) == longest


def test_batches_split_by_sample(features):
    strategy = make_strategy("voxel", VoxelPruning(threshold=0.0))
    points = ONE_FRAME_LEFT.copy()
    points[0, 0] = 50.0
    memories = memory_tokens(strategy, features[1], [3, 0, 5], STEPS, points)
    assert [None if memory is None else len(memory) for memory in memories] == [5, None, 4]
    torch.testing.assert_close(memories[0], torch.cat([features[1][0, :1], features[1][2]]))
    assert memory_tokens(make_strategy("none"), features[1][:0], [0, 0], []) == [None, None]
    with pytest.raises(ValueError, match="9 history frames"):
        memory_tokens(strategy, features[1], [4, 5], STEPS, points)
    with pytest.raises(ValueError, match="leave them out"):
        memory_tokens(make_strategy("none"), features[1][:, :0], [8], STEPS)


def test_configuration_names_the_strategy_and_survives_saving(tmp_path):
    config = StreamVLNConfig.tiny(memory_strategy="voxel", voxel_pruning={"voxel_size": 0.5, "window_steps": 16})
    config.save_pretrained(tmp_path)
    strategy = strategy_of(StreamVLNConfig.from_pretrained(tmp_path))
    assert strategy.pruning == VoxelPruning(0.5, 16)
    assert strategy_of(StreamVLNConfig.tiny()).__class__.__name__ == "PooledMemory"
    with pytest.raises(ValueError, match="memory_strategy must be one of"):
        StreamVLNConfig.tiny(memory_strategy="voxels")
    with pytest.raises(ValueError, match="voxel_size"):
        StreamVLNConfig.tiny(voxel_pruning={"voxel_size": -1.0})
    with pytest.raises(ValueError, match="memory_strategy must be one of"):
        make_strategy("all")


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    config = StreamVLNConfig.tiny(vocab_size=64)
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = 1
    config.text_config.layer_types = ["full_attention"]
    return StreamVLNForConditionalGeneration.from_seed(config)


def windows(seed=0):
    """A batch of two samples: three history frames and one current one, no history and two current ones."""
    rng = np.random.default_rng(seed)
    first = [1, 2, MEMORY_TOKEN_ID, 3, IMAGE_TOKEN_ID, 4, 5]
    second = [1, IMAGE_TOKEN_ID, 6, IMAGE_TOKEN_ID, 7, 0, 0]
    ids = torch.tensor([first, second])
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    pixels = torch.from_numpy(rng.uniform(-1, 1, (6, 3, 112, 112)).astype(np.float32))
    points = rng.uniform(0, 4, (3, 16, 3)).astype(np.float32)
    points[0] = points[2] + 0.001
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(ids < 4, -100).masked_fill(mask == 0, -100),
        "pixel_values": pixels,
        "memory_frames": torch.tensor([3, 0]),
        "memory_steps": torch.tensor([0, 4, 8]),
        "memory_points": torch.from_numpy(points),
    }


def loss_of(model, strategy, batch, **changes):
    model.config.memory_strategy = strategy
    with torch.no_grad():
        try:
            return model(**{**batch, **changes}).loss.item()
        finally:
            model.config.memory_strategy = "pooled"


def test_training_batch_with_variable_memories_equals_its_samples_alone(model):
    """The loss of the padded batch is the mean over the targets of both samples."""
    batch = windows()
    for strategy in ("pooled", "full", "temporal_pool", "voxel"):
        together = loss_of(model, strategy, batch)
        alone, targets = [], []
        for index, (frames, part) in enumerate(((4, slice(0, 4)), (2, slice(4, 6)))):
            history = int(batch["memory_frames"][index])
            single = {
                key: batch[key][index : index + 1] for key in ("input_ids", "attention_mask", "labels", "memory_frames")
            }
            single |= {"pixel_values": batch["pixel_values"][part]}
            single |= {key: batch[key][:history] for key in ("memory_steps", "memory_points")}
            assert len(single["pixel_values"]) == frames
            alone.append(loss_of(model, strategy, single))
            targets.append(int((single["labels"][:, 1:] != -100).sum()))
        assert together == pytest.approx(np.average(alone, weights=targets), abs=2e-6)


def test_training_lengths_per_strategy(model):
    batch = windows()
    patches = model.encode_patches(batch["pixel_values"][:1])
    assert patches.shape == (1, 64, 256)
    lengths = {}
    for strategy in ("pooled", "full", "temporal_pool", "voxel"):
        model.config.memory_strategy = strategy
        with torch.no_grad():
            lengths[strategy] = model(**{**batch, "labels": None}).logits.shape[1]
    model.config.memory_strategy = "pooled"
    text_and_image = 5 + 16
    assert lengths["pooled"] == 3 * 16 + text_and_image
    assert lengths["full"] == 3 * 64 + text_and_image
    assert lengths["temporal_pool"] == 2 * 64 + text_and_image
    assert 37 <= lengths["voxel"] < lengths["pooled"]


def test_voxel_without_pruning_is_bit_identical_to_pooled_in_training(model):
    batch = windows()
    nothing = torch.full_like(batch["memory_points"], torch.nan)
    assert loss_of(model, "voxel", batch, memory_points=nothing) == loss_of(model, "pooled", batch)
    assert loss_of(model, "voxel", batch) != loss_of(model, "pooled", batch)
    unused = {"memory_steps": None, "memory_points": None}
    assert loss_of(model, "pooled", batch, **unused) == loss_of(model, "pooled", batch)


def test_training_says_what_is_missing(model):
    with pytest.raises(ValueError, match="record depth and camera poses"):
        loss_of(model, "voxel", windows(), memory_points=None)
    with pytest.raises(ValueError, match="leave them out"):
        loss_of(model, "none", windows())


def test_gradients_reach_the_projector_through_pruned_memory(model):
    model.config.memory_strategy = "voxel"
    model.zero_grad()
    model(**windows()).loss.backward()
    model.config.memory_strategy = "pooled"
    assert model.projector.linear_2.weight.grad.abs().sum() > 0
    model.zero_grad()
