"""Tower, projector, pooling and preprocessing against numbers of the published system."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration, StreamVLNProcessor, pool_patches

GOLDEN = Path(__file__).parents[1] / "data" / "golden_streamvln"


@pytest.fixture(scope="module")
def arrays():
    return np.load(GOLDEN / "arrays.npz")


@pytest.fixture(scope="module")
def model():
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = StreamVLNForConditionalGeneration.from_seed(StreamVLNConfig(vision, text))
    weights = {
        name: torch.from_numpy(value.astype(np.float32))
        for name, value in np.load(GOLDEN / "weights.npz").items()
        if name.startswith(("vision_tower", "projector"))
    }
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model


@torch.inference_mode()
def test_features_of_one_picture(model, arrays):
    picture = arrays["image_levels"].repeat(6, 0).repeat(6, 1)
    pixels = torch.from_numpy(arrays["lut"][picture].transpose(2, 0, 1)[None].copy())
    tower = model.vision_tower(pixel_values=pixels).last_hidden_state
    np.testing.assert_allclose(tower[0, ::9], arrays["tower_out"], atol=1e-5)
    np.testing.assert_allclose(model.projector(tower)[0, ::9], arrays["projector_out"], atol=1e-5)
    np.testing.assert_allclose(model.encode_images(pixels)[0], arrays["image_features"], atol=1e-5)


@pytest.mark.parametrize("mode", ["average", "max", "bilinear"])
def test_pooling(arrays, mode):
    pooled = pool_patches(torch.from_numpy(arrays["pool_in"]), mode, ceil_mode=False)
    np.testing.assert_allclose(pooled, arrays[f"pool_{mode}"], atol=1e-6)


def test_preprocessing(arrays):
    processor = StreamVLNProcessor.tiny()
    processor.config.vision_config.image_size = 384
    pixels = processor.images([arrays["resize_in"]])[0]
    np.testing.assert_array_equal(pixels[:, ::8, ::8], arrays["lut"][arrays["resized_every_8"]])
