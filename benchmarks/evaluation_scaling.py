"""Steps/s of an evaluation by one process and by several, each with a GPU of its own where there are GPUs.

    python benchmarks/evaluation_scaling.py [--workers 1 2] [--episodes 480] [--envs-per-worker 16]

Counted is what the processes spend playing, from a group of episodes' start to its results; with loading, the whole
call. All runs must come to the same results, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from streamvln_gym.evaluation import EvaluationConfig, evaluate
from streamvln_gym.evaluation.player import open_environment
from streamvln_gym.evaluation.work import make_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--episodes", type=int, default=480)
    parser.add_argument("--envs-per-worker", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    results = set()
    with tempfile.TemporaryDirectory() as folder:
        for workers in options.workers:
            config = EvaluationConfig(
                out=Path(folder) / str(workers),
                episodes=options.episodes,
                workers=workers,
                envs_per_worker=options.envs_per_worker,
                device=options.device,
                report=False,
            )
            begun = time.perf_counter()
            records = evaluate(config).records
            wall = time.perf_counter() - begun
            steps = sum(len(record["actions"]) for record in records)
            results.add((config.out / "episodes.jsonl").read_bytes())
            found[workers] = {"playing": steps / playing_seconds(config), "with loading": steps / wall}
            rates = ", ".join(f"{rate:.1f} steps/s {name}" for name, rate in found[workers].items())
            print(f"{workers} processes: {rates} ({len(records)} episodes, {steps} steps)", flush=True)
    first = found[options.workers[0]]
    for workers in options.workers[1:]:
        gains = ", ".join(f"{found[workers][name] / first[name]:.2f}x {name}" for name in first)
        print(f"{workers} processes against {options.workers[0]}: {gains}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if len(results) > 1:
        raise SystemExit("the runs came to different results")


def playing_seconds(config: EvaluationConfig) -> float:
    """Mean of the workers' seconds of playing."""
    env = open_environment(config, sensors=("instruction",))
    dataset = env.unwrapped.dataset  # type: ignore[attr-defined]
    env.close()
    timings = [json.loads(line) for line in (config.out / "timings.jsonl").read_text().splitlines()]
    groups = make_groups(dataset, [timing["key"][1] for timing in timings], config.batch)
    size = {episode_id: len(group.episode_ids) for group in groups for episode_id in group.episode_ids}
    by_worker: dict[str, float] = {}
    for timing in timings:  # the time of an episode is that of its whole group
        worker = timing["worker"]
        by_worker[worker] = by_worker.get(worker, 0.0) + timing["seconds"] / size[timing["key"][1]]
    return sum(by_worker.values()) / len(by_worker)


if __name__ == "__main__":
    main()
