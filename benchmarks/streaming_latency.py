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
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from quantised_layers import KINDS as QUANTISED
from streaming_bench import Bench, measure_batch, measure_quantised
from streaming_floors import ChunkFlops, Rates, matmul_seconds, measure_rates
from streaming_parts import agreement, kernels, profile


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
