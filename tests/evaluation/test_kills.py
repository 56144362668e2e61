"""Evaluations that are killed again and again, main process and workers alike, leave the same as undisturbed ones."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from streamvln_gym.evaluation import evaluate
from tests.evaluation.conftest import lines_of

MERGED = ("episodes.jsonl", "summary.json")


def finished(out: Path) -> int:
    """Results on the disk."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "shards").glob("episodes-*"))


def start(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "streamvln_gym.cli", "evaluate", "--report", "False", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also where it was killed a moment ago
        return False


def victims(process: subprocess.Popen, whole: bool) -> list[psutil.Process]:
    """The main process, or one of its workers (not multiprocessing's resource tracker)."""
    main = psutil.Process(process.pid)
    workers = [child for child in main.children() if is_worker(child)]
    return [main] if whole or not workers else [random.choice(workers)]


def play_and_kill(arguments: list[str], out: Path, total: int, kills: int, seed: int) -> int:
    """Plays to the end, killing main process or workers at random moments; how many were killed."""
    rng, killed = random.Random(seed), 0
    while True:
        process = start(arguments)
        while process.poll() is None:
            if killed == kills:
                process.wait()
                break
            goal = finished(out) + rng.randint(1, max(1, (total - finished(out)) // (kills - killed + 1)))
            while process.poll() is None and finished(out) < goal:
                time.sleep(0.002)
            if process.poll() is None:
                for victim in victims(process, whole=rng.random() < 0.5):
                    victim.send_signal(signal.SIGKILL)
                    killed += 1
                    if victim.pid == process.pid:
                        process.wait()
        text = process.communicate()[0]
        if process.returncode == 0:
            return killed
        # Where workers are killed one after another as they start, the evaluation gives up, and says how to go on.
        assert process.returncode == -signal.SIGKILL or "Run the same command again" in text, text


def test_kills_change_nothing(many_episodes, config, tmp_path):
    evaluate(config(data=many_episodes, split="many", agent="random", seed=3, out=tmp_path / "whole"))
    out = tmp_path / "killed"
    arguments = ["--agent", "random", "--seed", "3", "--data", str(many_episodes), "--split", "many"]
    killed = play_and_kill([*arguments, "--workers", "2", "--out", str(out)], out, 140, kills=3, seed=0)
    assert killed == 3
    for name in MERGED:
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()
    assert len(lines_of(out)) == len(set(lines_of(out))) == 140


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("agent", ["random", "streamvln"])
def test_twenty_kills_change_nothing(agent, workers, many_episodes, thin_checkpoint, config, tmp_path):
    settings = {"agent": agent, "seed": 3, "data": many_episodes, "split": "many", "device": "cpu"}
    settings |= {"max_steps": 60, "checkpoint": thin_checkpoint} if agent == "streamvln" else {"max_steps": 500}
    settings |= {"width": 112, "height": 112}
    evaluate(config(**settings, out=tmp_path / "whole"))
    out = tmp_path / "killed"
    arguments = ["--workers", str(workers), "--out", str(out)]
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    assert play_and_kill(arguments, out, 140, kills=20, seed=workers) == 20
    for name in MERGED:
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()


def test_workers_end_with_their_main_process(many_episodes, tmp_path):
    out = tmp_path / "run"
    arguments = ["--agent", "random", "--data", str(many_episodes), "--split", "many", "--workers", "2"]
    process = start([*arguments, "--out", str(out)])
    while finished(out) < 1:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not psutil.wait_procs(children, timeout=20)[1]
