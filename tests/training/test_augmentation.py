"""Jitters: the same for the same window, and what each of them does to a picture."""

import colorsys

import numpy as np
import pytest

from streamvln_gym.training import StreamVLNWindows
from streamvln_gym.training.augmentation import Augmentation, AugmentationConfig, Jitter
from tests.training.demonstrations import thin_processor, write_demonstrations

WHOLE = (0.0, 0.0, 1.0, 1.0)
EVERYTHING = AugmentationConfig(0.4, 0.4, 0.4, 0.1, crop=0.2, erase=0.5)


def jitter(brightness=1.0, contrast=1.0, saturation=1.0, turn=0.0, box=WHOLE, erased=None):
    return Jitter(brightness, contrast, saturation, turn, box, erased)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(40, 160, (24, 32, 3), dtype=np.uint8)


def test_draws_depend_on_seed_epoch_and_window_alone():
    make = Augmentation(EVERYTHING, seed=3)
    drawn = make.jitter(2, 5)
    assert drawn == Augmentation(EVERYTHING, seed=3).jitter(2, 5)
    others = [make.jitter(2, 6), make.jitter(3, 5), Augmentation(EVERYTHING, seed=4).jitter(2, 5)]
    assert all(other != drawn for other in others)


def test_draws_stay_within_their_limits():
    make = Augmentation(EVERYTHING)
    drawn = [make.jitter(0, index) for index in range(300)]
    for name in ("brightness", "contrast", "saturation"):
        values = [getattr(one, name) for one in drawn]
        assert 0.6 <= min(values) < 0.7 and 1.3 < max(values) <= 1.4
    turns = [one.turn / (2 * np.pi) for one in drawn]
    assert -0.1 <= min(turns) < -0.08 and 0.08 < max(turns) <= 0.1
    for one in drawn:
        left, top, right, bottom = one.box
        assert 0 <= left < right <= 1.0 + 1e-9 and 0 <= top < bottom <= 1.0 + 1e-9
        assert right - left >= 0.8 - 1e-9 and bottom - top >= 0.8 - 1e-9
    assert 0.4 < np.mean([one.erased is not None for one in drawn]) < 0.6


def test_nothing_asked_nothing_changed(picture):
    one = Augmentation(AugmentationConfig()).jitter(0, 0)
    np.testing.assert_array_equal(one.recolour(one.crop(picture)), picture)
    assert not AugmentationConfig().wanted


def test_brightness_and_contrast(picture):
    np.testing.assert_allclose(jitter(brightness=1.5).recolour(picture), picture * 1.5, atol=0.51)
    flat = jitter(contrast=0.0).recolour(picture)
    grey = (picture.reshape(-1, 3).mean(0) * [0.299, 0.587, 0.114]).sum()
    np.testing.assert_allclose(flat, np.full_like(flat, round(grey)), atol=1)


def test_saturation_zero_is_grey(picture):
    grey = jitter(saturation=0.0).recolour(picture)
    assert np.ptp(grey, axis=-1).max() <= 1
    np.testing.assert_allclose(grey[..., 0], picture @ [0.299, 0.587, 0.114], atol=1.01)


def test_hue_turns_colours():
    red = np.full((2, 2, 3), (160, 60, 60), dtype=np.uint8)
    turned = jitter(turn=2 * np.pi / 3).recolour(red)[0, 0] / 255
    assert abs(colorsys.rgb_to_hsv(*turned)[0] - colorsys.rgb_to_hsv(*(red[0, 0] / 255))[0]) > 0.25
    np.testing.assert_allclose(jitter(turn=2 * np.pi).recolour(red), red, atol=1)


def test_crop_and_erase(picture):
    cut = jitter(box=(0.25, 0.5, 1.0, 1.0)).crop(picture)
    np.testing.assert_array_equal(cut, picture[12:, 8:])
    painted = jitter(erased=(0.5, 0.0, 0.75, 0.25)).recolour(picture)
    assert (painted[:6, 16:24] == 128).all()
    np.testing.assert_array_equal(painted[6:], picture[6:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": -0.1}, "brightness must be from 0 to 1, got -0.1"),
        ({"hue": 0.7}, "hue must be from 0 to 0.5"),
        ({"crop": float("nan")}, "crop must be from 0 to 0.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**settings)


def test_all_frames_of_a_window_change_alike(tmp_path):
    """One jitter for memory and current frames; another in the next epoch; none without augmentation."""
    folder = write_demonstrations(tmp_path / "a")
    plain = StreamVLNWindows(folder, thin_processor())
    bright = Augmentation(AugmentationConfig(brightness=0.5), seed=1)
    changed = StreamVLNWindows(folder, thin_processor(), augmentation=bright)
    original, sample = plain[1]["pixel_values"], changed[1]["pixel_values"]
    factors = ((sample + 1) / (original + 1)).flatten(1).mean(1)
    assert factors.numpy() == pytest.approx([bright.jitter(0, 1).brightness] * len(factors), abs=0.01)
    changed.set_epoch(1)
    assert not np.allclose(changed[1]["pixel_values"], sample, atol=0.01)
    changed.set_epoch(0)
    np.testing.assert_array_equal(changed[1]["pixel_values"], sample)


def test_moved_pixels_and_depth_exclude_each_other(tmp_path):
    folder = write_demonstrations(tmp_path / "a")
    with pytest.raises(ValueError, match="crop and erase move pixels"):
        StreamVLNWindows(
            folder, thin_processor(memory_strategy="voxel"), augmentation=Augmentation(AugmentationConfig(crop=0.1))
        )
