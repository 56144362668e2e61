"""Online DAgger where something is wrong: weights, buffer, scenes, checkpoints, leftovers of a killed call."""

import json
import multiprocessing
import os
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamvln_gym.errors import CheckpointError, TrainingError
from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.training.online import builders, trainer, workers
from streamvln_gym.training.online.config import CollectConfig, OnlineConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.trainer import train_online
from tests.training.online.test_online_training import config, network, read_state  # noqa: F401 (fixtures)


def test_a_gradient_that_is_no_number_is_never_saved(config, monkeypatch):  # noqa: F811
    differentiate = Learner._differentiate

    def spoil(learner, keep=False):
        differentiate(learner, keep)
        if learner.updates == 2:
            learner.model.lm_head.weight.grad.fill_(float("nan"))

    monkeypatch.setattr(Learner, "_differentiate", spoil)
    with pytest.raises(TrainingError, match=r"the gradient's norm is nan at update 3: lower the learning rate"):
        train_online(replace(config, save_every=1))
    state = read_state(config)["learner"]
    assert state["updates"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_more_workers_than_scenes(config):  # noqa: F811
    config = replace(config, collect=replace(config.collect, workers=3))
    assert train_online(config)[-1]["updates"] == config.optimize.updates


def test_a_buffer_that_holds_no_episode_is_reported(config):  # noqa: F811
    small = replace(config, optimize=replace(config.optimize, buffer_frames=9))
    with pytest.raises(TrainingError, match=r"2 streams are overwritten.*9 frames is too small.*buffer_frames"):
        train_online(small)


def test_the_log_goes_on_from_the_saved_state(config):  # noqa: F811
    train_online(replace(config, optimize=replace(config.optimize, updates=2)))
    with (config.out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"updates": 3}\n{"upda')  # noted after the last state, and torn by a kill
    train_online(config)
    lines = (config.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["updates"] for line in lines] == [2, 4]


@pytest.mark.parametrize("settings", [{"memory_strategy": "voxel"}, {"num_history": 40}])
def test_memory_that_online_training_cannot_show_is_refused(settings):
    processor = StreamVLNProcessor.tiny(**settings)
    with pytest.raises(CheckpointError, match=r"memories of one length.*train from recorded trajectories"):
        DialogueLayout(processor)


def test_builders_end_with_the_training(monkeypatch):
    class Dead:
        def is_alive(self):
            return False

    built, taken = [], multiprocessing.Value("q", 1)
    monkeypatch.setattr("streamvln_gym.flats.building.build_scene", lambda root, split, seed: built.append(seed))
    builders._build(Path("unused"), "train", [1, 2, 3], taken)
    assert built == [2, 3], "another process took the first"
    monkeypatch.setattr(multiprocessing, "parent_process", Dead)
    builders._build(Path("unused"), "train", [4], multiprocessing.Value("q", 0))
    assert built == [2, 3]


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_without_a_trainer_ends_in_silence(monkeypatch, fails):
    ours, theirs = multiprocessing.Pipe()

    class Worker:
        def __init__(self, spec, arrays):
            pass

        def turn(self, longest):
            ours.close()  # the trainer is killed while the worker is busy
            if fails:
                raise RuntimeError("this, too")

        def hand_over(self):
            return []

    monkeypatch.setattr(workers, "Worker", Worker)
    for name in ("NUMBA_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")
    arrays = workers.StreamArrays(1, 8, 4, 4)
    spec = workers.StreamsSpec("flats", "train", None, (), 0, 1, 8, 2, 4, (0,), CollectConfig())
    ours.send(("turn", 0))
    assert workers._serve(spec, theirs, arrays.memory.name, 1) is None
    arrays.close()


def test_a_worker_that_is_killed_in_the_middle_of_an_answer():
    ours, theirs = multiprocessing.Pipe()
    pool = workers.WorkerPool.__new__(workers.WorkerPool)
    pool._connections, pool._processes = [ours], [SimpleNamespace(join=lambda seconds: None, exitcode=-9)]
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"a part")
    theirs.close()
    with pytest.raises(workers.WorkerError, match=r"worker process 0 died \(exit code -9; out of memory\?\)"):
        pool.wait()


def test_drawing_on_a_gpu_needs_triton(monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "choose_device", lambda name: "cuda")
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    drawing = OnlineConfig(tmp_path / "run", collect=CollectConfig(drawn_by="gpu"))
    with pytest.raises(TrainingError, match="needs Triton, which torch for CUDA brings along: pip install triton"):
        train_online(drawing)
    assert not (tmp_path / "run").exists()


def test_nobody_else_draws():
    with pytest.raises(ValueError, match=r"CollectConfig\.drawn_by must be 'workers' or 'gpu', got 'cpu'"):
        CollectConfig(drawn_by="cpu")


def test_a_negative_number_of_scenes_is_refused():
    with pytest.raises(ValueError, match=r"OnlineConfig\.held_out must not be negative, got -1"):
        OnlineConfig(held_out=-1)
