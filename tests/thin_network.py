"""A network for tests: two thin layers whose answers depend on what it sees."""

from typing import Any

import torch

from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor

NARROW = 64  # embedding size of narrow networks


def thin_parts(
    spread: float, narrow: bool = False, layers: int = 2, seed: int = 0, image_size: int = 112, **settings: Any
) -> tuple[StreamVLNForConditionalGeneration, StreamVLNProcessor]:
    """The network and its processor, always the same.

    Args:
        spread: standard deviation of its weights; 0.02, as usual, would give the same answer to everything.
        narrow: a quarter of the width too, with two query heads per key head.
        layers: of the vision tower, and of the language model.
        seed: of the weights.
        image_size: pixels.
        settings: of `StreamVLNProcessor.tiny`.
    """
    torch.set_num_threads(1)
    processor = StreamVLNProcessor.tiny(**settings)
    config = processor.config
    config.vision_config.image_size = image_size
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = layers
        part.initializer_range = spread
    if narrow:
        config.vision_config.hidden_size, config.vision_config.intermediate_size = 48, 96
        config.text_config.hidden_size, config.text_config.intermediate_size = NARROW, 128
        config.text_config.num_key_value_heads = 2
    config.text_config.layer_types = ["full_attention"] * layers
    config.initializer_range = spread
    return StreamVLNForConditionalGeneration.from_seed(config, seed=seed), processor
