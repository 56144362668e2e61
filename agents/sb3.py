"""What stable-baselines3 shows to a policy: arrays only, so that the instruction comes as ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from streamvln_gym.agents.patch_geometry import GEOMETRY_KEYS

PAD = -1
_REMEDY = "wrap the environment in SB3Observation(env, agent.tokenize)"


def encode_instruction(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """Ids that `decode_instruction` turns back into the very same text.

    Raises:
        ValueError: the tokenizer cannot.
    """
    ids = tokenizer.encode(instruction, add_special_tokens=False)
    if _decode(tokenizer, ids) != instruction:
        raise ValueError(
            f"the agent's tokenizer gives {_decode(tokenizer, ids)!r} back for the instruction {instruction!r}: use "
            "the agent on text (act, act_batch), or normalise the instruction first"
        )
    return ids


def decode_instruction(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The instruction of ids that this tokenizer made.

    Raises:
        ValueError: another tokenizer made them.
    """
    wrong = [number for number in ids if not 0 <= number < len(tokenizer)]
    text = "" if wrong else _decode(tokenizer, ids)
    readable = text.isprintable() or all(c.isprintable() or c.isspace() for c in text)
    if wrong or not readable or tokenizer.encode(text, add_special_tokens=False) != ids:
        raise ValueError(
            f"the instruction's ids {ids[:8]}... were not made by this agent's tokenizer, or they were cut: {_REMEDY}"
        )
    return text


def read_batch(
    observation: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, geometry: bool
) -> tuple[dict[str, Any], bool]:
    """An observation as `act_batch` takes it, and whether it was a single one.

    Args:
        observation: what the environment showed.
        tokenizer: the agent's.
        geometry: whether the agent looks at depth and poses; for others they stay out, since `SB3Observation` changes
            them.

    Raises:
        TypeError: it is no mapping, or its instruction is neither ids nor text.
        ValueError: an entry is missing, or another tokenizer made the ids.
    """
    if not isinstance(observation, Mapping):
        raise TypeError(f"observation must be a dict with 'rgb' and 'instruction', got {type(observation).__name__}")
    for key in ("rgb", "instruction"):
        if key not in observation:
            raise ValueError(
                f"the observation has no {key!r} (it has {', '.join(map(repr, observation)) or 'nothing'}): {_REMEDY}"
            )
    single = np.ndim(observation["rgb"]) == 3
    instruction = observation["instruction"]
    wanted = ("rgb", *GEOMETRY_KEYS) if geometry else ("rgb",)
    parts = {key: [value] if single else value for key, value in observation.items() if key in wanted}
    if isinstance(instruction, np.ndarray) and instruction.dtype.kind in "OU":  # of vector environments
        instruction = instruction.tolist()
    if isinstance(instruction, str) or _is_text(instruction):
        return {**parts, "instruction": [instruction] if single else instruction}, single
    ids = np.asarray(instruction)
    if ids.dtype.kind not in "iu" or ids.ndim != (1 if single else 2):
        raise TypeError(
            f"observation['instruction'] must hold ids, int (streams, length), got {ids.dtype} of shape {ids.shape}: "
            f"{_REMEDY}"
        )
    rows = ids[None] if single else ids
    return {**parts, "instruction": [decode_instruction(tokenizer, row[row != PAD].tolist()) for row in rows]}, single


def _is_text(instruction: Any) -> bool:
    return hasattr(instruction, "__len__") and len(instruction) > 0 and all(isinstance(one, str) for one in instruction)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
