"""Pooling of patch grids, and what the configuration says of it."""

import numpy as np
import pytest
import torch

from streamvln_gym.models import StreamVLNConfig, pool_patches


@pytest.mark.parametrize(
    ("mode", "ceil_mode", "tokens"),
    [
        ("bilinear", True, 196),
        ("bilinear", False, 196),
        ("average", True, 196),
        ("max", True, 196),
        ("average", False, 169),
        ("max", False, 169),
    ],
)
def test_tokens_of_a_27_grid(mode, ceil_mode, tokens):
    pooled = pool_patches(torch.randn(2, 729, 3), mode, 2, ceil_mode)
    assert pooled.shape == (2, tokens, 3)
    config = StreamVLNConfig.full_size()
    config.pooling_mode, config.pooling_ceil_mode = mode, ceil_mode
    assert config.tokens_per_frame == tokens


def test_pooling_values_are_row_major_and_count_real_patches_only():
    grid = torch.arange(9.0).reshape(1, 9, 1)
    assert pool_patches(grid, "average").flatten().tolist() == [2.0, 3.5, 6.5, 8.0]
    assert pool_patches(grid, "max").flatten().tolist() == [4.0, 5.0, 7.0, 8.0]
    expected = torch.nn.functional.interpolate(grid.reshape(1, 1, 3, 3), size=(2, 2), mode="bilinear")
    np.testing.assert_array_equal(pool_patches(grid, "bilinear").flatten(), expected.flatten())


def test_pooling_refuses_what_is_no_grid_or_no_mode():
    with pytest.raises(ValueError, match="no square grid"):
        pool_patches(torch.zeros(1, 10, 2))
    with pytest.raises(ValueError, match="bilinear, average or max"):
        pool_patches(torch.zeros(1, 9, 2), "median")


def test_configuration_refuses_nonsense_and_tiny_has_16_tokens():
    assert StreamVLNConfig.tiny().tokens_per_frame == 16
    with pytest.raises(ValueError, match="pooling_mode"):
        StreamVLNConfig.tiny(pooling_mode="sum")
    with pytest.raises(ValueError, match="prompt_style"):
        StreamVLNConfig.tiny(prompt_style="chat")
    with pytest.raises(ValueError, match="window_steps"):
        StreamVLNConfig.tiny(window_steps=0)
    with pytest.raises(ValueError, match="num_history"):
        StreamVLNConfig.tiny(num_history=-1)
    with pytest.raises(ValueError, match="action_strings"):
        StreamVLNConfig.tiny(action_strings=("a", "b", "c"))
