"""DAgger from end to end on the tiny flats: rounds, kills in every stage, and clear errors."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

pytest.importorskip("accelerate")

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.cli import main
from streamvln_gym.errors import CheckpointError, DatasetError, SimulatorUnavailableError, TrainingError
from streamvln_gym.evaluation import read_run
from streamvln_gym.expert import expert_for
from streamvln_gym.training import RecordConfig, load_trajectories, policy_recorder, record
from streamvln_gym.training.config import (
    BatchConfig,
    LoraSettings,
    MachineConfig,
    OptimiserConfig,
    ReportConfig,
    TrainRecipe,
)
from streamvln_gym.training.dagger import dagger, episodes_of_round
from streamvln_gym.training.dagger_config import (
    DAggerConfig,
    EvaluateConfig,
    MixingConfig,
    PictureConfig,
    RolloutSettings,
)
from streamvln_gym.training.dagger_table import read_row
from streamvln_gym.training.takeover import KeepConfig, TakeOverConfig
from tests.conftest import copy_of
from tests.training.demonstrations import write_checkpoint, write_demonstrations

RUN = """
import sys
from pathlib import Path
import tests.training.test_dagger as here
if __name__ == "__main__":
    here.run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""
AUXILIARY = {"train": TrainRecipe(auxiliary=(1.0, 1.0))}
ANYWHERE = KeepConfig(None, None)


def configured(data, checkpoint, **settings):
    """Two rounds of four episodes, into the folder `out` of the current directory."""
    rollout = {"data": str(data), "split": "tiny", "episodes": 4, "max_steps": 60, "batch": 2, "workers": 1}
    given = {
        "out": Path("out"),
        "rounds": 2,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "rollout": RolloutSettings(**{**rollout, **settings.pop("rollout", {})}),
        "pictures": PictureConfig(width=32, height=24),
        "mixing": MixingConfig(beta=0.5),
        "train": TrainRecipe(
            max_steps=4,
            batch=BatchConfig(batch_size=2),
            optimiser=OptimiserConfig(learning_rate=2e-3),
            report=ReportConfig(quiet=True, save_every=2),
        ),
        "evaluation": EvaluateConfig(data=str(data), split="tiny", episodes=3, max_steps=20),
    }
    return DAggerConfig(**{**given, **settings})


def run(data, checkpoint, workers=1):
    """The run that is killed, in a process of its own."""
    torch.set_num_threads(1)
    dagger(configured(data, checkpoint, rollout={"workers": workers}))


def contents(folder):
    """All files but evaluations' times and shards; of run.json and training.json what does not tell of the clock."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "shards" and path.name not in ("timings.jsonl", ".lock"):
            data = path.read_bytes()
            if path.name in ("training.json", "run.json"):
                told = json.loads(data)
                data = {key: value for key, value in told.items() if key not in ("loss", "seconds", "created")}
            found[path.relative_to(folder).as_posix()] = data
    return found


@pytest.fixture(scope="module")
def files(tiny_flats, tmp_path_factory):
    """Episodes, and the checkpoint of a network of two layers."""
    torch.set_num_threads(1)
    return tiny_flats.episodes_path, write_checkpoint(tmp_path_factory.mktemp("dagger") / "thin")


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """The folder and the result of an undisturbed run."""
    where = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(where)
    try:
        reports = []
        result = dagger(configured(*files), lambda rows: reports.append(len(rows)))
    finally:
        os.chdir(before)
    assert reports == [2, 3]
    return where / "out", result


# ---------------------------------------------------------------------------------------------------- two rounds


def test_layout_and_table(finished):
    out, result = finished
    assert {path.name for path in out.iterdir()} == {"dagger.json", "first", "round_000", "round_001", "table.json"}
    assert {path.name for path in (out / "first").iterdir()} == {"evaluation", "round.json"}
    for number in range(2):
        folder = out / f"round_{number:03d}"
        assert {path.name for path in folder.iterdir()} == {"data", "training", "evaluation", "round.json"}
        assert {path.name for path in (folder / "training").iterdir()} == {"training.json", "model"}
        assert len(read_run(folder / "evaluation").records) == 3
        assert read_row(folder / "round.json") == result.rows[number + 1]
    assert json.loads((out / "table.json").read_text()) == result.rows
    assert result.model == Path("out/round_001/training/model")
    first, zeroth, last = result.rows
    assert (first["round"], zeroth["round"], last["round"]) == ("first", 0, 1)
    assert (zeroth["beta"], last["beta"]) == (1.0, 0.5)
    assert zeroth["expert_share"] == 1.0 > last["expert_share"] > 0
    assert (zeroth["kept"], zeroth["dropped"], zeroth["take_overs"]) == (4, 0, 0)
    assert last["kept"] + last["dropped"] == last["episodes"] == 4
    assert {row["dataset"] for row in result.rows} == {"tiny"}
    for row in result.rows:
        assert {"success", "spl", "navigation_error", "oracle_success"} < row.keys()
        assert row["evaluated"] == 3
    assert last["policy"] == "out/round_000/training/model"
    assert len(list((out / "round_001" / "data").rglob("*.jpg"))) == last["frames"] > 0


def test_aggregation_and_networks(finished):
    """Each round trains on all data so far, from the last round's network, and plays with it in the next."""
    out, result = finished
    zeroth, last = (json.loads((out / f"round_00{n}" / "training" / "training.json").read_text()) for n in range(2))
    assert [part["folder"] for part in zeroth["data"]] == ["out/round_000/data"]
    assert [part["folder"] for part in last["data"]] == ["out/round_000/data", "out/round_001/data"]
    assert last["config"]["checkpoint"] == "out/round_000/training/model"
    assert last["held_out"][0]["folder"] == "out/round_001/data"
    assert last["eval_loss"] == result.rows[2]["loss"] > 0
    assert result.rows[2]["loss"] < 6, "the loss of the thin network's random weights is above 6"
    played = json.loads((out / "round_001" / "data" / "run.json").read_text())
    assert played["checkpoint"] == "out/round_000/training/model"
    agent = StreamVLNAgent.from_pretrained(out / "round_001" / "training" / "model")
    assert agent.trained


def test_labels_are_the_experts_along_what_was_executed(finished, tiny_flats):
    out, _ = finished
    env = tiny_flats.make()
    differing = 0
    for number in range(2):
        for trajectory in load_trajectories(out / f"round_00{number}" / "data"):
            env.reset(options={"episode_id": str(trajectory.id)})
            expert = expert_for(env.simulator, env.episode)
            assert trajectory.instructions == (env.episode.instruction.text,)
            for label, action in zip(trajectory.actions, trajectory.executed, strict=True):
                assert expert.next_action(env.simulator.state) == label
                env.advance(action)
                differing += label != action
    env.close()
    assert differing > 0


def test_what_an_agent_of_its_own_does(finished, tiny_flats, files):
    """The evaluation's records are those of the ordinary loop with `act`."""
    from streamvln_gym.rollout import play
    from streamvln_gym.simulators.base import CameraConfig

    out, _ = finished
    camera = CameraConfig(32, 24)
    env = tiny_flats.make(camera=camera, sensors=("rgb", "depth", "instruction", "camera_pose"), max_steps=20)
    agent = StreamVLNAgent.from_pretrained(files[1])
    for theirs in read_run(out / "first" / "evaluation").records:
        ours = play(env, agent, theirs["episode_id"])
        ours["needs_memory"] = ours["needs_memory"] or None
        assert {key: theirs[key] for key in ours} == ours
    env.close()


def test_done_is_done(finished, monkeypatch):
    """Without playing, training or loading a network."""
    out, result = finished
    monkeypatch.chdir(out.parent)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.j*")}
    config = configured(*settings_of(out))
    again = dagger(config)
    assert again.rows == result.rows
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {"table.json"}


def test_what_is_recorded_needs_no_policy(finished, tmp_path, monkeypatch):
    """A run that was interrupted after the recording goes on without loading the network that played."""
    out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "round_001" / "round.json").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(policy_recorder, "load_policy", None)
    dagger(configured(*settings_of(out)))
    equal(tmp_path / "out", finished)


def settings_of(out):
    told = json.loads((out / "dagger.json").read_text())
    return told["rollout.data"], told["checkpoint"]


def test_rounds_can_be_added(finished, tmp_path, monkeypatch):
    out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "round_001")
    monkeypatch.chdir(tmp_path)
    config = configured(*settings_of(out))
    assert len(dagger(replace(config, rounds=1)).rows) == 2
    dagger(config)
    equal(tmp_path / "out", finished)


@pytest.mark.long
def test_another_number_of_workers_changes_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dagger(configured(*settings_of(finished[0]), rollout={"workers": 2}))
    equal(tmp_path / "out", finished)


def test_with_demonstrations_from_the_first_network(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(RecordConfig(Path("expert"), str(files[0]), "tiny", scenes=1, per_scene=1, width=32, height=24, workers=1))
    config = configured(
        files[0],
        None,
        rounds=1,
        demonstrations=("expert=2",),
        round_weight=1.0,
        start_from="first",
        evaluate_first=False,
        mixing=MixingConfig(beta=0.0),
        take_over=TakeOverConfig(differing_steps=None, waypoint_share=None, stop_distance=None),
        rollout={"episodes": 1, "max_steps": 8},
        train=TrainRecipe(max_steps=1, batch=BatchConfig(batch_size=1), report=ReportConfig(quiet=True)),
        evaluation=EvaluateConfig(data=str(files[0]), split="tiny", episodes=1, max_steps=4),
    )
    result = dagger(config)
    (row,) = result.rows
    assert (row["kept"], row["dropped"], row["loss"], row["expert_share"]) == (0, 1, None, 0.0)
    training = json.loads((tmp_path / "out" / "round_000" / "training" / "training.json").read_text())
    assert [(part["folder"], part["weight"]) for part in training["data"]] == [("expert", 2.0)]
    assert training["config"]["checkpoint"] == "out/first/model"


@pytest.mark.long
def test_it_helps(files, tiny_flats, tmp_path, monkeypatch):
    """Round 0 shows the expert's way only, as the untrained policy stops at once; round 1 what lies beside it."""
    flats = copy_of(tiny_flats, tmp_path, *(tiny_flats.dataset.episode(name) for name in ("10", "20")))
    monkeypatch.chdir(tmp_path)
    config = configured(
        flats.episodes_path,
        files[1],
        keep=KeepConfig(None, None),
        mixing=MixingConfig(),
        pictures=PictureConfig(width=64, height=48),
        rollout={"split": "x", "episodes": 0},
        train=TrainRecipe(
            max_steps=150,
            batch=BatchConfig(batch_size=4),
            optimiser=OptimiserConfig(learning_rate=5e-3),
            report=ReportConfig(quiet=True),
        ),
        evaluation=EvaluateConfig(data=str(flats.episodes_path), split="x", episodes=0, max_steps=60),
    )
    first, cloned, helped = dagger(config).rows
    assert cloned["expert_share"] > 0.9 > 0.5 > helped["expert_share"]
    assert first["success"] <= cloned["success"] < helped["success"]
    assert helped["navigation_error"] < cloned["navigation_error"] < first["navigation_error"]


def test_rounds_take_turns_with_the_episodes(tiny_flats):
    dataset = tiny_flats.dataset
    rounds = [episodes_of_round(dataset, 3, number, seed=1) for number in range(7)]
    assert all(len(set(chosen)) == 3 for chosen in rounds)
    played = [episode_id for chosen in rounds for episode_id in chosen]
    assert {played.count(episode_id) for episode_id in dataset.episode_ids} == {3}
    assert sorted(episodes_of_round(dataset, 0, 5, 1)) == sorted(dataset.episode_ids)
    assert episodes_of_round(dataset, 3, 0, seed=2) != rounds[0]


# --------------------------------------------------------------------------------------------------------- kills


def equal(out, finished):
    """Fails where a run's files are not those of the undisturbed one."""
    ours, theirs = contents(out), contents(finished[0])
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def fork(files):
    """Starts the run in a forked process, which saves the imports."""
    child = os.fork()
    if child:
        return child
    try:
        tqdm.set_lock(threading.RLock())  # tqdm's own is shared with this process, and would die locked
        run(*files)
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_in_every_stage(files, finished, tmp_path, monkeypatch):
    """While the first policy is evaluated, while episodes are recorded, while the network is trained, and after it."""
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    second = out / "round_001"
    moments = [
        lambda: (out / "first" / "evaluation" / "run.json").exists(),
        lambda: len(list((second / "data" / "episodes").glob("*.json"))) >= 2,
        lambda: any((second / "training").glob("checkpoint-2/whole")),
        lambda: any((second / "evaluation" / "shards").glob("*.jsonl")),
    ]
    for number, moment in enumerate(moments):
        child = fork(files)
        while not moment():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run must not end before it is killed"
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert number == 0 or (out / "round_000" / "round.json").exists()
        assert not (second / "round.json").exists()
    dagger(configured(*files))
    equal(out, finished)


def start(files, where, workers):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(files[0]), str(files[1]), str(workers)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=where, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


@pytest.mark.long
@pytest.mark.parametrize(("seed", "workers"), [(0, 1), (1, 2)])
def test_killed_at_random_moments(files, finished, tmp_path, monkeypatch, seed, workers):
    """Ten times, each when there are so many files and a moment later; then it goes on undisturbed."""
    rng = random.Random(seed)
    out = tmp_path / "out"
    kills = 0
    for moment in sorted(rng.sample(range(1, len(contents(finished[0])) - 2), 10)):
        process = start(files, tmp_path, workers)
        while process.poll() is None and sum(len(names) for _, _, names in os.walk(out)) < moment:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.5))
        kills += process.poll() is None
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while lives(process.pid):
            assert time.monotonic() < deadline, "workers outlive the process that started them"
            time.sleep(0.01)
    assert kills >= 8
    monkeypatch.chdir(tmp_path)
    dagger(configured(*files))
    equal(out, finished)


def lives(group):
    """Whether a process group has a process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"start_from": "scratch"}, "from the 'previous' network or the 'first', not 'scratch'"),
        ({"round_weight": 1.0}, "and there are none"),
        ({"round_weight": -1.0, "demonstrations": ("x=1",)}, "round_weight must be positive, got -1"),
        ({"train": TrainRecipe(method="lora", lora=LoraSettings(merge=False))}, "leave lora.merge on"),
        ({"train": TrainRecipe(auxiliary=(1.0, 1.0))}, "--pictures.privileged True"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rollout": {"workers": 0}}, "workers must be at least 1"),
        ({"rollout": {"batch": 0}}, "batch must be at least 1, got 0"),
        ({"rollout": {"episodes": -1}}, "episodes must be at least 0, got -1"),
        ({"pictures": PictureConfig(width=0)}, "width must be a positive integer"),
    ],
)
def test_nonsense_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        configured("x", None, **settings)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"demonstrations": ("nowhere",)}, DatasetError, r"nowhere/annotations\.json cannot be read"),
        ({"demonstrations": ("nowhere=2",)}, ValueError, "set round_weight"),
        ({"demonstrations": ("nowhere",), "round_weight": 1.0}, ValueError, "need weights too: FOLDER=WEIGHT"),
        ({"checkpoint": "no/where/at/all"}, CheckpointError, "there is no folder no/where/at/all"),
        ({"rollout": {"data": "nothing"}}, DatasetError, "unknown dataset 'nothing'"),
        ({"rollout": {"device": "foo"}}, ValueError, "no device 'foo' here"),
        ({"rollout": {"simulator": "unity"}}, SimulatorUnavailableError, "unknown simulator 'unity'"),
        ({"train": TrainRecipe(method="qlora")}, TrainingError, "'qlora' needs bitsandbytes: pip install"),
        ({"train": TrainRecipe(machine=MachineConfig(attention="no such"))}, TrainingError, "attention no such cannot"),
        ({"train": TrainRecipe(report=ReportConfig(report_to=("foo",)))}, TrainingError, "report_to foo is no integ"),
        ({"pictures": PictureConfig(privileged=True, patches=5), **AUXILIARY}, ValueError, "set pictures.patches=8"),
        ({"evaluation": EvaluateConfig()}, ValueError, "evaluated on the episodes it is trained on"),
        ({"evaluation": EvaluateConfig(data="absent.json.gz")}, DatasetError, r"absent\.json\.gz"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(files, tmp_path, monkeypatch, settings, kind, message):
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a))
    with pytest.raises(kind, match=message):
        dagger(configured(files[0], **{"checkpoint": files[1], **settings}))
    assert list(tmp_path.iterdir()) == []


def test_what_the_rounds_do_not_record_is_said_at_once(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    voxel = write_checkpoint(tmp_path / "voxel", memory_strategy="voxel")
    with pytest.raises(ValueError, match=r"'voxel' needs depth, .*pictures\.depth"):
        dagger(configured(files[0], voxel))
    bare = write_demonstrations(tmp_path / "bare")
    pictures = PictureConfig(width=32, height=24, privileged=True)
    with pytest.raises(DatasetError, match=r"there are no auxiliary targets .*privileged\.npz"):
        dagger(configured(*files, pictures=pictures, demonstrations=(str(bare),), **AUXILIARY))
    assert not Path("out").exists()


def test_another_run_in_the_same_folder(finished, monkeypatch):
    out, _ = finished
    monkeypatch.chdir(out.parent)
    before = contents(out)
    config = configured(*settings_of(out))
    other = replace(config, seed=3, mixing=MixingConfig(beta=0.7), keep=ANYWHERE)
    with pytest.raises(
        TrainingError, match=r"seed was 0 and is now 3; mixing\.beta was 0\.5 and is now 0\.7; keep\.dis"
    ):
        dagger(other)
    assert contents(out) == before


def test_a_folder_of_something_else(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "round_000").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"round_000 is there, but no out/dagger\.json that says of which run"):
        dagger(configured(*files))
    (tmp_path / "out" / "dagger.json").write_text("[")
    with pytest.raises(TrainingError, match=r"dagger\.json cannot be read"):
        dagger(configured(*files))
    shutil.rmtree("out")
    Path("out").write_text("a file")
    with pytest.raises(DatasetError, match="cannot record into out: give a folder"):
        dagger(configured(*files))


def test_two_processes_in_one_folder(finished, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    out, _ = finished
    monkeypatch.chdir(out.parent)
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(DatasetError, match="another process is running DAgger in out"):
            dagger(configured(*settings_of(out)))
    finally:
        os.close(handle)


def test_nothing_kept_and_no_demonstrations(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured(
        *files,
        evaluate_first=False,
        keep=KeepConfig(0.0),
        mixing=MixingConfig(),
        rollout={"episodes": 2, "max_steps": 4},
    )
    with pytest.raises(
        TrainingError, match=r"no episode of out/round_000/data was kept .* looser `keep`, a larger beta"
    ):
        dagger(config)


def test_under_a_launcher(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="start it without a launcher"):
        dagger(configured(*files))


def test_a_damaged_row(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "round_001" / "round.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"round\.json cannot be read .*: remove it"):
        dagger(configured(*settings_of(finished[0])))


def test_the_command(finished, tmp_path, monkeypatch, capsys):
    """The same settings on the command line: the finished run is found, and its table printed."""
    out, result = finished
    monkeypatch.chdir(out.parent)
    monkeypatch.setenv("COLUMNS", "120")
    data, checkpoint = settings_of(out)
    main(
        f"dagger --out out --rounds 2 --checkpoint {checkpoint} --rollout.data {data} --rollout.split tiny "
        "--rollout.episodes 4 --rollout.max-steps 60 --rollout.batch 2 --rollout.workers 1 --pictures.width 32 "
        "--pictures.height 24 --mixing.beta 0.5 --train.max-steps 4 --batch-size 2 --learning-rate 2e-3 --quiet True "
        f"--save-every 2 --evaluation.data {data} --evaluation.split tiny --evaluation.episodes 3 "
        "--evaluation.max-steps 20".split()
    )
    printed = capsys.readouterr().out
    assert "DAgger, evaluated on tiny/tiny (3 episodes), simulator embedded" in printed
    assert f"{result.rows[2]['loss']:.4f}" in printed
    assert "rollout --agent streamvln --checkpoint out/round_001/training/model" in printed
    with pytest.raises(SystemExit, match=r"streamvln-gym: out holds a DAgger run with other settings: .*seed was 0"):
        main(f"dagger --out out --checkpoint {checkpoint} --rollout.data {data} --rollout.split tiny "
             f"--evaluation.data {data} --evaluation.split tiny --seed 4".split())  # fmt: skip
