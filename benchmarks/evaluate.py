"""Steps/s of a full evaluation of the shipped agent, beside what rendering alone and the model alone would allow.

    python benchmarks/evaluate.py [--episodes 128] [--workers 2] [--width 640 --height 480]

Three measurements with the same number of processes:

* evaluation: steps of all episodes by the time that processes spend playing (see `evaluation_scaling.py`);
* render bound: the evaluation's own paths walked again, rendering what the agent looked at, and no model;
* model bound: the agent acting on pictures that are there already, and no environment.

One process does both in turn, so that render and model times add up: the fraction says what of the smaller bound is
left, and "of the two together" compares with 1 / (1 / render + 1 / model).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evaluation_scaling import playing_seconds

from streamvln_gym.episode_run import EpisodeRun
from streamvln_gym.evaluation import EvaluationConfig, evaluate
from streamvln_gym.evaluation.player import Player

CHUNK = 4


def walk(config: EvaluationConfig, records: list[dict], ready, begin, times) -> None:
    """Walks recorded paths, rendering where a model call looks."""
    player = Player(config, "", "")
    env = player._envs[0]
    EpisodeRun(env, records[0]["episode_id"]).step(0)  # kernels are loaded
    ready.release()
    begin.wait()
    begun = time.perf_counter()
    for record in records:
        run = EpisodeRun(env, record["episode_id"])
        for k, action in enumerate(record["actions"], start=1):
            run.step(action, picture=k % CHUNK == 0)
    times.put(time.perf_counter() - begun)


def think(config: EvaluationConfig, records: list[dict], ready, begin, times) -> None:
    """Lets the agent act as many steps as the episodes have, on one episode's pictures."""
    player = Player(config, "", "")
    agent = player._agent
    run = EpisodeRun(player._envs[0], records[0]["episode_id"])
    pictures = [run.observation]
    for action in records[0]["actions"]:
        run.step(action)
        pictures.append(run.observation)
    agent.reset()
    agent.act(pictures[0])
    ready.release()
    begin.wait()
    begun = time.perf_counter()
    for record in records:
        agent.reset()
        for k in range(len(record["actions"])):
            agent.act(pictures[k % len(pictures)])
    times.put(time.perf_counter() - begun)


def bound(work, config: EvaluationConfig, records: list[dict], workers: int) -> float:
    """Steps/s of `workers` processes that do `work` with a share of the episodes each."""
    context = multiprocessing.get_context("spawn")
    ready, begin, times = context.Semaphore(0), context.Event(), context.Queue()
    scenes: dict[str, list[dict]] = {}
    for record in records:
        scenes.setdefault(record["scene_id"], []).append(record)
    dealt = [list(scenes.values())[k::workers] for k in range(workers)]  # a scene to one process, as in an evaluation
    shares = [[record for scene in part for record in scene] for part in dealt if part]
    processes = [context.Process(target=work, args=(config, share, ready, begin, times)) for share in shares]
    for process in processes:
        process.start()
    for _ in processes:
        while not ready.acquire(timeout=5):
            if any(other.exitcode for other in processes):
                raise SystemExit("a process died before it was ready: what it says stands above")
    begin.set()
    # each at its own speed, as in an evaluation whose work is handed out
    seconds = sum(times.get() for _ in processes) / len(processes)
    for process in processes:
        process.join()
    return sum(len(record["actions"]) for record in records) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = {"episodes": options.episodes, "width": options.width, "height": options.height, "device": "cpu"}
        config = EvaluationConfig(**shared, workers=options.workers, out=Path(folder) / "run")
        begun = time.perf_counter()
        records = evaluate(config).records
        wall = time.perf_counter() - begun
        playing = playing_seconds(config)
    steps = sum(len(record["actions"]) for record in records)
    rates = {
        "evaluation": steps / playing,
        "render bound": bound(walk, config, records, options.workers),
        "model bound": bound(think, config, records, options.workers),
    }
    least = min(rates["render bound"], rates["model bound"])
    together = 1 / (1 / rates["render bound"] + 1 / rates["model bound"])
    for name, rate in rates.items():
        print(f"{name:14} {rate:8.1f} steps/s")
    print(
        f"{len(records)} episodes, {steps} steps, {options.workers} processes; with loading {steps / wall:.1f} steps/s"
    )
    print(f"fraction of the smaller bound {rates['evaluation'] / least:.3f}, of the two together ", end="")
    print(f"{rates['evaluation'] / together:.3f}")
    if options.json:
        found = {**rates, "fraction": rates["evaluation"] / least, "steps": steps, "wall": wall}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
