"""The estimate of training's memory against what torch counts on a thin network."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.training.adapters import add_adapters
from streamvln_gym.training.config import PARTS, LoraSettings
from streamvln_gym.training.memory_estimate import (
    GIB,
    Setup,
    WindowShape,
    activation_bytes,
    count_parameters,
    estimate_memory,
    step_flops,
)
from streamvln_gym.training.optimizer_groups import freeze_parts

HISTORY, CURRENT, TURN = 8, 8, [5, 6, -200, 7, 8, 9, 10, 11]
TOLERANCE = 0.15


def thin_network() -> StreamVLNForConditionalGeneration:
    """Two layers each, wide enough that what grows with widths outweighs the rest."""
    torch.set_num_threads(1)
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=360,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=112,
        patch_size=14,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=500,
        hidden_size=256,
        intermediate_size=1200,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,  # with fewer, torch has no fused kernel on CPUs
        tie_word_embeddings=False,
    )
    return StreamVLNForConditionalGeneration.from_seed(StreamVLNConfig(vision, text)).train()


def batch_of(windows: int) -> dict:
    """Windows with a full memory; the second is shorter than the first."""
    rows = []
    for number in range(windows):
        current = CURRENT - number
        rows.append(torch.tensor([9] * 60 + [-300] + TURN * current))
    ids = torch.nn.utils.rnn.pad_sequence(rows, True, 0)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True)
    labels = ids.masked_fill((ids < 9) | (mask == 0), IGNORE_LABEL)
    labels[:, :60] = IGNORE_LABEL
    frames = sum(HISTORY + int((row == -200).sum()) for row in rows)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "pixel_values": torch.randn(frames, 3, 112, 112),
        "memory_frames": torch.tensor([HISTORY] * windows),
        "use_cache": False,
    }


def kept_bytes(model: torch.nn.Module, batch: dict, autocast: bool) -> int:
    """What autograd keeps of a forward pass, without weights (and autocast's copies of them)."""
    tensors = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    shapes = {tuple(tensor.shape) for tensor in tensors if tensor.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own and tuple(tensor.shape) not in shapes:
            kept.setdefault(place, tensor)  # held, so that no other tensor gets its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = model(**batch).loss
    assert torch.isfinite(loss)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def shape_of(network: StreamVLNForConditionalGeneration, batch: dict) -> WindowShape:
    first = batch["input_ids"][0]
    tokens = network.config.tokens_per_frame
    length = int((first >= 0).sum()) + (HISTORY + CURRENT) * tokens
    targets = int((batch["labels"] != IGNORE_LABEL).sum())
    windows = len(batch["input_ids"])
    return WindowShape(windows, len(batch["pixel_values"]), length, targets, padded=windows > 1)


BF16 = {"compute_bytes": 2, "autocast": True}
SETUPS = {
    "float32": Setup(),
    "autocast": Setup(**BF16),
    "bfloat16": Setup(trained_bytes=2, compute_bytes=2, state_bytes=4),
    "eager": Setup(eager=True),
    "eager, autocast": Setup(eager=True, **BF16),
    "language alone": Setup(parts=("language",)),
    "projector alone": Setup(parts=("projector",)),
    "projector and language": Setup(parts=("projector", "language"), **BF16),
    "lora": Setup("lora", frozen_bytes=2, mask_bytes=4, **BF16),
    "lora, float32": Setup("lora", mask_bytes=4),
    "lora, language alone": Setup("lora", ("language",), frozen_bytes=2, mask_bytes=4, **BF16),
    "lora, no dropout": Setup("lora", lora=LoraSettings(dropout=0.0), frozen_bytes=2, **BF16),
    "checkpointing": Setup(checkpointing=True),
    "checkpointing, autocast": Setup(checkpointing=True, **BF16),
    "checkpointing, lora": Setup("lora", checkpointing=True, frozen_bytes=2, mask_bytes=4, **BF16),
}


@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("name", SETUPS)
def test_activations(name, windows):
    """Within 15 per cent of what autograd keeps, for one window and for two of different lengths."""
    setup = SETUPS[name]
    network = model = thin_network()
    if setup.frozen_bytes == 2 or setup.trained_bytes == 2:
        model.to(torch.bfloat16)
    if setup.adapters:
        model = add_adapters(model, setup.lora, setup.parts).train()
    else:
        freeze_parts(model, setup.parts)
    if setup.eager:
        network.set_attn_implementation("eager")
    if setup.checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    batch = batch_of(windows)
    measured = kept_bytes(model, batch, setup.autocast)
    assert activation_bytes(network.config, setup, shape_of(network, batch)) == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("parts", [PARTS, ("language",), ("vision", "projector")])
def test_counts_of_adapters(parts):
    """As many as peft makes, a whole head included."""
    pytest.importorskip("peft")
    network = thin_network()
    lora = LoraSettings(rank=3, train_head=True)
    counts = count_parameters(network.config, Setup("lora", parts, lora))
    total = sum(parameter.numel() for parameter in network.parameters())
    adapted = add_adapters(network, lora, parts)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert sum(count.trained for count in counts.values()) == trained
    assert sum(count.total for count in counts.values()) == total


def test_counts_of_the_published_network():
    counts = count_parameters(StreamVLNConfig.full_size(), Setup("qlora"))
    total = sum(count.total for count in counts.values())
    assert total == pytest.approx(8.03e9, rel=1e-3)
    head_and_embeddings = 2 * 152064 * 3584
    assert total - head_and_embeddings - sum(count.quantised for count in counts.values()) < 3e6
    assert all(count.trained for count in counts.values())


def test_operations():
    """6 per weight and token, and what attention adds, as torch's own counter finds."""
    from torch.utils.flop_counter import FlopCounterMode

    network = thin_network()
    network.set_attn_implementation("eager")  # the counter does not know the CPU's fused kernel
    batch = batch_of(1)
    with FlopCounterMode(display=False) as counter:
        network(**batch).loss.backward()
    shape = shape_of(network, batch)
    text = network.config.text_config
    halved = 3 * 2 * shape.length**2 * text.hidden_size * text.num_hidden_layers  # eager attention is not causal
    expected = counter.get_total_flops() - halved
    assert step_flops(network.config, Setup(), shape) == pytest.approx(expected, rel=0.03)


def test_operations_of_frozen_weights():
    """Adapters need no gradients of weights: two thirds, but for attention. What is frozen at the start saves more."""
    config, shape = StreamVLNConfig.full_size(), WindowShape(1, 16, 3400, 45)
    full, lora = step_flops(config, Setup(), shape), step_flops(config, Setup("lora"), shape)
    assert 0.66 < lora / full < 0.72
    assert step_flops(config, Setup(parts=("projector", "language")), shape) < 0.9 * full


def test_sharding_divides_what_can_be_sharded():
    config, shape = StreamVLNConfig.full_size(), WindowShape(1, 16, 3400, 45)
    one = estimate_memory(config, Setup(compute_bytes=2, autocast=True), shape).rows
    eight = estimate_memory(config, Setup(compute_bytes=2, autocast=True, processes=8, sharded=True), shape).rows
    for name in ("weights, trained", "gradients", "optimiser states"):
        assert eight[name] == pytest.approx(one[name] / 8)
    assert one["optimiser states"] == pytest.approx(8.03e9 * 8, rel=1e-3)
    assert eight["FSDP: gathered layers"] > one["FSDP: gathered layers"] == 0


def test_the_issue_s_targets():
    """4-bit adapters at 7B within 24 GB; a full step on two cards of 80 GB."""
    config, shape = StreamVLNConfig.full_size(), WindowShape(1, 16, 3400, 45)
    small = Setup("qlora", checkpointing=True, **BF16)
    assert estimate_memory(config, small, shape).total < 24 * GIB
    assert estimate_memory(config, replace(small, checkpointing=False), shape).total > 24 * GIB
    two = Setup(trained_bytes=2, compute_bytes=2, state_bytes=4, processes=2, sharded=True, checkpointing=True)
    assert estimate_memory(config, two, shape).total < 79 * GIB
