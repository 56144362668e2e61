"""A task that can be learned in seconds, and a network that learns it: turn left where it is red, right where blue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.training.config import BatchConfig, OptimiserConfig, ReportConfig, TrainConfig

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
ACTIONS = {"red": [2, 2, 2, 2, 1, 1, 1, 1, 1, 0], "blue": [3, 3, 3, 3, 1, 1, 1, 1, 1, 0]}
INSTRUCTION = "Turn, walk and stop."


def picture(colour: str, step: int) -> np.ndarray:
    """(24, 32, 3) uint8; grey from the second answer on."""
    shade = COLOURS[colour] if step < 4 else (110 + 10 * (step // 4), 110, 110)
    return np.full((24, 32, 3), shade, dtype=np.uint8)


def write_demonstrations(folder: Path, colours: tuple[str, ...] = ("red", "blue"), copies: int = 1) -> Path:
    """A trajectory folder; two windows of 8 steps per episode, the second with memory."""
    entries = []
    for number, colour in enumerate(colours * copies):
        video = folder / f"episode{number}"
        (video / "rgb").mkdir(parents=True)
        for step in range(len(ACTIONS[colour])):
            Image.fromarray(picture(colour, step)).save(video / "rgb" / f"{step:03d}.png")
        entry = {"id": number, "video": video.name, "instructions": [INSTRUCTION]}
        entries.append({**entry, "actions": [-1, *ACTIONS[colour][:-1]]})
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


def thin_processor(**settings: Any) -> StreamVLNProcessor:
    """Of a network of two narrow layers, with windows of 8 steps."""
    processor = StreamVLNProcessor.tiny(window_steps=8, num_history=2, **settings)
    vision, text = processor.config.vision_config, processor.config.text_config
    vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size = 2, 48, 96
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 2, 64, 128
    text.layer_types = ["full_attention"] * 2
    text.head_dim = 16
    text.initializer_range = 0.1
    return processor


def write_checkpoint(folder: Path, **settings: Any) -> Path:
    """The thin network with random weights, as a folder."""
    processor = thin_processor(**settings)
    StreamVLNForConditionalGeneration.from_seed(processor.config, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def recipe(data: Path, checkpoint: Path, out: Path, **changes: Any) -> TrainConfig:
    """Ten steps on two windows each."""
    settings: dict[str, Any] = {
        "data": (str(data),),
        "out": out,
        "checkpoint": str(checkpoint),
        "epochs": 5,
        "batch": BatchConfig(batch_size=2),
        "optimiser": OptimiserConfig(learning_rate=2e-3),
        "report": ReportConfig(quiet=True, log_every=1),
    }
    return TrainConfig(**{**settings, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a run's result."""
    return StreamVLNForConditionalGeneration.from_pretrained(folder).state_dict()
