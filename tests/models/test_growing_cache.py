"""The cache that grows in place holds what transformers' own holds."""

import pytest
import torch
from transformers import Qwen2Config
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from streamvln_gym.models.growing_cache import GROWTH, GrowingLayer, growing_cache

CONFIG = Qwen2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)


def new_states(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 2, length, 8, generator=generator)


@pytest.mark.parametrize("lengths", [[3, 1, 1], [GROWTH, 1], [GROWTH - 1, 1, 1], [700, 24, 1, 300]])
def test_holds_what_transformers_cache_holds(lengths):
    ours, theirs = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    assert ours.get_seq_length() == 0
    for number, length in enumerate(lengths):
        for layer in range(2):
            states = new_states(length, 10 * number + layer)
            for mine, expected in zip(ours.update(*states, layer), theirs.update(*states, layer), strict=True):
                torch.testing.assert_close(mine, expected, rtol=0, atol=0)
        assert ours.get_seq_length() == theirs.get_seq_length() == sum(lengths[: number + 1])
        assert ours.get_mask_sizes(5, 0) == theirs.get_mask_sizes(5, 0)


def test_further_tokens_copy_nothing():
    cache = growing_cache(CONFIG)
    first, _ = cache.update(*new_states(10, 0), 0)
    later, _ = cache.update(*new_states(1, 1), 0)
    assert later.data_ptr() == first.data_ptr()


def test_goes_on_after_a_crop():
    ours, theirs = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    for cache in (ours, theirs):
        for layer in range(2):
            cache.update(*new_states(9, layer), layer)
        cache.crop(-4)
    assert ours.get_seq_length() == 5
    states = new_states(2, 7)
    for mine, expected in zip(ours.update(*states, 1), theirs.update(*states, 1), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_goes_on_inside_inference_mode_and_outside():
    cache = growing_cache(CONFIG)
    with torch.inference_mode():
        cache.update(*new_states(GROWTH - 1, 0), 0)
    with torch.no_grad():
        keys, _ = cache.update(*new_states(3, 1), 0)
    with torch.inference_mode():
        keys, _ = cache.update(*new_states(1, 2), 0)
    assert keys.shape[2] == GROWTH + 3


def test_sliding_layers_stay_transformers_own():
    config = Qwen2Config(
        **{
            **CONFIG.to_dict(),
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "layer_types": None,
        }
    )
    kinds = [type(layer) for layer in growing_cache(config).layers]
    assert kinds == [GrowingLayer, DynamicSlidingWindowLayer]


def test_goes_on_after_rows_were_reordered_or_repeated():
    ours, theirs = GrowingLayer(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*new_states(5, 0))
        layer.reorder_cache(torch.tensor([0]))
        layer.update(*new_states(2, 1))
        layer.batch_repeat_interleave(2)
        keys, values = new_states(3, 2)
        layer.update(keys.repeat_interleave(2, 0), values.repeat_interleave(2, 0))
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
