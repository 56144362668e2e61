"""Online DAgger end to end, with a network of two thin layers in the tiny flats."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import DatasetError, TrainingError
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.training.config import ContextConfig
from streamvln_gym.training.folder_lock import only_process
from streamvln_gym.training.online import trainer
from streamvln_gym.training.online.config import CollectConfig, OnlineConfig, OptimizeConfig
from streamvln_gym.training.online.run_folder import RunFolder
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.streams import Stream
from streamvln_gym.training.online.trainer import train_online
from streamvln_gym.training.online.worker import StreamsSpec, Worker
from streamvln_gym.training.online.workers import WorkerError, WorkerPool
from tests.training.online.test_online_equivalence import small_network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    model, processor = small_network()
    folder = tmp_path_factory.mktemp("network")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_flats, network, tmp_path):
    torch.set_num_threads(1)
    return OnlineConfig(
        out=tmp_path / "run",
        checkpoint=str(network),
        data=str(tiny_flats.episodes_path),
        held_out=0,
        evaluate_every=3,
        evaluate_at_most=2,
        evaluate_steps=24,
        save_every=2,
        device="cpu",
        collect=CollectConfig(workers=1, streams=2, shelf=1, short_until=0.0, spare_steps=4, supersampling=1),
        optimize=OptimizeConfig(updates=4, updates_per_turn=1, frames_per_update=24, buffer_frames=300),
    )


def read_state(config):
    return RunFolder(config, writes=True).read_state()


def weights(config):
    return read_state(config)["learner"]["model"]


def test_a_training_writes_log_state_and_a_checkpoint_that_acts(config):
    records = train_online(config)
    assert [record["updates"] for record in records] == [3, 4]
    assert all(np.isfinite(record["loss"]) and record["evaluated"] == 2 for record in records)
    assert all(0.0 < record["filled"] <= 1.0 for record in records)
    assert all(1 <= record["scenes"] <= record["episodes"] for record in records)
    lines = (config.out / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["updates"] for line in lines] == [3, 4]
    assert json.loads((config.out / "config.json").read_text())["optimize"]["updates"] == 4
    agent = StreamVLNAgent.from_pretrained(config.out / "checkpoint")
    assert agent.trained
    assert agent.act({"rgb": np.zeros((48, 64, 3), np.uint8), "instruction": "Go."}) in range(4)
    assert not any("patch." in name for name in agent.model.state_dict()), "auxiliary heads stay outside"


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_memory_and_window_of_other_sizes(config, from_checkpoint, monkeypatch):
    """The checkpoint that is saved streams as it was trained."""
    thin = small_network()[1]
    assert (thin.config.num_history, thin.config.window_steps) == (8, 32)
    monkeypatch.setattr(trainer.StreamVLNProcessor, "tiny", lambda: thin)
    config = replace(config, context=ContextConfig(num_history=2, window_steps=16))
    if not from_checkpoint:
        config = replace(config, checkpoint=None)
    train_online(config)
    agent = StreamVLNAgent.from_pretrained(config.out / "checkpoint")
    assert (agent.model.config.num_history, agent.model.config.window_steps) == (2, 16)
    assert agent.processor.config.num_history == 2
    agent.act({"rgb": np.zeros((48, 64, 3), np.uint8), "instruction": "Go."})
    with pytest.raises(TrainingError, match="num_history"):
        context = ContextConfig(num_history=0, window_steps=16)
        train_online(replace(config, context=context, optimize=replace(config.optimize, updates=6)))


@pytest.mark.parametrize(("strategy", "tokens"), [("full", 8 * 64), ("temporal_pool", 4 * 64), ("none", 0)])
def test_memory_of_other_strategies(config, strategy, tokens):
    train_online(replace(config, context=ContextConfig(memory_strategy=strategy)))
    agent = StreamVLNAgent.from_pretrained(config.out / "checkpoint")
    assert agent.model.config.memory_strategy == strategy
    watched = agent.watch()
    watched.reset()
    seen = set()
    for _ in range(40):  # a STOP within an answer shifts the calls that come later
        watched.act({"rgb": np.zeros((48, 64, 3), np.uint8), "instruction": "Go."})
        seen.add(watched.view.memory_tokens)
    assert seen == {0, tokens}


@pytest.fixture
def fast_clock(monkeypatch):
    """The trainer's clock advances by 70 ms whenever it is read, however fast the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 0.07 * next(ticks)))


def test_the_learning_rate_falls_over_minutes(config, fast_clock, monkeypatch):
    """A call that goes by the clock: no number of updates ends it or measures its progress."""
    optimize = replace(config.optimize, updates=2, warmup=2)
    config = replace(
        config, minutes=0.02, decay_minutes=0.02, evaluate_every=100_000, save_every=100_000, optimize=optimize
    )
    progress, rates = [], []
    decide, update = trainer.Collector.decide, trainer.Learner.update

    def decide_and_note(collector, shown, model, done):
        progress.append(done)
        decide(collector, shown, model, done)

    def update_and_note(learner, *args):
        update(learner, *args)
        rates.append(learner.learning_rate)

    monkeypatch.setattr(trainer.Collector, "decide", decide_and_note)
    monkeypatch.setattr(trainer.Learner, "update", update_and_note)
    records = train_online(config)
    assert records[-1]["updates"] > 2
    assert records[-1]["learning_rate"] < 0.1 * optimize.learning_rate
    assert progress == sorted(progress) and progress[0] < 0.2 and 0.8 < progress[-1] <= 1.0
    made = len(rates)
    train_online(config)
    assert rates[made] < rates[made + 1] > rates[-1], "the next call warms up anew"
    assert optimize.rate(50, 0.0) == optimize.learning_rate
    assert optimize.rate(50, 1.5) == pytest.approx(0.02 * optimize.learning_rate)
    assert optimize.rate(50, 0.5) == pytest.approx(0.51 * optimize.learning_rate)


def test_weights_are_evaluated_once(config, fast_clock):
    """A call that runs out of time right after an evaluation does not repeat it."""
    optimize = replace(config.optimize, updates=100_000)
    records = train_online(replace(config, minutes=0.05, evaluate_every=1, save_every=100_000, optimize=optimize))
    updates = [record["updates"] for record in records]
    assert updates and len(set(updates)) == len(updates)


@pytest.mark.parametrize(("minutes", "decay"), [(None, 1.0), (1.0, 2.0), (1.0, 0.0)])
def test_a_decay_fits_into_the_minutes(minutes, decay):
    with pytest.raises(ValueError, match="decay_minutes"):
        OnlineConfig(minutes=minutes, decay_minutes=decay)


def test_the_same_seed_gives_the_same_weights(config, tmp_path):
    train_online(config)
    again = replace(config, out=tmp_path / "again")
    train_online(again)
    for name, tensor in weights(config).items():
        torch.testing.assert_close(weights(again)[name], tensor, rtol=0, atol=0)


def test_a_training_goes_on_where_it_was(config):
    config = replace(config, optimize=replace(config.optimize, updates=3))
    half = replace(config, optimize=replace(config.optimize, updates=2))
    train_online(half)
    before = read_state(half)
    assert before["learner"]["updates"] == 2
    records = train_online(config)
    assert [record["updates"] for record in records] == [2, 3]
    after = read_state(config)
    assert after["learner"]["updates"] == 3
    steps = [float(state["step"]) for state in after["learner"]["optimizers"][1]["state"].values()]
    assert set(steps) == {3.0}, "the optimizer's moments went on, too"


def test_another_recipe_is_refused(config):
    train_online(replace(config, optimize=replace(config.optimize, updates=2)))
    other = replace(config, optimize=replace(config.optimize, learning_rate=1e-4))
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.002 there, 0\.0001 now.*another --out"):
        train_online(other)
    (config.out / "state.pt").write_bytes(b"torn")
    with pytest.raises(TrainingError, match=r"state\.pt cannot be read.*Remove it"):
        train_online(config)


def test_a_loss_that_is_no_number_stops_the_training(config, monkeypatch):
    from streamvln_gym.training.online.learner import Learner

    loss = Learner.loss
    monkeypatch.setattr(
        Learner, "loss", lambda self, packed: (loss(self, packed)[0] * float("nan"), loss(self, packed)[1])
    )
    with pytest.raises(TrainingError, match=r"the loss is nan at update \d+: lower the learning rate"):
        train_online(config)
    assert not (config.out / "state.pt").exists(), "broken weights are not saved"


def test_a_killed_worker_is_reported(config, monkeypatch):
    turn = WorkerPool.turn

    def kill(pool, longest=0):
        turn(pool, longest)
        pool._processes[0].kill()

    monkeypatch.setattr(WorkerPool, "turn", kill)
    with pytest.raises(WorkerError, match=r"worker process 0 died.*exit code -9.*run the same command again"):
        train_online(config)


def test_too_few_scenes_to_hold_out(config):
    with pytest.raises(TrainingError, match="has 2 scenes, 2 of which would be held out"):
        train_online(replace(config, held_out=2))


def test_a_kill_between_two_renames_leaves_the_old_checkpoint(config):
    replaced = config.out / ".checkpoint.replaced"
    replaced.mkdir(parents=True)
    (config.out / "config.json").write_text("{}")
    (replaced / "config.json").write_text("{}")
    RunFolder(config, writes=True).open()
    assert (config.out / "checkpoint" / "config.json").read_text() == "{}"
    assert not replaced.exists()


def test_what_others_wrote_is_not_touched(config):
    theirs = config.out / "checkpoint" / "config.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(TrainingError, match=r"checkpoint is there, but no .*config.json that says of which training"):
        train_online(config)
    assert theirs.read_text() == "precious"


def test_two_processes_in_a_folder(config):
    config.out.mkdir(exist_ok=True)
    with only_process(config.out, "training in"), pytest.raises(DatasetError, match="another process is training in"):
        train_online(config)


def script(config, path):
    """The training as a program of its own."""
    path.write_text(
        "import torch\nfrom pathlib import Path\nfrom streamvln_gym.training.online.config import *\n"
        "from streamvln_gym.training.privileged import AuxiliaryConfig\n"
        "from streamvln_gym.training.online.trainer import train_online\nfrom pathlib import PosixPath\n"
        f"if __name__ == '__main__':\n    torch.set_num_threads(1)\n    train_online({config!r})\n"
    )
    return [sys.executable, str(path)]


def kill_and_resume(config, tmp_path, kills, rng):
    """Kills the training at random moments; the count of updates that the last kill left behind."""
    command = script(config, tmp_path / "training.py")
    saved = 0
    for _ in range(kills):
        process = subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + rng.uniform(4.0, 20.0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        state = read_state(config)
        updates = 0 if state is None else state["learner"]["updates"]
        assert updates >= saved, "what was saved is kept"
        saved = updates
        if state is not None:
            StreamVLNAgent.from_pretrained(config.out / "checkpoint")
    return saved


@pytest.mark.long
def test_kills_lose_nothing_that_was_saved(config, tmp_path):
    config = replace(config, optimize=replace(config.optimize, updates=60), save_every=1, evaluate_every=1000)
    kill_and_resume(config, tmp_path, 10, np.random.default_rng(0))
    train_online(config)
    assert read_state(config)["learner"]["updates"] == 60


@pytest.mark.long
def test_a_small_network_learns_its_episodes_by_heart(tiny_flats, tmp_path):
    processor = StreamVLNProcessor.tiny()
    vision, text = processor.config.vision_config, processor.config.text_config
    vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers = 96, 384, 3
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 128, 384, 3
    text.layer_types, text.initializer_range = ["full_attention"] * 3, 128**-0.5
    StreamVLNForConditionalGeneration.from_seed(processor.config, 0).save_pretrained(tmp_path / "network")
    processor.save_pretrained(tmp_path / "network")
    config = OnlineConfig(
        out=tmp_path / "run",
        checkpoint=str(tmp_path / "network"),
        data=str(tiny_flats.episodes_path),
        held_out=0,
        evaluate_every=50,
        device="cpu",
        collect=CollectConfig(workers=1, streams=7, shelf=2, plays=4, short_until=0.0, supersampling=1),
        optimize=OptimizeConfig(
            updates=300, updates_per_turn=2, frames_per_update=128, buffer_frames=2000, warmup=30, ema=0.98
        ),
    )
    torch.set_num_threads(2)
    records = train_online(config)
    assert records[-1]["success"] >= 0.95, [record["success"] for record in records]


# ------------------------------------------------------------------------------------------------------ streams


@pytest.fixture
def stream(tiny_flats):
    env = tiny_flats.make()
    stream = Stream(env.simulator, env.dataset, CollectConfig(rescue_metres=1.0, ignored_stops=2, spare_steps=400))
    stream.begin(env.dataset.episode(env.dataset.episode_ids[0]))
    return stream


def test_the_expert_arrives(stream):
    actions = []
    for _ in range(200):
        executed, labels, over = stream.drive([0, 0, 0, 0], by_expert=True)
        assert executed == labels
        actions += executed
        if over:
            break
    assert actions[-1] == 0 and 0 not in actions[:-1]


def test_a_wrong_stop_is_replaced_by_the_expert_s_action(stream):
    executed, labels, over = stream.drive([0, 0, 0, 0], by_expert=False)
    assert executed == labels and 0 not in executed and not over


def test_labels_are_the_expert_s_in_the_states_visited(stream):
    from streamvln_gym.expert import GeodesicFollower

    before = stream.state
    executed, labels, _ = stream.drive([2, 2, 1, 3], by_expert=False)
    assert executed == [2, 2, 1, 3]
    way, radii = [*stream.episode.via, stream.episode.goals[0].position], CollectConfig()
    follower = GeodesicFollower(stream.simulator, way, radii.stop_radius, radii.via_radius)
    state = before
    for action, label in zip(executed, labels, strict=True):
        assert follower.next_action(state) == label
        state, _ = stream.simulator.try_step(state, action)


def test_a_lost_agent_is_brought_back(stream):
    rng = np.random.default_rng(0)
    rescued = 0
    for _ in range(60):
        wanted = rng.integers(1, 4, 4).tolist()
        executed, labels, over = stream.drive(wanted, by_expert=False)
        if executed == labels and executed != wanted[: len(executed)]:
            rescued += 1
        assert stream.follower.remaining(stream.state) <= stream._least + 1.0 + 4 * 0.25 + 0.1
        if over:
            break
    assert rescued > 0


def test_nobody_brings_back_the_agent_of_a_stream_without_rescue(stream):
    stream.rescued = False
    rng = np.random.default_rng(0)
    lost = False
    for _ in range(60):
        lost |= stream._needs_rescue()
        wanted = rng.integers(1, 4, 4).tolist()
        executed, _, over = stream.drive(wanted, by_expert=False)
        assert executed == wanted[: len(executed)]
        if over:
            break
    assert lost


@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_a_worker_rescues_in_a_share_of_its_streams(share, expected, tiny_flats):
    collect = CollectConfig(rescued_streams=share, shelf=1)
    dataset = tiny_flats.make().dataset
    scenes = tuple({dataset.scene_of(episode_id) for episode_id in dataset.episode_ids})
    spec = StreamsSpec(str(tiny_flats.episodes_path), "train", None, scenes, 0, 24, 112, 8, 4, (0,), collect)
    arrays = StreamArrays(24, 112, 64, 4)
    try:
        assert {stream.rescued for stream in Worker(spec, arrays)._streams} == expected
    finally:
        arrays.close()


def test_an_agent_that_makes_no_headway_is_driven_on(stream):
    begun = stream.follower.remaining(stream.state)
    driven = 0
    for _ in range(40):
        executed, labels, over = stream.drive([2, 3, 2, 3], by_expert=False)
        driven += executed == labels
        if over:
            break
    assert driven > 0
    assert stream.follower.remaining(stream.state) <= begun - 1.0
