"""A network for tests: two thin layers whose answers depend on what it sees."""

from typing import Any

import torch

from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor


def thin_parts(
    spread: float, narrow: bool = False, **settings: Any
) -> tuple[StreamVLNForConditionalGeneration, StreamVLNProcessor]:
    """The network and its processor, always the same.

    Args:
        spread: standard deviation of its weights; 0.02, as usual, would give the same answer to everything.
        narrow: a quarter of the width too, with two query heads per key head.
        settings: of `StreamVLNProcessor.tiny`.
    """
    torch.set_num_threads(1)
    processor = StreamVLNProcessor.tiny(**settings)
    config = processor.config
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = 2
        part.initializer_range = spread
    if narrow:
        config.vision_config.hidden_size, config.vision_config.intermediate_size = 48, 96
        config.text_config.hidden_size, config.text_config.intermediate_size = 64, 128
        config.text_config.num_key_value_heads = 2
    config.text_config.layer_types = ["full_attention"] * 2
    config.initializer_range = spread
    return StreamVLNForConditionalGeneration.from_seed(config, seed=0), processor
