"""Ranks: the shared work, and real processes on the CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamvln_gym.evaluation import evaluate
from streamvln_gym.evaluation.engines.ranks import SharedWork
from streamvln_gym.evaluation.work import Group
from tests.evaluation.conftest import lines_of


class Counters(dict):
    """As much of torch's store as the work needs."""

    def add(self, key: str, amount: int) -> int:
        self[key] = self.get(key, 0) + amount
        return self[key]


def test_every_group_is_taken_once_and_ranks_stay_in_their_scenes():
    groups = [Group(k, f"scene{k % 3}", (f"{k}",)) for k in range(11)]
    store = Counters()
    ranks = [SharedWork(groups, store) for _ in range(2)]
    first = [ranks[0].take() for _ in range(2)]
    assert len({group.scene_id for group in first}) == 1
    other = ranks[1].take()
    assert other.scene_id != first[0].scene_id
    taken = [*first, other]
    while (group := ranks[len(taken) % 2].take()) is not None:
        taken.append(group)
    assert sorted(group.number for group in taken) == list(range(11))
    assert all(work.take() is None for work in (*ranks, SharedWork(groups, store)))


def test_nothing_to_do_is_nothing():
    assert SharedWork([], Counters()).take() is None


def command(data: Path, out: Path, *more: str) -> list[str]:
    arguments = ["evaluate", "--agent", "random", "--seed", "3", "--data", str(data), "--split", "many"]
    return [*arguments, "--report", "False", "--out", str(out), *more]


def start_ranks(arguments: list[str], ranks: int) -> list[subprocess.Popen]:
    """Processes with the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "streamvln_gym.cli", *arguments],
            env={**os.environ, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def test_two_ranks_do_what_one_process_does(many_episodes, config, tmp_path):
    evaluate(config(data=many_episodes, split="many", agent="random", seed=3, out=tmp_path / "alone"))
    processes = start_ranks(command(many_episodes, tmp_path / "ranks"), 2)
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert lines_of(tmp_path / "ranks") == lines_of(tmp_path / "alone")
    shards = sorted(path.name for path in (tmp_path / "ranks/shards").glob("episodes-*"))
    assert shards == ["episodes-s0-r0-0.jsonl", "episodes-s0-r1-0.jsonl"]
    assert "random on many/many" in texts[0] and "SR" in texts[0] and "results:" not in texts[1]


def test_an_error_of_one_rank_ends_all_with_its_message(many_episodes, tmp_path):
    arguments = command(many_episodes, tmp_path / "ranks", "--scenes", "nowhere")
    processes = start_ranks(arguments, 2)
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert "no scene 'nowhere'" in texts[0]
    assert "another rank has failed: rank 0:" in texts[1] and "no scene 'nowhere'" in texts[1]


@pytest.mark.long
def test_torchrun(many_episodes, config, tmp_path):
    evaluate(config(data=many_episodes, split="many", agent="random", seed=3, out=tmp_path / "alone"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--no-python"]
    program = [sys.executable, "-m", "streamvln_gym.cli", *command(many_episodes, tmp_path / "ranks")]
    subprocess.run([*launcher, *program], check=True, timeout=600)
    assert lines_of(tmp_path / "ranks") == lines_of(tmp_path / "alone")
