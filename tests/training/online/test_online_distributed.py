"""Online DAgger in two processes over gloo: all have the same weights, and one's bad numbers stop both."""

import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.training.online.test_online_training import config, network, read_state  # noqa: F401 (fixtures)

PROGRAM = """
import os
from contextlib import ExitStack
from pathlib import Path, PosixPath

import torch

from streamvln_gym.training.online.config import *
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.trainer import _OnlineRun
from streamvln_gym.training.privileged import AuxiliaryConfig

if __name__ == "__main__":
    torch.set_num_threads(1)
    loss = Learner.loss

    def spoiled(learner, packed):
        value, parts = loss(learner, packed)
        return value * float("nan") if os.environ["RANK"] == "1" and learner.updates == {spoil} else value, parts

    Learner.loss = spoiled
    with ExitStack() as stack:
        run = _OnlineRun({config!r}, stack)
        run.train()
        torch.save(run.learner.state(), run.config.out / f"rank{{run.rank}}.pt")
"""


def run_in_two(config, path, spoil=-1):  # noqa: F811
    """Runs the training in two processes; in the second, the loss of update number `spoil` is no number."""
    path.write_text(PROGRAM.format(config=config, spoil=spoil))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, str(path)]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)


@pytest.fixture
def in_two(config):  # noqa: F811
    return replace(config, save_every=1, collect=replace(config.collect, workers=2))


@pytest.mark.long
def test_both_processes_have_the_same_weights(in_two, tmp_path):
    done = run_in_two(in_two, tmp_path / "program.py")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(in_two.out / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first["updates"] == second["updates"] == in_two.optimize.updates
    for part in ("model", "average", "heads"):
        for name, tensor in first[part].items():
            torch.testing.assert_close(second[part][name], tensor, rtol=0, atol=0)


@pytest.mark.long
def test_one_process_s_bad_loss_stops_both(in_two, tmp_path):
    done = run_in_two(in_two, tmp_path / "program.py", spoil=2)
    assert done.returncode != 0
    assert "at update 3: lower the learning rate" in done.stderr
    state = read_state(in_two)["learner"]
    assert state["updates"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
