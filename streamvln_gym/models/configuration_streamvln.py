"""Sizes and conventions of a StreamVLN network, saved as `config.json` beside its weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig, Qwen2Config, SiglipVisionConfig

from streamvln_gym.models.voxel_pruning import VoxelPruning

IMAGE_TOKEN_ID = -200
MEMORY_TOKEN_ID = -300
IGNORE_LABEL = -100

POOLING_MODES = ("bilinear", "average", "max")
PROMPT_STYLES = ("published", "trained")
MEMORY_STRATEGIES = ("none", "pooled", "full", "temporal_pool", "voxel")


class StreamVLNConfig(PretrainedConfig):
    """Configuration of `StreamVLNForConditionalGeneration` and of the dialogue that its weights were trained on.

    Args:
        vision_config: SigLIP vision tower. `num_hidden_layers` counts the layers that are run: the published network
            drops the last of SigLIP-SO400M's 27, which makes 26.
        text_config: Qwen2 language model.
        pooling_mode: "bilinear" (what the published checkpoints use), "average" or "max"; see `pooling.pool_patches`.
        pooling_stride: side of the square of patches that becomes one token.
        pooling_ceil_mode: keep the incomplete last row and column in modes average and max. False reproduces the
            published 13x13 tokens of a 27x27 grid, True gives 14x14 in every mode.
        num_history: frames that the slow memory shows at a window's start.
        memory_strategy: what it shows of them: "none", "pooled" (what the published checkpoints were trained with),
            "full", "temporal_pool" or "voxel"; see `memory_strategies`.
        voxel_pruning: fields of `voxel_pruning.VoxelPruning` for the strategy "voxel"; None means its defaults.
        window_steps: environment steps between two resets of the fast window.
        chunk_size: actions asked for in one model call.
        prompt_style: "trained" (generation prompt as in training) or "published" (the closed empty assistant turn that
            the published evaluation puts into every prompt).
        memory_prompt: wording of the memory sentence: "evaluation", "training" or "robot".
        action_strings: answer strings of STOP, FORWARD, LEFT, RIGHT, in the order of the action ids.
        initializer_range: standard deviation of the projector's and the head's random weights.
        trained: False for random weights, so that nobody takes their actions for a policy's.
    """

    model_type = "streamvln"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": SiglipVisionConfig, "text_config": Qwen2Config}

    def __init__(
        self,
        vision_config: dict[str, Any] | SiglipVisionConfig | None = None,
        text_config: dict[str, Any] | Qwen2Config | None = None,
        *,
        pooling_mode: str = "bilinear",
        pooling_stride: int = 2,
        pooling_ceil_mode: bool = True,
        num_history: int = 8,
        memory_strategy: str = "pooled",
        voxel_pruning: dict[str, Any] | VoxelPruning | None = None,
        window_steps: int = 32,
        chunk_size: int = 4,
        prompt_style: str = "trained",
        memory_prompt: str = "evaluation",
        action_strings: tuple[str, ...] | list[str] = ("STOP", "↑", "←", "→"),
        initializer_range: float = 0.02,
        trained: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _sub_config(SiglipVisionConfig, vision_config, vision_use_head=False)
        self.text_config = _sub_config(Qwen2Config, text_config)
        _check_choice("pooling_mode", pooling_mode, POOLING_MODES)
        _check_choice("prompt_style", prompt_style, PROMPT_STYLES)
        _check_choice("memory_strategy", memory_strategy, MEMORY_STRATEGIES)
        for name, value in {
            "pooling_stride": pooling_stride,
            "window_steps": window_steps,
            "chunk_size": chunk_size,
        }.items():
            if value < 1:
                raise ValueError(f"StreamVLNConfig.{name} must be at least 1, got {value}")
        if num_history < 0:
            raise ValueError(f"StreamVLNConfig.num_history must not be negative, got {num_history}")
        if len(action_strings) != 4 or len(set(action_strings)) != 4:
            raise ValueError(f"StreamVLNConfig.action_strings needs 4 different strings, got {list(action_strings)}")
        self.pooling_mode = pooling_mode
        self.pooling_stride = pooling_stride
        self.pooling_ceil_mode = pooling_ceil_mode
        self.num_history = num_history
        self.memory_strategy = memory_strategy
        pruning = voxel_pruning if isinstance(voxel_pruning, VoxelPruning) else VoxelPruning(**(voxel_pruning or {}))
        self.voxel_pruning = asdict(pruning)
        self.window_steps = window_steps
        self.chunk_size = chunk_size
        self.prompt_style = prompt_style
        self.memory_prompt = memory_prompt
        self.action_strings = list(action_strings)
        self.initializer_range = initializer_range
        self.trained = trained
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Side of the square picture that the vision tower takes, pixels."""
        return int(self.vision_config.image_size)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // int(self.vision_config.patch_size)

    @property
    def tokens_per_side(self) -> int:
        side, stride = self.patches_per_side, self.pooling_stride
        return -(-side // stride) if self.pooling_ceil_mode or self.pooling_mode == "bilinear" else side // stride

    @property
    def tokens_per_frame(self) -> int:
        """Embeddings that one frame takes in the language model, after pooling."""
        return self.tokens_per_side**2

    @classmethod
    def full_size(cls, **overrides: Any) -> StreamVLNConfig:
        """The published network's sizes: SigLIP-SO400M/14-384 without its last layer, and Qwen2-7B."""
        vision = SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=26,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
        text = Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            tie_word_embeddings=False,
        )
        return cls(vision_config=vision, text_config=text, **overrides)

    @classmethod
    def tiny(cls, vocab_size: int = 2048, **overrides: Any) -> StreamVLNConfig:
        """A network of about 8 M parameters: 112x112 pixels, 8x8 patches, 16 tokens a frame."""
        vision = SiglipVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=112,
            patch_size=14,
            vision_use_head=False,
        )
        text = Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=256,
            intermediate_size=672,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=256**-0.5,
        )
        return cls(vision_config=vision, text_config=text, **overrides)


def _sub_config(kind: type, value: Any, **defaults: Any) -> Any:
    if isinstance(value, kind):
        return value
    return kind(**{**defaults, **(value or {})})


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"StreamVLNConfig.{name} must be one of {', '.join(choices)}, got {value!r}")


AutoConfig.register(StreamVLNConfig.model_type, StreamVLNConfig, exist_ok=True)
