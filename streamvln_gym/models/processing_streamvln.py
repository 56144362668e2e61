"""Everything between an observation and the network's inputs: pictures, tokenizer, actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.dialogue import TURN_END, TURN_START
from streamvln_gym.models.shipped import SHIPPED_FOLDER

# Level -> network input, rounded as the published preprocessing rounds: in float64, then float32.
LEVELS = ((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)


class StreamVLNProcessor:
    """Pictures to pixel values, text to ids, answers to actions, for one configuration and tokenizer.

    Args:
        config: the network's configuration.
        tokenizer: its tokenizer.

    Raises:
        CheckpointError: the tokenizer does not fit the configuration.
    """

    def __init__(self, config: StreamVLNConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.action_ids = [self._single_id(string) for string in config.action_strings]
        self.turn_end_id = self._single_id(TURN_END)
        self._single_id(TURN_START)
        if len(tokenizer) > config.text_config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {len(tokenizer)} tokens but the model only {config.text_config.vocab_size} "
                "embeddings: they do not belong together; take both from one checkpoint"
            )

    @classmethod
    def tiny(cls, **overrides: object) -> StreamVLNProcessor:
        """Processor for a network of `StreamVLNConfig.tiny`, with the tokenizer of the checkpoint that ships."""
        tokenizer = load_tokenizer(SHIPPED_FOLDER)
        vocab_size = -(-len(tokenizer) // 64) * 64
        config = StreamVLNConfig.tiny(vocab_size, **overrides)
        config.text_config.eos_token_id = tokenizer.eos_token_id
        return cls(config, tokenizer)

    def resize(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 to (image_size, image_size, 3) uint8, bicubic; the aspect ratio is not kept."""
        size = self.config.image_size
        if rgb.shape[:2] == (size, size):
            return np.ascontiguousarray(rgb)
        return np.asarray(Image.fromarray(rgb).resize((size, size), resample=Image.Resampling.BICUBIC))

    def pixel_values(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Pictures that `resize` made to (frames, 3, image_size, image_size) float32 in [-1, 1] (u8 / 127.5 - 1)."""
        return np.ascontiguousarray(LEVELS[np.stack(pictures)].transpose(0, 3, 1, 2))

    def images(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Camera pictures (height, width, 3) uint8 to network inputs."""
        return self.pixel_values([self.resize(frame) for frame in frames])

    def parse_actions(self, answer: Sequence[int]) -> list[int]:
        """Action ids in an answer's text, up to the first STOP; empty if the answer names no action.

        Args:
            answer: generated token ids.
        """
        text = str(self.tokenizer.decode(list(answer), skip_special_tokens=True))
        actions, position = [], 0
        while position < len(text):
            for action, string in enumerate(self.config.action_strings):
                if text.startswith(string, position):
                    actions.append(action)
                    position += len(string)
                    break
            else:
                position += 1
                continue
            if actions[-1] == 0:
                break
        return actions

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer; the configuration is saved with the model."""
        self.tokenizer.save_pretrained(str(folder))

    def _single_id(self, string: str) -> int:
        ids = self.tokenizer.encode(string, add_special_tokens=False)
        if len(ids) != 1:
            raise CheckpointError(
                f"the tokenizer splits {string!r} into {len(ids)} tokens, but the action grammar needs one: "
                "use the checkpoint's own tokenizer"
            )
        return int(ids[0])


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a local folder.

    Raises:
        CheckpointError: the folder has no readable `tokenizer.json`.
    """
    path = Path(folder)
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(f"{path} has no tokenizer.json: a checkpoint folder holds its tokenizer; copy it there")
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions for malformed files
        raise CheckpointError(f"{path / 'tokenizer.json'} cannot be read as a tokenizer: {error}") from error
