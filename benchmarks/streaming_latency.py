"""Streaming at the published sizes: milliseconds per chunk, steps per second and memory, beside the hardware's floors.

    python benchmarks/streaming_latency.py [--batches 1 8 32 64] [--quantised int8 fp8 nf4] [--out FILE.json]
    python benchmarks/streaming_latency.py --tiny  # on a CPU, in seconds

Random weights are made on the device; the tokenizer is the package's own, frames are random pictures of 640x480 pixels
(160x120 with --tiny). Every stream calls the model once in 4 steps, all in step; STOP is never chosen. A part that
fails is reported with its traceback, and the rest still runs. Prints Markdown and, with --out, writes JSON after every
part.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantised_layers import KINDS as QUANTISED
from quantised_layers import language_gib, quantise
from streaming_floors import ChunkFlops, Rates, matmul_seconds, measure_rates

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


@contextmanager
def parts_timed(bench: Bench, parts: dict[str, tuple[Any, str]]):  # type: ignore[no-untyped-def]
    """Adds up the seconds of methods, each waited for; what one calls of the others counts for the inner one.

    Args:
        bench: where the device is.
        parts: name: (object, method).
    """
    spent: dict[str, float] = defaultdict(float)
    open_parts: list[list[float]] = []

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            bench.synchronize()
            begin = time.perf_counter()
            open_parts.append([0.0])
            result = method(*arguments, **named)
            bench.synchronize()
            taken = time.perf_counter() - begin
            spent[name] += taken - open_parts.pop()[0]
            if open_parts:
                open_parts[-1][0] += taken
            return result

        return call

    for name, (owner, method) in parts.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        yield spent
    finally:
        for owner, method in parts.values():
            delattr(owner, method)


def profile(bench: Bench, fast: bool, streams: int) -> dict[str, Any]:
    """Milliseconds of the parts of a call in a window, and of one that opens a window with memory."""
    agent = bench.agent(fast)
    play(bench, agent, streams, 44)
    caller: Any = agent._caller
    session: Any = agent._dialogue() if streams == 1 else agent.batch.session if agent.batch else None
    if streams == 1 and not fast:
        session = agent.session
    parts: dict[str, tuple[Any, str]] = {"prompt": (caller, "_turn"), "vision": (caller.frames, "encode")}
    if fast:
        parts["send"] = (caller.frames, "_send")
        parts["prefill"], parts["decode"] = (session, "_first_pass"), (session, "_next_pass")
    else:
        parts["resize"] = (bench.processor, "images")
        parts["prefill"] = (session, "_prefill")
        parts["decode"] = (session, "_catch_up" if streams == 1 else "_feed")
        if streams > 1:
            del parts["prefill"]  # `_prefill` is calls of `_feed` itself
    found: dict[str, Any] = {}
    for step in range(0, 64, 4):
        observations = [bench.observe(step, stream) for stream in range(streams)]
        with parts_timed(bench, parts) as spent:
            begin = time.perf_counter()
            decide(agent, observations, step == 0)
            bench.synchronize()
            total = time.perf_counter() - begin
        kind = {32: "window start", 56: "in window"}.get(step)
        if kind:
            milliseconds = {name: 1e3 * spent[name] for name in parts}
            found[kind] = {**milliseconds, "rest": 1e3 * (total - sum(spent.values())), "total": 1e3 * total}
    return found


def kernels(bench: Bench, streams: int, rows: int = 22) -> list[dict[str, Any]]:
    """The kernels of a fast call in a window that take most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as trace

    agent = bench.agent(True)
    play(bench, agent, streams, 60)
    observations = [bench.observe(60, stream) for stream in range(streams)]
    with trace(activities=[ProfilerActivity.CUDA]) as seen:
        decide(agent, observations, False)
        bench.synchronize()
    found = [
        {"kernel": event.key[:90], "calls": event.count, "ms": event.self_device_time_total / 1e3}
        for event in seen.key_averages()
    ]
    return sorted(found, key=lambda row: -row["ms"])[:rows]


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


def agreement(bench: Bench, chunks: int) -> dict[str, Any]:
    """How many of the eager path's choices the fast path makes, given the same dialogue up to there.

    A dialogue in which they differed is left until the next begins. Beside it the same for two eager sessions, which
    differ in rounding only: the batched one and the one that looks a token ahead. `margins` are between the two best
    scores of the eager path where the choices differed, and of all choices (10th percentile and median).
    """
    fast, eager, other = bench.agent(True), bench.agent(False), bench.agent(False)
    session: Any = eager.session
    margins: list[float] = []
    scores = session._logits
    allowed = [*bench.processor.action_ids[1:]]

    def watched() -> torch.Tensor:
        logits: torch.Tensor = scores()
        best = logits[allowed].float().topk(2).values
        margins.append(float(best[0] - best[1]))
        return logits

    session._logits = watched
    found: dict[str, Any] = {"differing_margins": {}, "answers": 0}
    same, compared, per_chunk = defaultdict(int), defaultdict(int), defaultdict(int)
    every: list[float] = []
    answers: set[tuple[int, ...]] = set()
    done = 0
    episode = 0
    while done < chunks:
        alive = {"fast": True, "eager, batched": True}
        for agent in (fast, eager, other):
            agent.reset()
        episode += 1
        for step in range(0, 72, 4):
            margins.clear()
            obs = bench.observe(step, 5 * episode)
            expected = eager.predict_chunk(obs)
            own = list(margins)
            every += own
            answers.add(tuple(expected))
            chosen = {
                "fast": fast.predict_chunk(obs) if alive["fast"] else None,
                "eager, batched": other.predict_chunk_batch([obs], [step == 0])[0] if alive["eager, batched"] else None,
            }
            done += 1
            for name, given in chosen.items():
                if given is None:
                    continue
                per_chunk[name] += 1
                for place, (ours, theirs) in enumerate(zip(given, expected, strict=True)):
                    compared[name] += 1
                    if ours != theirs:
                        found["differing_margins"].setdefault(name, []).append(own[place])
                        alive[name] = False
                        break
                    same[name] += 1
            if not any(alive.values()):
                break
    found["answers"] = len(answers)
    found["margin_percentiles"] = {"10": float(np.percentile(every, 10)), "50": float(np.percentile(every, 50))}
    for name in compared:
        found[name] = {"choices": compared[name], "agree": same[name] / compared[name], "chunks": per_chunk[name]}
    return found


def floors(bench: Bench, rates: Rates, prefill: int, past: int) -> dict[str, float]:
    """Milliseconds of a chunk of one stream at least.

    "issue": arithmetic at the rate of large products, and three readings of the weights. "one pass": the same without
    the readings, but not less than one of the language model; what looking ahead to whole answers leaves.
    """
    flops = ChunkFlops(bench.model.config)
    language = flops.prefill(prefill, past) / rates.matmul
    vision = flops.frame() / rates.matmul
    reading = rates.weight_bytes / rates.copy
    return {
        "language_ms": 1e3 * language,
        "vision_ms": 1e3 * vision,
        "reading_ms": 1e3 * reading,
        "issue_ms": 1e3 * (language + vision + 3 * reading),
        "one_pass_ms": 1e3 * (max(language, reading) + vision),
    }


def table(bench: Bench, rates: Rates) -> str:
    """The Markdown table of all batches."""
    lines = [
        "| path | streams | in window (ms) | window start (ms) | episode start (ms) | steps/s | peak (GiB) | of the "
        "floor | arithmetic at the floor's rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in bench.results.items():
        if not name.startswith("batch"):
            continue
        times = [f"{found['median_ms'].get(kind, float('nan')):.1f}" for kind in ("in window", "window start")]
        start = f"{found['median_ms'].get('episode start', float('nan')):.1f}"
        calls = bench.options.steps / 4
        compute = found["flops"] / rates.matmul
        floor = compute + calls * 3 * rates.weight_bytes / rates.copy
        lines.append(
            f"| {name.removeprefix('batch ')} | {found['streams']} | {times[0]} | {times[1]} | {start} | "
            f"{found['steps_per_second']:.1f} | {found.get('peak_gib', float('nan')):.2f} | "
            f"{found['seconds'] / floor:.2f}× | {100 * compute / found['seconds']:.0f} % |"
        )
    return "\n".join(lines)


def run(bench: Bench) -> None:
    """All parts."""
    options = bench.options
    streams = options.batches
    bench.attempt("build", bench.build)
    if "build" not in bench.results:
        return
    rates = bench.attempt("rates", lambda: measure_rates(bench.model, bench.tiny))
    if rates is None:
        return
    bench.results["rates"] = rates.as_dict()
    print(
        f"\ncopy {rates.copy / 1e12:.2f} TB/s, matmul {rates.matmul / 1e12:.0f} TFLOP/s, language model and head "
        f"{rates.weight_bytes / 1e9:.2f} GB, all weights {bench.results['build']['weights_gib']:.2f} GiB\n"
    )
    for count in streams:
        bench.attempt(f"batch fast {count}", lambda count=count: measure_batch(bench, count, True, options.steps))
        print(bench.results.get(f"batch fast {count}"), flush=True)
        if count == streams[0]:
            bench.attempt(f"batch eager {count}", lambda count=count: measure_batch(bench, count, False, options.steps))
            single = bench.results.get(f"batch fast {count}")
            if single is not None:
                inside = single["prefills"][0]
                bench.attempt("floors", lambda inside=inside: floors(bench, rates, inside, 1500))
                tokens, frames = inside + 39, count
                bench.attempt("matmuls", lambda n=tokens, m=frames: matmul_seconds(bench.model, n, m))
                print(bench.results.get("floors"), bench.results.get("matmuls"), flush=True)
            for path in (True, False):
                name = f"profile {'fast' if path else 'eager'} {count}"
                show_profile(name, bench.attempt(name, lambda path=path, n=count: profile(bench, path, n)))
    last = streams[-1]
    show_profile(f"profile fast {last}", bench.attempt(f"profile fast {last}", lambda: profile(bench, True, last)))
    if bench.device.type == "cuda":
        for count in (streams[0], last):
            rows = bench.attempt(f"kernels {count}", lambda count=count: kernels(bench, count)) or []
            for row in rows:
                print(f"{row['ms']:9.3f} ms {row['calls']:6d}  {row['kernel']}")
    bench.attempt("agreement", lambda: agreement(bench, options.chunks))
    print(bench.results.get("agreement"), flush=True)
    strategies(bench)
    if 8 in streams:
        bench.attempt("batch eager 8", lambda: measure_batch(bench, 8, False, options.steps))
    print(f"\n{bench.device}: {device_name(bench)}, torch {torch.__version__}, {options.steps} steps\n")
    print(table(bench, rates))
    extra = [
        f"{count}: {(found['peak_gib'] - bench.results['batch fast 1']['peak_gib']) / (count - 1):.2f}"
        for count in streams
        if count > 1
        and "peak_gib" in (found := bench.results.get(f"batch fast {count}", {}))
        and "batch fast 1" in bench.results
    ]
    if extra:
        print("\npeak GiB per further stream, " + ", ".join(extra))
    quantised(bench)


def quantised(bench: Bench) -> None:
    """The table of `--quantised`."""
    rows = ["| blocks | path | in window (ms) | window start (ms) | peak (GiB) |", "|---|---|---|---|---|"]
    for kind in bench.options.quantised:
        name = f"quantised {kind}"
        found = bench.attempt(name, lambda kind=kind: measure_quantised(bench, kind, bench.options.steps))
        for path in ("fast", "eager") if found else ():
            median = found[path]["median_ms"]
            rows.append(
                f"| {kind} ({found['blocks_gib']:.2f} GiB) | {path} | {median['in window']:.1f} | "
                f"{median['window start']:.1f} | {found[path].get('peak_gib', float('nan')):.2f} |"
            )
    if bench.options.quantised:
        print("\n" + "\n".join(rows), flush=True)


def show_profile(name: str, found: dict[str, Any] | None) -> None:
    for kind, parts in (found or {}).items():
        print(f"{name}, {kind}: " + ", ".join(f"{part} {value:.2f}" for part, value in parts.items()), flush=True)


def strategies(bench: Bench) -> None:
    """`--memory none / pooled / full` over one long episode, one stream."""
    rows = ["| memory | peak (GiB) | longest context | in window (ms) | window start (ms) |", "|---|---|---|---|---|"]
    for name in ("none", "pooled", "full"):
        found = bench.attempt(
            f"memory {name}",
            lambda name=name: measure_batch(bench, 1, True, bench.options.long_steps, memory_strategy=name),
        )
        if found:
            median = found["median_ms"]
            start = median.get("window start", median.get("episode start", float("nan")))
            rows.append(
                f"| {name} | {found.get('peak_gib', float('nan')):.2f} | {found['longest']:,} | "
                f"{median.get('in window', float('nan')):.1f} | {start:.1f} |"
            )
    print("\n" + "\n".join(rows), flush=True)


def device_name(bench: Bench) -> str:
    return torch.cuda.get_device_name() if bench.device.type == "cuda" else "one core"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and returns the results; exits with 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small network on the CPU")
    parser.add_argument("--batches", type=int, nargs="+", default=None, help="default: 1 8 32 64, with --tiny 1 3")
    parser.add_argument("--steps", type=int, default=None, help="default: 160, with --tiny 40")
    parser.add_argument("--long-steps", type=int, default=None, help="of the memory table; default: 480, or 40")
    parser.add_argument("--chunks", type=int, default=None, help="compared with the eager path; default: 200, or 18")
    parser.add_argument("--quantised", nargs="*", choices=QUANTISED, default=[], help="needs torchao or bitsandbytes")
    parser.add_argument("--budget", type=float, default=230.0, help="seconds after which no part begins")
    parser.add_argument("--out", default=None, help="JSON file")
    options = parser.parse_args(arguments)
    defaults = {"batches": [1, 3], "steps": 40, "long_steps": 40, "chunks": 18}
    full = {"batches": [1, 8, 32, 64], "steps": 160, "long_steps": 480, "chunks": 200}
    for name, value in (defaults if options.tiny else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    bench = Bench(options)
    bench.results["device"] = {"name": device_name(bench), "torch": torch.__version__, "date": time.strftime("%F %T")}
    bench.results["options"] = vars(options)
    run(bench)
    bench.write()
    if bench.errors:
        print(f"\nfailed: {', '.join(bench.errors)}", flush=True)
        sys.exit(1)
    return bench.results


if __name__ == "__main__":
    main()
