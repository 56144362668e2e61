"""Preprocessing, tower, projector and pooling against numbers of the published system."""

import hashlib

import numpy as np
import PIL
import pytest
import torch

from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.models import pool_patches
from tests.golden_streamvln import COMPACT, NO_FULL, VISION_CONFIG, full_recording, write_published_checkpoint


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(COMPACT / "encoder.npz"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = write_published_checkpoint(tmp_path_factory.mktemp("published"))
    return load_checkpoint(folder, options=LoadOptions(vision_config=VISION_CONFIG))


@pytest.fixture(scope="module")
def model(parts):
    return parts[0]


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def pictures(arrays, name, processor):
    """Pixel values (frames, 3, 384, 384) of the recorded pictures, whose hash is checked."""
    levels = arrays[f"{name}_levels"].repeat(6, 1).repeat(6, 2)
    pixels = processor.images(list(levels))
    assert sha256(pixels[None]) == str(arrays[f"{name}_sha256"])
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("name", ["noise_37x53", "blocks_500x333"])
def test_preprocessing_bit_for_bit(parts, arrays, name):
    if name.startswith("blocks") and int(PIL.__version__.split(".")[0]) >= 13:
        pytest.skip("Pillow 13 resizes this picture to other levels")
    pixels = parts[1].images([arrays[f"in_{name}"]])[0]
    assert sha256(pixels) == str(arrays[f"sha256_{name}"])
    if f"levels_{name}" in arrays:
        np.testing.assert_array_equal(pixels[:, ::8, ::8], arrays["lut"][arrays[f"levels_{name}"]])


@torch.inference_mode()
def test_tower_and_projector(parts, model, arrays):
    pixels = pictures(arrays, "images1", parts[1])
    tower = model.vision_tower(pixel_values=pixels).last_hidden_state
    np.testing.assert_allclose(tower[:, ::7], arrays["vision_tower_out_images1"], atol=1e-5)
    np.testing.assert_allclose(model.projector(tower)[:, ::7], arrays["projector_out_images1"], atol=1e-5)
    np.testing.assert_allclose(model.encode_images(pixels), arrays["A1_image_features"], atol=1e-5)


@torch.inference_mode()
def test_features_of_nine_pictures_as_memory_and_as_frames(parts, model, arrays):
    features = model.encode_images(pictures(arrays, "images9", parts[1]))
    np.testing.assert_allclose(features[:, ::7], arrays["A3_image_features"], atol=1e-5)
    np.testing.assert_allclose(features[8:], arrays["A2_image_features"], atol=1e-5)
    np.testing.assert_allclose(features[:8].flatten(0, 1)[None, ::7], arrays["A2_memory_features"], atol=1e-5)


@pytest.mark.parametrize(("mode", "side"), [("bilinear", 14), ("average", 13), ("max", 13)])
def test_pooling_as_published(arrays, mode, side):
    pooled = pool_patches(torch.from_numpy(arrays["pool_in"]), mode, ceil_mode=False)
    assert pooled.shape[1] == side**2
    np.testing.assert_allclose(pooled, arrays[f"pool_{mode}"], atol=1e-6)


@pytest.mark.skipif(full_recording() is None, reason=NO_FULL)
@torch.inference_mode()
def test_full_arrays(parts, model):
    folder = full_recording()
    recorded = np.load(folder / "golden_P_preprocess.npz")
    for name in [key[3:] for key in recorded.files if key.startswith("in_")]:
        if name.startswith("blocks") and int(PIL.__version__.split(".")[0]) >= 13:
            continue  # Pillow 13 resizes this picture to other levels
        pixels = parts[1].images([recorded[f"in_{name}"]])[0]
        assert sha256(pixels) == str(recorded[f"sha256_{name}"])
    arrays = dict(np.load(folder / "golden_A_encoder.npz"))
    pixels = pictures(arrays, "images1", parts[1])
    tower = model.vision_tower(pixel_values=pixels, output_hidden_states=True)
    for layer in (0, 1) if tower.hidden_states is not None else ():  # transformers 5.0 records none here
        np.testing.assert_allclose(tower.hidden_states[layer], arrays[f"vision_hidden{layer}_images1"], atol=1e-5)
    np.testing.assert_allclose(tower.last_hidden_state, arrays["vision_tower_out_images1"], atol=1e-5)
    np.testing.assert_allclose(model.projector(tower.last_hidden_state), arrays["projector_out_images1"], atol=1e-5)
    features = model.encode_images(pictures(arrays, "images9", parts[1]))
    np.testing.assert_allclose(features, arrays["A3_image_features"], atol=1e-5)
    np.testing.assert_allclose(features[:8].flatten(0, 1)[None], arrays["A2_memory_features"], atol=1e-5)
    for mode in ("bilinear", "average", "max"):
        pooled = pool_patches(torch.from_numpy(arrays["pool_in"]), mode, ceil_mode=False)
        np.testing.assert_allclose(pooled, arrays[f"pool_{mode}"], atol=1e-5)
