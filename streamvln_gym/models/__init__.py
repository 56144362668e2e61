"""The StreamVLN network: configuration, vision tower + projector + pooling + Qwen2, dialogue, decoding.

Knows nothing of environments. Names are imported when they are used, so `import streamvln_gym.models` needs no torch.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "StreamVLNConfig": "configuration_streamvln",
    "StreamVLNForConditionalGeneration": "modeling_streamvln",
    "StreamVLNProcessor": "processing_streamvln",
    "DialogueBuilder": "dialogue",
    "ActionGrammar": "decoding",
    "AnswerRules": "decoding",
    "StreamingSession": "streaming",
    "pool_patches": "pooling",
    "VoxelPruning": "voxel_pruning",
    "make_strategy": "memory_strategies",
    "memory_tokens": "memory_strategies",
    "token_budget": "budget",
    "format_budget": "budget",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
