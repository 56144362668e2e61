"""A network of random weights that plays pictures, and what its model calls take; for `streaming_latency.py`."""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantised_layers import language_gib, quantise
from streaming_floors import ChunkFlops

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.models.fast_streaming import FastSession
from streamvln_gym.models.processing_streamvln import load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_FOLDER

GIB = 2**30
INSTRUCTION = (
    "Leave the bedroom through the door on your left, go down the hallway past the bathroom, turn right into the "
    "living room and wait by the piano next to the window."
)
KINDS = ("episode start", "window start", "in window")


class Bench:
    """A network, what is measured of it, and what failed.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tiny: bool = options.tiny
        self.device = torch.device("cuda" if torch.cuda.is_available() and not options.tiny else "cpu")
        self.began = time.perf_counter()
        self.results: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        size = (120, 160) if self.tiny else (480, 640)
        self.frames = np.random.default_rng(0).integers(0, 256, (16, *size, 3), dtype=np.uint8)

    def build(self) -> None:
        """Makes the network on the device."""
        begin = time.perf_counter()
        torch.manual_seed(0)
        if self.tiny:
            torch.set_num_threads(1)
            self.processor = StreamVLNProcessor.tiny()
            for part in (self.processor.config.vision_config, self.processor.config.text_config):
                part.num_hidden_layers = 2
            self.processor.config.text_config.layer_types = ["full_attention"] * 2
        else:
            self.processor = StreamVLNProcessor(StreamVLNConfig.full_size(), load_tokenizer(SHIPPED_FOLDER))
        dtype = torch.float32 if self.tiny else torch.bfloat16
        torch.set_default_dtype(dtype)
        with self.device:
            self.model = StreamVLNForConditionalGeneration(self.processor.config).eval()
        torch.set_default_dtype(torch.float32)
        self.model.requires_grad_(False)
        fill(self.model, self.processor)
        self.synchronize()
        self.results["build"] = {
            "seconds": time.perf_counter() - begin,
            "weights_gib": sum(part.nbytes for part in self.model.parameters()) / GIB,
        }

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def attempt(self, name: str, part: Callable[[], Any]) -> Any:
        """Runs a part; what it raises is printed and kept."""
        if time.perf_counter() - self.began > self.options.budget:
            self.errors[name] = f"left out: {self.options.budget:.0f} s are over"
            print(f"\n[{name}] {self.errors[name]}", flush=True)
            return None
        begin = time.perf_counter()
        try:
            result = part()
        except Exception:
            self.errors[name] = traceback.format_exc()
            print(f"\n[{name}] FAILED\n{self.errors[name]}", flush=True)
            result = None
        else:
            if result is not None:
                self.results[name] = result
        self.free()
        print(f"[{name}: {time.perf_counter() - begin:.1f} s]", flush=True)
        self.write()
        return result

    def free(self) -> None:
        """Gives back what the last part held, so that the next one's peak is its own."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def write(self) -> None:
        if self.options.out:
            found = {"results": self.results, "errors": self.errors}
            Path(self.options.out).write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")

    def agent(self, fast: bool, **settings: Any) -> StreamVLNAgent:
        return StreamVLNAgent(self.model, self.processor, fast=fast, conjunctions=None, **settings)

    def observe(self, step: int, stream: int = 0) -> dict[str, Any]:
        return {"rgb": self.frames[(step // 4 + stream) % len(self.frames)], "instruction": INSTRUCTION}


@torch.no_grad()
def fill(model: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor) -> None:
    """Random weights through which differences between frames reach the answers; STOP never beats the first move."""
    layers = model.config.text_config.num_hidden_layers
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.zero_() if name.endswith("bias") else weight.fill_(1.0)
        elif "embed_tokens" in name or "position_embedding" in name:
            weight.normal_(std=0.05)
        else:
            adds = any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2"))
            sharp = any(part in name for part in ("q_proj", "k_proj"))
            factor = (2 * layers) ** -0.5 if adds else 1.5 if sharp else 1.0
            weight.normal_(std=factor * weight[0].numel() ** -0.5)
    stop, first = processor.action_ids[:2]
    model.lm_head.weight[stop] = model.lm_head.weight[first]


@dataclass
class Played:
    """Model calls of an episode.

    Attributes:
        milliseconds: of the calls, by kind.
        steps_per_second: of all streams together.
        flops: of all calls.
        seconds: of all calls.
        prefills: embeddings of stream 0's prompts.
        longest: positions in its cache at most.
    """

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    steps_per_second: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    prefills: list[int] = field(default_factory=list)
    longest: int = 0

    def summary(self) -> dict[str, Any]:
        medians = {kind: float(np.median(self.milliseconds[kind])) for kind in KINDS if self.milliseconds[kind]}
        worst = {kind: max(self.milliseconds[kind]) for kind in medians}
        return {
            "median_ms": medians,
            "max_ms": worst,
            "steps_per_second": self.steps_per_second,
            "tflop_per_chunk": self.flops / 1e12 / max(sum(map(len, self.milliseconds.values())), 1),
            "prefills": sorted(set(self.prefills)),
            "longest": self.longest,
        }


def decide(agent: StreamVLNAgent, observations: list[dict[str, Any]], starts: bool) -> None:
    """A model call of every stream; one stream goes without a batch."""
    if len(observations) > 1:
        agent.predict_chunk_batch(observations, np.full(len(observations), starts))
        return
    if starts:
        agent.reset()
    agent.predict_chunk(observations[0])


def play(bench: Bench, agent: StreamVLNAgent, streams: int, steps: int) -> Played:
    """One episode of every stream, all in step."""
    played, flops = Played(), ChunkFlops(bench.model.config)
    for step in range(0, steps, 4):
        observations = [bench.observe(step, stream) for stream in range(streams)]
        bench.synchronize()
        begin = time.perf_counter()
        decide(agent, observations, step == 0)
        bench.synchronize()
        taken = time.perf_counter() - begin
        own = [agent.stream] if agent.batch is None else agent.batch.streams
        calls = [stream.last_call for stream in own if stream.last_call is not None]
        opened = calls[0].kv_before == 0
        kind = "in window" if not opened else "window start" if calls[0].history_steps else "episode start"
        played.milliseconds[kind].append(1e3 * taken)
        played.seconds += taken
        played.flops += sum(flops.frame() + flops.prefill(call.prefill_length, call.kv_before) for call in calls)
        played.prefills.append(calls[0].prefill_length)
        played.longest = max(played.longest, calls[0].kv_after)
    played.steps_per_second = streams * steps / played.seconds
    return played


def measure_batch(bench: Bench, streams: int, fast: bool, steps: int, **settings: Any) -> dict[str, Any]:
    """Latency, throughput and peak memory of so many streams."""
    agent = bench.agent(fast, **settings)
    begin = time.perf_counter()
    play(bench, agent, streams, min(44, steps))
    first = time.perf_counter() - begin
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    played = play(bench, agent, streams, steps)
    found = {"streams": streams, "fast": fast, "warm_up_seconds": first, **played.summary()}
    if bench.device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
    session = agent._dialogue() if streams == 1 else agent.batch.session if agent.batch else None
    if isinstance(session, FastSession) and session.cache is not None:
        found["recordings"] = len(session.calls)
        found["cache_gib_per_stream"] = session.cache.bytes_per_stream / GIB
    found["flops"], found["seconds"] = played.flops, played.seconds
    return found


def measure_quantised(bench: Bench, kind: str, steps: int) -> dict[str, Any]:
    """One stream with the language model's blocks quantised, on both paths; the network is made anew."""
    bench.model = None  # type: ignore[assignment]  # there is not space for two on every card
    bench.free()
    bench.build()
    quantise(bench.model, kind)
    bench.free()
    paths = {path: measure_batch(bench, 1, path == "fast", steps) for path in ("fast", "eager")}
    return {"blocks_gib": language_gib(bench.model), **paths}
