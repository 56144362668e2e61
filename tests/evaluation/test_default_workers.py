"""How many processes an evaluation has, where nobody says so."""

import json

import pytest
import torch

from streamvln_gym.devices import cores
from streamvln_gym.evaluation import EvaluationConfig
from streamvln_gym.evaluation.engines import local

GIB = 2**30


@pytest.fixture
def gpus(monkeypatch):
    """Makes this machine one with GPUs, whose memory is free."""

    def pretend(*free: float, processors: int = 16) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (int(free[gpu] * GIB), 80 * GIB))
        monkeypatch.setattr(local, "cores", lambda: processors)

    return pretend


def workers(tmp_path, **options) -> int:
    return local._default_workers(EvaluationConfig(out=tmp_path / "run", **options))


@pytest.fixture
def large(tmp_path):
    """The folder of a network of 60 million parameters."""
    folder = tmp_path / "large"
    folder.mkdir()
    size = 4 * 60_000_000
    header = json.dumps({"w": {"dtype": "F32", "shape": [60_000_000], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # its zeros take no space
    return str(folder)


def test_without_a_gpu_there_is_one_for_each_core(tmp_path, gpus):
    gpus()
    assert workers(tmp_path) == 16


def test_a_large_network_has_a_process_on_each_gpu(tmp_path, gpus, large):
    gpus(70, 70)
    assert workers(tmp_path, checkpoint=large) == 2


@pytest.mark.parametrize(("free", "processors", "expected"), [((70, 70), 16, 16), ((8, 8), 16, 10), ((0.5,), 16, 1)])
def test_processes_with_a_small_network_share_the_gpus(tmp_path, gpus, free, processors, expected):
    gpus(*free, processors=processors)
    assert workers(tmp_path) == expected


def test_a_small_network_on_the_cpu_has_a_process_for_each_core(tmp_path, gpus):
    gpus(70)
    assert workers(tmp_path, device="cpu") == 16


def test_one_gpu_that_was_named_has_one_process(tmp_path, gpus):
    gpus(70, 70)
    assert workers(tmp_path, device="cuda:1") == 1


def test_agents_without_a_network_have_a_process_for_each_core(tmp_path):
    assert workers(tmp_path, agent="random") == cores()
