"""The StreamVLN network: configuration, vision tower + projector + pooling + Qwen2, dialogue, decoding.

Knows nothing of environments. Names are imported when they are used, so `import streamvln_gym.models` needs no torch.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

_LAZY = {
    "StreamVLNConfig": "configuration_streamvln",
    "StreamVLNForConditionalGeneration": "modeling_streamvln",
    "StreamVLNProcessor": "processing_streamvln",
    "shipped_checkpoint": "shipped",
    "DialogueBuilder": "dialogue",
    "ActionGrammar": "decoding",
    "AnswerRules": "decoding",
    "StreamingSession": "streaming",
    "BatchedStreamingSession": "batched_streaming",
    "SlotCache": "slot_cache",
    "FastSession": "fast_streaming",
    "StreamCache": "stream_cache",
    "pool_patches": "pooling",
    "VoxelPruning": "voxel_pruning",
    "make_strategy": "memory_strategies",
    "memory_tokens": "memory_strategies",
    "token_budget": "budget",
    "format_budget": "budget",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
