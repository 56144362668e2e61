"""What one training step needs: bytes per GPU and floating-point operations, from sizes alone.

Formulas and their sources:

* Weights, gradients, optimiser: bytes per parameter as in ZeRO (Rajbhandari et al. 2020, section 3.1) for torch's
  AdamW, whose two averages have the weights' dtype; FSDP divides all three by the number of GPUs. 4-bit weights with
  scales that are quantised as well: QLoRA (Dettmers et al. 2023, section 3), 0.5 + 1/64 + 4/(64 * 256) bytes.
* Activations: the bytes that autograd keeps per token and layer, counted as by Korthikanti et al. 2022 (section 4.1),
  but for these layers (RMSNorm in float32, gated MLP, rotary embedding) and an attention kernel that keeps queries,
  keys, values, output and one float32 per head (FlashAttention, Dao et al. 2022, algorithm 1). The tests compare them
  with what torch's saved-tensor hooks count.
* Operations: 2 per weight and token forward, twice that backward (Kaplan et al. 2020, section 2.1), only half of that
  where a weight is frozen; attention 4 * length^2 * width per layer, half where it is causal. What checkpointing
  computes again does not count, as is usual for MFU (Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.training.config import PARTS, LoraSettings, Part

GIB = 2**30
BYTES_4_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
CONTEXT_BYTES = int(0.8 * GIB)
"""CUDA context, cuBLAS workspaces, NCCL: what a process takes before it allocates anything; an assumption."""
FRAGMENTATION = 0.05
"""Share of all that comes and goes within a step which the allocator cannot use; an assumption."""


@dataclass(frozen=True)
class WindowShape:
    """One micro-batch of training windows.

    Attributes:
        windows: how many.
        frames: pictures of all windows together, history and current.
        length: embeddings of the longest window in the language model.
        targets: learned tokens of all windows together.
        padded: windows differ in length, so that attention gets a mask (and each query head its own keys and values).
    """

    windows: int
    frames: int
    length: int
    targets: int
    padded: bool = False

    @property
    def tokens(self) -> int:
        """Embeddings of all windows, padding included."""
        return self.windows * self.length


@dataclass(frozen=True)
class Setup:
    """How the network is trained, as far as memory depends on it.

    Attributes:
        method: "full", "lora" or "qlora".
        parts: what is trained.
        lora: rank, dropout, whole head.
        trained_bytes: per value of a trained weight, and so of its gradient.
        frozen_bytes: per value of a weight that is neither trained nor of 4 bits.
        compute_bytes: per value of what linear layers compute.
        autocast: weights of another dtype are cast for every forward pass (torch.autocast).
        state_bytes: of the optimiser per trained weight.
        checkpointing: layers keep their input only and are computed again.
        eager: attention without a fused kernel.
        processes: GPUs, one process each.
        sharded: FSDP2; otherwise every process holds everything.
        mask_bytes: per value of a dropout mask: 1 on GPUs, on CPUs as many as the value's own dtype has.
    """

    method: str = "full"
    parts: tuple[Part, ...] = PARTS
    lora: LoraSettings = field(default_factory=LoraSettings)
    trained_bytes: int = 4
    frozen_bytes: int = 4
    compute_bytes: int = 4
    autocast: bool = False
    state_bytes: float = 8.0
    checkpointing: bool = False
    eager: bool = False
    processes: int = 1
    sharded: bool = False
    mask_bytes: int = 1

    @property
    def adapters(self) -> bool:
        return self.method != "full"

    @property
    def output_bytes(self) -> int:
        """Per value that comes out of linear layers; bitsandbytes gives back the dtype that it was given."""
        return self.stream_bytes if self.method == "qlora" else self.compute_bytes

    @property
    def stream_bytes(self) -> int:
        """Per value of the residual stream: as the norms' and embeddings' weights are, which FSDP2 casts."""
        if self.sharded:
            return self.compute_bytes
        return self.frozen_bytes if self.adapters else self.trained_bytes


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of weights of a part of the network.

    Attributes:
        total: of the network itself, without adapters.
        quantised: of these, those of 4 bits.
        trained: those that the optimiser changes: of the network, or of adapters.
        added: those of adapters (and a head that is trained whole, which peft copies).
    """

    total: int = 0
    quantised: int = 0
    trained: int = 0
    added: int = 0

    def __add__(self, other: ParameterCount) -> ParameterCount:
        return ParameterCount(
            self.total + other.total,
            self.quantised + other.quantised,
            self.trained + other.trained,
            self.added + other.added,
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each GPU; `rows` are those that add up to `total`, by name."""

    rows: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.rows.values())


def count_parameters(config: StreamVLNConfig, setup: Setup) -> dict[Part, ParameterCount]:
    """Exact numbers of weights by part; the network is built without storage. The head belongs to "language"."""
    import torch
    from torch import nn

    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
    from streamvln_gym.training.adapters import TARGETS
    from streamvln_gym.training.optimizer_groups import part_of

    with torch.device("meta"):
        model = StreamVLNForConditionalGeneration(config)
    counts: dict[Part, ParameterCount] = {part: ParameterCount() for part in PARTS}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        trained = parameter.numel() if not setup.adapters and part in setup.parts else 0
        counts[part] += ParameterCount(parameter.numel(), trained=trained)
    for name, module in model.named_modules():
        if not setup.adapters or not isinstance(module, nn.Linear):
            continue
        part, size = part_of(name), module.weight.numel()
        if name == "lm_head":
            added = size if setup.lora.train_head else 0
        else:
            wanted = part in setup.parts and re.fullmatch(TARGETS[part], name)
            added = setup.lora.rank * (module.in_features + module.out_features) if wanted else 0
        quantised = size if setup.method == "qlora" and name != "lm_head" else 0
        counts[part] += ParameterCount(quantised=quantised, trained=added, added=added)
    return counts


def estimate_memory(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> MemoryEstimate:
    """Bytes per GPU at the peak of a step, on the assumption that gradients stand while activations do.

    That is so with gradient accumulation; without it the peak is a little lower.
    """
    counts = count_parameters(config, setup)
    count = sum(counts.values(), ParameterCount())
    share = 1 / setup.processes if setup.sharded else 1.0
    trained_inside = count.trained - count.added
    frozen = count.total - count.quantised - trained_inside
    rows = {
        "weights, 4 bits": count.quantised * BYTES_4_BIT,  # accelerate leaves these out of FSDP's shards
        "weights, frozen": frozen * setup.frozen_bytes * share,
        "weights, trained": count.trained * setup.trained_bytes * share,
        "gradients": count.trained * setup.trained_bytes * share,
        "optimiser states": count.trained * setup.state_bytes * share,
    }
    passing = {
        "weights cast for computing": _cast_copies(config, setup, count),
        "4-bit weights unpacked": 2 * _largest_linear(config) * setup.compute_bytes if count.quantised else 0.0,
        "FSDP: gathered layers": _gathered(config, setup),
        "DDP: gradient buckets": count.trained * setup.trained_bytes * (setup.processes > 1 and not setup.sharded),
        "pictures": shape.frames * 3 * config.image_size**2 * 4.0,
        "activations": activation_bytes(config, setup, shape),
        "largest moment beside them": max(logit_bytes(config, setup, shape), working_bytes(config, setup, shape)),
    }
    loss = FRAGMENTATION * sum(passing.values())
    return MemoryEstimate({**rows, **passing, "allocator": loss, "CUDA context (assumed)": float(CONTEXT_BYTES)})


def activation_bytes(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> float:
    """What autograd keeps from a micro-batch's forward pass, the logits apart."""
    vision, text = config.vision_config, config.text_config
    patches = shape.frames * config.patches_per_side**2
    stream, compute = setup.stream_bytes, setup.compute_bytes
    total = 0.0
    if "vision" in setup.parts:
        kept = stream * vision.hidden_size if setup.checkpointing else vision_layer_bytes(config, setup)
        total += patches * vision.num_hidden_layers * kept
        if not setup.adapters:
            total += shape.frames * 3 * config.image_size**2 * compute  # the patch embedding's input
    if {"vision", "projector"} & set(setup.parts):
        total += patches * setup.output_bytes * text.hidden_size  # the GELU's input
        for width in (vision.hidden_size, text.hidden_size):
            total += patches * _linear_input_bytes(setup, "projector", width, 1)
    kept = stream * text.hidden_size if setup.checkpointing else text_layer_bytes(config, setup, shape)
    total += shape.tokens * text.num_hidden_layers * kept
    return total + shape.tokens * _rms_norm_bytes(setup, text.hidden_size)


def text_layer_bytes(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> float:
    """Per token, what autograd keeps of one Qwen2 layer: two norms, attention, gated MLP."""
    text = config.text_config
    width, inner, heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
    head = getattr(text, "head_dim", None) or width // heads
    queries, keys = heads * head, text.num_key_value_heads * head
    compute = setup.compute_bytes
    shown = queries if shape.padded or setup.eager else keys
    total = 2 * _rms_norm_bytes(setup, width)
    total += _linear_input_bytes(setup, "language", width, 3) + _linear_input_bytes(setup, "language", width, 2)
    total += compute * (queries + 2 * shown)
    total += _attention_bytes(setup, heads, shape.length)
    total += compute * (queries if not _keeps_inputs(setup, "language") or setup.adapters else 0)  # the output
    total += _linear_input_bytes(setup, "language", queries, 1)
    total += 3 * setup.output_bytes * inner + _linear_input_bytes(setup, "language", inner, 1)
    return total


def vision_layer_bytes(config: StreamVLNConfig, setup: Setup) -> float:
    """Per patch, what autograd keeps of one SigLIP layer: two norms, attention, MLP."""
    vision = config.vision_config
    width, inner, compute = vision.hidden_size, vision.intermediate_size, setup.compute_bytes
    total = 2.0 * (setup.stream_bytes * width + 8)  # LayerNorm: its input, mean and deviation
    total += _linear_input_bytes(setup, "vision", width, 3) + _linear_input_bytes(setup, "vision", width, 1)
    total += 3 * compute * width
    total += _attention_bytes(setup, vision.num_attention_heads, config.patches_per_side**2)
    total += compute * width if setup.adapters else 0
    total += _linear_input_bytes(setup, "vision", width, 1)
    total += setup.output_bytes * inner + _linear_input_bytes(setup, "vision", inner, 1)
    return total


def logit_bytes(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> float:
    """Answer logits of the learned tokens alone: as computed, in float32, their log-softmax, and two gradients."""
    return shape.targets * config.text_config.vocab_size * (12.0 + 2 * (setup.compute_bytes % 4))


def working_bytes(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> float:
    """The largest layer's backward pass: gradients of its activations, and with checkpointing these once more."""
    vision, text, values = config.vision_config, config.text_config, setup.output_bytes
    patches = shape.frames * config.patches_per_side**2
    sizes = [shape.tokens * values * (3 * text.intermediate_size + 4 * text.hidden_size)]
    again = [shape.tokens * text_layer_bytes(config, setup, shape)]
    if "vision" in setup.parts:
        sizes.append(patches * values * (2 * vision.intermediate_size + 4 * vision.hidden_size))
        again.append(patches * vision_layer_bytes(config, setup))
    return max(size + (more if setup.checkpointing else 0.0) for size, more in zip(sizes, again, strict=True))


def step_flops(config: StreamVLNConfig, setup: Setup, shape: WindowShape) -> float:
    """Operations of one micro-batch, forward and backward, without what is computed again."""
    vision, text = config.vision_config, config.text_config
    per_side = config.patches_per_side**2
    patches = shape.frames * per_side
    counts = count_parameters(config, replace(setup, method="full"))
    head = text.hidden_size * text.vocab_size
    tables = head if config.tie_word_embeddings else 2 * head
    layers = {
        "vision": (counts["vision"].total - per_side * vision.hidden_size) * patches,
        "projector": counts["projector"].total * patches,
        "language": (counts["language"].total - tables) * shape.tokens + head * shape.targets,
    }
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    attention = {
        "vision": 4.0 * shape.frames * per_side**2 * vision.hidden_size * vision.num_hidden_layers,
        "projector": 0.0,
        "language": 2.0 * shape.windows * shape.length**2 * width * text.num_hidden_layers,
    }
    total, reached = 0.0, False
    for part in PARTS:  # in forward order: gradients reach what lies after the first trained part
        reached = reached or part in setup.parts
        trained = part in setup.parts and not setup.adapters
        total += 2 * layers[part] * (1 + reached + trained) + attention[part] * (1 + 2 * reached)
    return total


def _keeps_inputs(setup: Setup, part: Part) -> bool:
    """Whether linear layers of the part need their inputs for gradients of weights."""
    return part in setup.parts


def _linear_input_bytes(setup: Setup, part: Part, width: int, consumers: int) -> float:
    """Kept inputs of `consumers` linear layers that all read the same `width` values."""
    if not _keeps_inputs(setup, part):
        return 0.0
    compute = setup.compute_bytes
    cast_each = setup.autocast and setup.stream_bytes != compute  # autocast does not remember activations
    if not setup.adapters:
        # Only what comes out of a norm has the stream's dtype; a single consumer's input is kept once in any case.
        return float(compute * width * (consumers if cast_each else 1))
    copied = compute if setup.autocast else 4
    dropout = setup.lora.dropout > 0.0
    shared = not dropout and setup.stream_bytes == copied and not setup.autocast
    copies = 1 if shared else consumers
    return float(
        copies * width * (copied + (setup.mask_bytes if dropout else 0)) + consumers * copied * setup.lora.rank
    )


def _rms_norm_bytes(setup: Setup, width: int) -> float:
    """Input in float32 and its inverse length; where its weight is trained, also the normalised values."""
    trained = not setup.adapters and "language" in setup.parts
    return float(4 * width + 4 + (setup.stream_bytes * width if trained else 0))


def _attention_bytes(setup: Setup, heads: int, length: int) -> float:
    """Per token: one float32 per head, or all its weights (before and after a cast) without a fused kernel."""
    if not setup.eager:
        return 4.0 * heads
    return heads * length * (4.0 + (setup.compute_bytes if setup.compute_bytes != 4 else 0))


def _cast_copies(config: StreamVLNConfig, setup: Setup, count: ParameterCount) -> float:
    """Autocast's copies of trained weights, and of a head that is kept in float32."""
    if not setup.autocast or setup.sharded:
        return 0.0
    head = config.text_config.vocab_size * config.text_config.hidden_size
    copied = count.trained if setup.trained_bytes != setup.compute_bytes else 0
    if setup.adapters and setup.frozen_bytes != setup.compute_bytes and not setup.lora.train_head:
        copied += head
    return float(setup.compute_bytes * copied)


def _largest_linear(config: StreamVLNConfig) -> int:
    text = config.text_config
    return int(text.hidden_size * text.intermediate_size)


def _gathered(config: StreamVLNConfig, setup: Setup) -> float:
    """FSDP2: this layer and the next one whole, a layer's gradient twice (its reduction), and what is no layer."""
    if not setup.sharded:
        return 0.0
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    mixing = 2 * text.hidden_size * head * (text.num_attention_heads + text.num_key_value_heads)
    layer = mixing + 3 * _largest_linear(config)
    outside = (1 if config.tie_word_embeddings else 2) * text.vocab_size * text.hidden_size
    return float(setup.compute_bytes * (4 * layer + outside))
