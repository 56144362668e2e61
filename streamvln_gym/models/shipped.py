"""The small trained checkpoint that ships inside the package, `streamvln-tiny`."""

from __future__ import annotations

from pathlib import Path

from streamvln_gym.errors import CheckpointError

SHIPPED_NAME = "streamvln-tiny"
"""Stands for the folder wherever a checkpoint is named: `from_pretrained`, `--checkpoint`."""

SHIPPED_FOLDER = Path(__file__).parent / "assets" / "streamvln_tiny"
"""An ordinary checkpoint folder. Its tokenizer is also that of networks with random weights."""

WEIGHTS_NAME = "model.safetensors"


def shipped_checkpoint() -> Path:
    """The folder, if it is whole.

    Raises:
        CheckpointError: there are no weights in it.
    """
    for name in ("config.json", WEIGHTS_NAME):
        if not (SHIPPED_FOLDER / name).is_file():
            raise CheckpointError(
                f"the package's own checkpoint {SHIPPED_NAME!r} lacks {SHIPPED_FOLDER / name}: install the wheel or "
                "check the whole repository out (`git checkout -- streamvln_gym/models/assets`), or name a checkpoint "
                "of your own. StreamVLNAgent.untrained() gives the same network with random weights"
            )
    return SHIPPED_FOLDER
