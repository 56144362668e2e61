"""The recording of the published StreamVLN system in tests/data/golden_streamvln, and the full one where it lies near.

The full recording is used where the environment variable STREAMVLN_GOLDEN names its folder, or where it lies in
`../shared/golden` beside the checkout.
"""

from __future__ import annotations

import functools
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

COMPACT = Path(__file__).parent / "data" / "golden_streamvln"
# The vision tower is not described in a published config.json. SigLIP's own count: the last of 3 layers is dropped.
VISION_CONFIG = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
NO_FULL = "the full recording is not here: set STREAMVLN_GOLDEN to its folder"


def full_recording() -> Path | None:
    """Folder of the full recording, None where it is not at hand."""
    named = os.environ.get("STREAMVLN_GOLDEN")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "golden"
    return folder if (folder / "golden_C1_actions_only.npz").is_file() else None


@functools.lru_cache(maxsize=1)
def description() -> dict[str, Any]:
    return json.loads((COMPACT / "checkpoint.json").read_text(encoding="utf-8"))


def published_tensors() -> dict[str, np.ndarray]:
    """float16 tensors under published names; rows of token ids that never occur are zero."""
    stored = np.load(COMPACT / "tiny_checkpoint.npz")
    tensors = {name: stored[name] for name in stored.files if not name.endswith("_ids")}
    for name, ids in (("model.embed_tokens.weight", "embed_ids"), ("lm_head.weight", "head_ids")):
        table = np.zeros((description()["config"]["vocab_size"], tensors[name].shape[1]), np.float16)
        table[stored[ids]] = tensors[name]
        tensors[name] = table
    return tensors


def write_tokenizer(folder: Path) -> None:
    packed = (COMPACT / "tokenizer.json.xz").read_bytes()
    (folder / "tokenizer.json").write_bytes(lzma.decompress(packed))
    text = json.dumps(description()["tokenizer_config"])
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def write_published_checkpoint(folder: Path, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """Lays the tiny checkpoint down as the published code saves it, tokenizer included."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config", "generation_config"):
        (folder / f"{name}.json").write_text(json.dumps(description()[name]), encoding="utf-8")
    save_file(tensors or published_tensors(), folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    return folder


class RecordedRestriction:
    """The recordings' restriction: an optional forced header, four of the three arrows, then `<|im_end|>`."""

    arrows = (76286, 71858, 51018)
    end = 151645

    def __init__(self, header: tuple[int, ...] = ()) -> None:
        self.header = header

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = input_ids.shape[1]
        if position < len(self.header):
            allowed: tuple[int, ...] = (self.header[position],)
        else:
            allowed = self.arrows if position < len(self.header) + 4 else (self.end,)
        restricted = torch.full_like(scores, -torch.inf)
        restricted[:, list(allowed)] = scores[:, list(allowed)]
        return restricted


RESTRICTIONS = {"C1": RecordedRestriction(), "C2": RecordedRestriction((151644, 77091, 198))}


def recorded_frame(grid: np.ndarray) -> np.ndarray:
    """Cells (48, 64, 3) -> the camera picture (480, 640, 3) uint8."""
    return grid.repeat(10, 0).repeat(10, 1)
