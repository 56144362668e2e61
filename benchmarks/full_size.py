"""One training step at the published sizes, with random weights: peak memory, tokens per second, MFU.

    python benchmarks/full_size.py qlora
    torchrun --standalone --nproc_per_node 2 benchmarks/full_size.py full

"qlora" and "lora" train adapters on weights of 4 bits (bitsandbytes) or in bfloat16, with checkpointed layers; "full"
trains all weights in bfloat16, sharded by FSDP2 layer by layer. Both take the published window (8 current and 8 history
frames, a dialogue of the published tokenizer where the repository's test data is at hand) and repeat it: the loss must
fall. How many layers are checkpointed is chosen so that the estimate of `train --dry-run` fits the card; --checkpointed
sets it. Prints one line of JSON. With --sizes thin everything runs on a CPU in seconds (torchrun then uses gloo).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import lzma
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_FOLDER
from streamvln_gym.training.adapters import add_adapters, require
from streamvln_gym.training.collator import StreamVLNCollator
from streamvln_gym.training.config import PARTS, LoraSettings
from streamvln_gym.training.memory_estimate import (
    GIB,
    Setup,
    WindowShape,
    estimate_memory,
    step_flops,
    text_layer_bytes,
    vision_layer_bytes,
    working_bytes,
)
from streamvln_gym.training.trajectories import Trajectory
from streamvln_gym.training.windows import Window, WindowConfig, WindowEncoder

TOKENIZER = Path(__file__).parents[1] / "tests" / "data" / "golden_streamvln" / "tokenizer.json.xz"
INSTRUCTION = (
    "Leave the bedroom through the door on your left, go down the hallway past the bathroom, turn right into the "
    "living room and wait by the piano next to the window."
)
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0, "3090": 71.0}
"""Dense bfloat16 with float32 sums, from the makers' data sheets, by a part of the device's name."""


@dataclass(frozen=True)
class Place:
    """Where this process runs."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @classmethod
    def find(cls, device: str) -> Place:
        """Joins torchrun's other processes, if there are any."""
        on_gpu = device != "cpu" and torch.cuda.is_available()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(chosen)
        if "WORLD_SIZE" not in os.environ:
            return cls(chosen)
        dist.init_process_group("nccl" if on_gpu else "gloo")
        return cls(chosen, dist.get_rank(), dist.get_world_size())

    @property
    def memory(self) -> float:
        """Bytes of the card; of a CPU, more than any estimate."""
        if self.device.type == "cpu":
            return float("inf")
        return float(torch.cuda.get_device_properties(self.device).total_memory)

    @property
    def peak_tflops(self) -> float | None:
        if self.device.type == "cpu":
            return None
        name = torch.cuda.get_device_name(self.device)
        return next((value for part, value in PEAK_TFLOPS.items() if part in name), None)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mean(self, value: float) -> float:
        """Over the processes."""
        if self.processes == 1:
            return value
        total = torch.tensor(value, device=self.device, dtype=torch.float32)
        dist.all_reduce(total)
        return float(total) / self.processes


def network_config(sizes: str) -> StreamVLNConfig:
    """The published sizes, or thin ones of the same structure and vocabulary order."""
    config = StreamVLNConfig.full_size()
    if sizes == "thin":
        vision, text = config.vision_config, config.text_config
        vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 64, 128, 2
        vision.num_attention_heads, vision.image_size = 4, 56
        text.hidden_size, text.intermediate_size, text.num_hidden_layers = 64, 128, 2
        text.num_attention_heads, text.num_key_value_heads, text.head_dim = 4, 2, 16
        text.layer_types = ["full_attention"] * 2
    return config


def make_batch(config: StreamVLNConfig, windows: int, seed: int) -> dict[str, Tensor]:
    """Full windows with a full memory: real dialogues, random moves and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        if TOKENIZER.is_file():
            (Path(folder) / "tokenizer.json").write_bytes(lzma.decompress(TOKENIZER.read_bytes()))
        tokenizer = load_tokenizer(Path(folder) if TOKENIZER.is_file() else SHIPPED_FOLDER)
    processor = StreamVLNProcessor(config, tokenizer)
    encoder = WindowEncoder(processor, WindowConfig(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    start = config.window_steps
    moves = torch.randint(1, 4, (windows, 2 * start), generator=generator).tolist()
    samples = []
    for number, actions in enumerate(moves):
        walk = Trajectory("benchmark", number, (INSTRUCTION,), tuple(actions), Path())
        encoded = encoder.encode(walk, Window(0, 0, start, 2 * start), encoder.picker(0, 0))
        frames = len(encoded.history_steps) + len(encoded.frame_steps)
        pixels = torch.rand(frames, 3, config.image_size, config.image_size, generator=generator) * 2 - 1
        samples.append(
            {
                "input_ids": torch.tensor(encoded.input_ids),
                "labels": torch.tensor(encoded.labels),
                "pixel_values": pixels,
                "memory_frames": len(encoded.history_steps),
            }
        )
    return StreamVLNCollator()(samples)


def shape_of(config: StreamVLNConfig, batch: dict[str, Tensor]) -> WindowShape:
    """Sizes of a batch of full windows."""
    windows = len(batch["input_ids"])
    frames = len(batch["pixel_values"])
    text = int((batch["attention_mask"] * (batch["input_ids"] >= 0)).sum(1).max())
    length = text + frames // windows * config.tokens_per_frame
    return WindowShape(windows, frames, length, int((batch["labels"] >= 0).sum()))


def empty_network(config: StreamVLNConfig, dtype: torch.dtype) -> StreamVLNForConditionalGeneration:
    """The network with weights that have no storage yet, but buffers that do."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = StreamVLNForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.trained = True  # random, but nobody plays it
    return model.train()


def fill(name: str, weight: Tensor, layers: int) -> None:
    """Random values, as `from_seed` scales them: what layers add to the residual stream is smaller."""
    if name.endswith("bias"):
        weight.zero_()
    elif weight.ndim == 1:
        weight.fill_(1.0)
    else:
        adds = any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2"))
        weight.normal_(std=0.02 * ((2 * layers) ** -0.5 if adds else 1.0))


def build_quantised(config: StreamVLNConfig, place: Place, four_bits: bool) -> StreamVLNForConditionalGeneration:
    """Random weights made on the device, one layer at a time; linear layers but the head of 4 bits where asked for."""
    model = empty_network(config, torch.bfloat16)
    torch.manual_seed(0)
    layers = config.text_config.num_hidden_layers
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            name = f"{parent_name}.{child_name}".lstrip(".")
            if four_bits and isinstance(child, nn.Linear) and name != "lm_head":
                setattr(parent, child_name, _four_bit_linear(name, child, place, layers))
    with torch.no_grad():
        for name, parameter in list(model.named_parameters()):
            if parameter.device.type != "meta":
                continue
            weight = torch.empty(parameter.shape, dtype=torch.bfloat16, device=place.device)
            fill(name, weight, layers)
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Parameter(weight))
    for module in model.modules():  # buffers, on the CPU until now
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(place.device)
    model.is_loaded_in_4bit = four_bits  # what peft and its preparation look at
    return model


def _four_bit_linear(name: str, linear: nn.Linear, place: Place, layers: int) -> nn.Module:
    import bitsandbytes

    weight = torch.empty(linear.weight.shape, dtype=torch.bfloat16, device=place.device)
    fill(f"{name}.weight", weight, layers)
    packed = bitsandbytes.nn.Linear4bit(
        1, 1, bias=linear.bias is not None, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
    )
    packed.in_features, packed.out_features = linear.in_features, linear.out_features
    packed.weight = bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
    )
    if linear.bias is not None:
        zeros = torch.zeros(linear.out_features, dtype=torch.bfloat16, device=place.device)
        packed.bias = nn.Parameter(zeros)
    return packed.to(place.device)


def shard(model: StreamVLNForConditionalGeneration, place: Place) -> None:
    """FSDP2: each layer and the head are gathered alone; then random values, each process its own shards'."""
    from torch.distributed.fsdp import fully_shard

    for layer in [*model.vision_tower.encoder.layers, *model.language_model.layers]:
        fully_shard(layer, reshard_after_forward=True)
    fully_shard(model.lm_head, reshard_after_forward=False)  # its backward pass comes at once
    fully_shard(model, reshard_after_forward=False)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=place.device)
    for name, buffer in buffers.items():
        model.get_buffer(name).copy_(buffer)
    torch.manual_seed(1 + place.rank)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill(name, parameter.to_local(), model.config.text_config.num_hidden_layers)


def layers_in_order(model: nn.Module) -> list[nn.Module]:
    """Those worth least to keep first: a vision layer's activations take more memory per operation."""
    kinds = ("SiglipEncoderLayer", "Qwen2DecoderLayer")
    found: dict[str, list[nn.Module]] = {kind: [] for kind in kinds}
    for module in model.modules():
        kind = type(module).__name__.removeprefix("FSDP")
        if kind in found:
            found[kind].append(module)
    return list(itertools.chain.from_iterable(found.values()))


def prepare_layers(model: nn.Module, checkpointed: int, compiled: bool) -> None:
    """The first `checkpointed` of `layers_in_order` forget their activations; all are compiled where asked for."""
    for number, layer in enumerate(layers_in_order(model)):
        forward: Callable[..., Any] = layer.forward
        if compiled:
            forward = torch.compile(forward, dynamic=False)
        if number < checkpointed:
            forward = functools.partial(checkpoint, forward, use_reentrant=False)
        layer.forward = forward


def expected_bytes(config: StreamVLNConfig, setup: Setup, shape: WindowShape, checkpointed: int) -> float:
    """The dry run's estimate with all layers kept, less what the checkpointed ones forget."""
    everything = estimate_memory(config, replace(setup, checkpointing=False), shape).total
    if not checkpointed:
        return everything
    patches = shape.frames * config.patches_per_side**2
    vision, text = config.vision_config, config.text_config
    towers = min(checkpointed, vision.num_hidden_layers)
    forgotten = towers * patches * (vision_layer_bytes(config, setup) - setup.stream_bytes * vision.hidden_size)
    per_token = text_layer_bytes(config, setup, shape) - setup.stream_bytes * text.hidden_size
    forgotten += (checkpointed - towers) * shape.tokens * per_token
    again = working_bytes(config, replace(setup, checkpointing=True), shape) - working_bytes(config, setup, shape)
    return everything - 1.05 * forgotten + again


def choose_checkpointed(config: StreamVLNConfig, setup: Setup, shape: WindowShape, memory: float) -> int:
    """The fewest layers that have to be checkpointed for the estimate to fit.

    Raises:
        SystemExit: even all of them are not enough.
    """
    layers = config.vision_config.num_hidden_layers + config.text_config.num_hidden_layers
    for checkpointed in range(layers + 1):
        if expected_bytes(config, setup, shape, checkpointed) <= memory:
            return checkpointed
    needed = expected_bytes(config, setup, shape, layers) / GIB
    sys.exit(f"{needed:.1f} GiB would be needed and there are {memory / GIB:.1f}: use more GPUs or a smaller batch")


@dataclass
class Timing:
    """Losses and seconds of the steps."""

    losses: list[float]
    seconds: list[float]


def train(
    model: nn.Module, batch: dict[str, Tensor], weights: Iterable[nn.Parameter], options: Any, place: Place
) -> Timing:
    """Repeats one batch."""
    trained = list(weights)
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.01, fused=True)
    mixed = torch.autocast(place.device.type, torch.bfloat16, enabled=options.part != "full")
    batch = {name: value.to(place.device) for name, value in batch.items()}
    if options.part == "full":
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    timing = Timing([], [])
    for step in range(options.steps):
        place.wait()
        began = time.perf_counter()
        with mixed:
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        place.wait()
        timing.seconds.append(time.perf_counter() - began)
        timing.losses.append(place.mean(float(loss.detach())))
        if place.rank == 0:
            print(f"step {step}: loss {timing.losses[-1]:.4f}, {timing.seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    return timing


def run(options: argparse.Namespace, place: Place) -> dict[str, Any]:
    """Builds, trains, and returns what was measured."""
    began = time.perf_counter()
    config = network_config(options.sizes)
    batch = make_batch(config, options.batch_size, seed=place.rank)
    shape = shape_of(config, batch)
    setup = setup_of(options, place)
    memory = place.memory * options.fill
    checkpointed = options.checkpointed
    layers = config.vision_config.num_hidden_layers + config.text_config.num_hidden_layers
    if checkpointed is None:
        adapters = options.part != "full"
        checkpointed = layers if adapters else choose_checkpointed(config, setup, shape, memory)
    if options.part == "full":
        model: nn.Module = empty_network(config, torch.bfloat16)
        shard(model, place)
    else:
        base = build_quantised(config, place, options.part == "qlora")
        model = add_adapters(base, LoraSettings(), PARTS, quantised=options.part == "qlora").train()
    prepare_layers(model, checkpointed, options.compile)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    place.wait()
    built = time.perf_counter() - began
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)
    timing = train(model, batch, weights, options, place)
    warm = timing.seconds[min(options.warmup, len(timing.seconds) - 1) :]
    seconds = place.mean(statistics.median(warm))
    flops = step_flops(config, setup, shape)
    peak = place.peak_tflops
    return {
        "part": options.part,
        "sizes": options.sizes,
        "device": torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "cpu",
        "processes": place.processes,
        "torch": torch.__version__,
        "windows_per_process": shape.windows,
        "frames": shape.frames,
        "length": shape.length,
        "checkpointed_layers": f"{checkpointed} of {layers}",
        "compiled": options.compile,
        "first_loss": round(timing.losses[0], 4),
        "last_loss": round(timing.losses[-1], 4),
        "seconds_to_build": round(built, 1),
        "seconds_per_step": round(seconds, 4),
        "tokens_per_second": round(place.processes * shape.tokens / seconds, 1),
        "tflop_per_step": round(place.processes * flops / 1e12, 4),
        "mfu": round(flops / 1e12 / seconds / peak, 4) if peak else None,
        "estimated_gib": round(expected_bytes(config, setup, shape, checkpointed) / GIB, 2),
        **_peaks(place),
    }


def setup_of(options: argparse.Namespace, place: Place) -> Setup:
    """The dry run's view of what is run here."""
    if options.part == "full":
        return Setup(
            trained_bytes=2, frozen_bytes=2, compute_bytes=2, state_bytes=4.0, processes=place.processes, sharded=True
        )
    frozen = 4 if options.part == "qlora" else 2
    return Setup(options.part, frozen_bytes=frozen, compute_bytes=2, autocast=True)


def _peaks(place: Place) -> dict[str, float | None]:
    if place.device.type != "cuda":
        return {"peak_allocated_gib": None, "peak_reserved_gib": None}
    allocated = torch.cuda.max_memory_allocated(place.device) / GIB
    reserved = torch.cuda.max_memory_reserved(place.device) / GIB
    return {"peak_allocated_gib": round(allocated, 2), "peak_reserved_gib": round(reserved, 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one part; exits with an error where the loss does not fall."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("qlora", "lora", "full"))
    parser.add_argument("--sizes", choices=("full", "thin"), default="full")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--batch-size", type=int, default=1, help="windows per process")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--learning-rate", type=float, help="default: 1e-3 for adapters, 1e-5 for all weights")
    parser.add_argument("--checkpointed", type=int, help="layers; default: all (adapters), as few as fit (full)")
    parser.add_argument("--fill", type=float, default=0.95, help="share of the card that may be planned for")
    parser.add_argument("--compile", action="store_true", help="compile each layer")
    options = parser.parse_args(arguments)
    if options.learning_rate is None:
        options.learning_rate = 1e-5 if options.part == "full" else 1e-3
    if options.part == "full" and "WORLD_SIZE" not in os.environ:
        parser.error("start 'full' with torchrun --standalone --nproc_per_node 2 benchmarks/full_size.py full")
    if options.part == "qlora":
        require("bitsandbytes", "qlora")
    place = Place.find(options.device)
    try:
        found = run(options, place)
        if place.rank == 0:
            print(json.dumps(found), flush=True)
        if not found["last_loss"] < found["first_loss"]:
            sys.exit(f"the loss did not fall: {found['first_loss']} to {found['last_loss']}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
