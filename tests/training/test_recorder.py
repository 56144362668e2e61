"""Recording episodes: the same bytes whatever the workers and the kills, and clear errors."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.cli import main
from streamvln_gym.episodes import Goal, Instruction
from streamvln_gym.errors import CheckpointError, DatasetError, SceneError, SimulatorUnavailableError
from streamvln_gym.expert import demonstrate, expert_for
from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.training import RecordConfig, StreamVLNWindows, WindowConfig, load_trajectories, record
from streamvln_gym.training.geometry import history_points
from streamvln_gym.training.privileged import Privileged
from streamvln_gym.training.recorder import RUN
from streamvln_gym.vlnce import VLNCEDataset, write_dataset
from tests.conftest import copy_of, tiny_episode, tiny_episodes, write_scene
from tests.miniatures import write_rxr

SMALL = {"split": "tiny", "width": 64, "height": 48, "max_steps": 120}
START = """
import json, sys
from pathlib import Path
from streamvln_gym.training.recorder import RecordConfig, record
if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    record(RecordConfig(**{**settings, "out": Path(settings["out"])}))
"""
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def three_flats(tmp_path_factory):
    """The path of an episode file of three scenes, eleven episodes on eight paths."""
    root = tmp_path_factory.mktemp("three")
    scenes = [write_scene(root / "scene_datasets", f"tiny_{name}", 30 * i) for i, name in enumerate("abc")]
    more = [
        tiny_episode(60, scenes[2], [(1.0, 3.0), (4.1, 2.0), (7.0, 2.0)], "Walk into the kitchen."),
        tiny_episode(61, scenes[2], [(1.0, 3.0), (4.1, 2.0), (7.0, 2.0)], "Go through the door and stop."),
        tiny_episode(70, scenes[2], [(7.5, 1.0), (4.1, 2.0), (2.0, 3.4)], "Leave the kitchen."),
        tiny_episode(80, scenes[2], [(0.6, 2.0), (3.0, 3.4)], "Turn around."),
    ]
    path = root / "datasets" / "tiny" / "tiny.json.gz"
    write_dataset(path, [*tiny_episodes(*scenes[:2]), *more])
    return path


@pytest.fixture(scope="module")
def recorded(three_flats, tmp_path_factory):
    """The expert's recording with all extras, by one process, and its configuration."""
    config = configured(three_flats, tmp_path_factory.mktemp("recorded") / "out")
    record(config)
    return config


def configured(data, out, **settings):
    return RecordConfig(**{"out": out, "data": str(data), **SMALL, "depth": True, "privileged": True, **settings})


def test_only_some_languages(tiny_flats, tmp_path):
    """Another choice is another recording."""
    write_rxr(tmp_path, tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    settings = {**SMALL, "split": "val_unseen", "data_dir": tmp_path, "workers": 1}
    config = RecordConfig(tmp_path / "out", "rxr", **settings, languages=("en",))
    assert record(config).instructions == 2
    told = [text for trajectory in load_trajectories(config.out) for text in trajectory.instructions]
    assert told == ["Stop in the kitchen."] * 2
    with pytest.raises(DatasetError, match=r"languages=\['en'\], but this one has None"):
        record(replace(config, languages=()))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(config, **options):
    settings = {**asdict(config), "out": str(config.out), "data_dir": str(config.data_dir)}
    return subprocess.Popen(
        [sys.executable, "-c", START, json.dumps(settings)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def children(pid):
    """The running worker processes of a recording."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return [child for child in found if "spawn_main" in command_of(child)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for_files(process, folder, count):
    """Waits until the folder holds so many files, or the process has ended; returns whether it still runs."""
    while process.poll() is None:
        if sum(len(names) for _, _, names in os.walk(folder)) >= count:
            return True
        time.sleep(0.002)
    return False


# ------------------------------------------------------------------------------------------- what is recorded


def test_a_path_is_recorded_once_with_all_its_instructions(recorded):
    dataset = VLNCEDataset.load(Path(recorded.data), Path(recorded.data).parents[2] / "scene_datasets")
    trajectories = {trajectory.id: trajectory for trajectory in load_trajectories(recorded.out)}
    assert sorted(trajectories) == [10, 20, 30, 40, 50, 60, 70, 80]
    for shared in ((10, 11), (50, 51), (60, 61)):
        texts = tuple(dataset.episode(str(number)).instruction.text for number in shared)
        assert trajectories[shared[0]].instructions == texts
    video = trajectories[10].folder
    assert video == recorded.out / "images" / "tiny_a_tiny_000010"
    for trajectory in trajectories.values():
        trajectory.verify()


def test_pictures_are_what_an_agent_sees_on_the_experts_way(recorded, tiny_flats):
    """Also depth, cameras and targets, at every step."""
    env = tiny_flats.make(sensors=("rgb", "depth", "camera_pose", "semantic"))
    trajectory = next(t for t in load_trajectories(recorded.out) if t.id == 30)
    observation, _ = env.reset(options={"episode_id": "30"})
    shown = demonstrate(env.simulator, env.simulator.state, expert_for(env.simulator, env.episode))
    assert trajectory.actions == shown.actions
    cameras = json.loads((trajectory.folder / "camera.json").read_text())
    np.testing.assert_allclose(cameras["intrinsics"], env.camera.intrinsics)
    privileged = Privileged.load(trajectory.folder / "privileged.npz")
    assert privileged.patch_class.shape == (len(shown.actions), 64)
    for step, action in enumerate(shown.actions):
        assert np.abs(trajectory.picture(step).astype(int) - observation["rgb"]).mean() < 3
        with Image.open(trajectory.folder / "depth" / f"{step:03d}.png") as image:
            np.testing.assert_allclose(np.array(image) / 1000, observation["depth"][..., 0], atol=6e-4)
        np.testing.assert_array_equal(np.float32(cameras["poses"][step]), observation["camera_pose"])
        observation = env.step(action)[0]
    assert privileged.pose[0, 2] * 10 > 12, "the way there and back"
    assert privileged.pose[-1, 2] * 10 <= 0.25
    assert np.all(np.diff(privileged.pose[:, 2]) < 0.03), "the way never gets longer by much"
    np.testing.assert_allclose(privileged.pose[0, 3:], 0, atol=1e-6)
    assert len(history_points(trajectory, [0, 4], StreamVLNProcessor.tiny().config)) == 2
    env.close()


def test_windows_equal_those_of_a_folder_made_by_hand(recorded, tiny_flats, tmp_path):
    """The published format, written without the package's writer: the same windows come out."""
    env = tiny_flats.make(sensors=("rgb",))
    observation, _ = env.reset(options={"episode_id": "30"})
    actions = demonstrate(env.simulator, env.simulator.state, expert_for(env.simulator, env.episode)).actions
    (tmp_path / "images" / "x" / "rgb").mkdir(parents=True)
    for step, action in enumerate(actions):
        path = tmp_path / "images" / "x" / "rgb" / f"{step:03d}.jpg"
        Image.fromarray(observation["rgb"]).save(path, quality=90, subsampling=0)
        observation = env.step(action)[0]
    entry = {"id": 30, "video": "images/x", "instructions": [env.episode.instruction.text]}
    entry["actions"] = [-1, *actions[:-1]]
    (tmp_path / "annotations.json").write_text(json.dumps([entry]))
    env.close()

    processor = StreamVLNProcessor.tiny()
    config = WindowConfig(conjunctions=("there is ",), published_label_mask=True)
    by_hand, ours = (StreamVLNWindows(folder, processor, config) for folder in (tmp_path, recorded.out))
    numbers = [i for i, window in enumerate(ours.windows) if ours.trajectories[window.trajectory].id == 30]
    assert len(numbers) == len(by_hand) == -(-len(actions) // 32) > 1
    for theirs, number in enumerate(numbers):
        sample, expected = ours[number], by_hand[theirs]
        assert sample.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(sample[key], value)


def test_another_driver_is_recorded_with_the_experts_actions(three_flats, tmp_path):
    config = configured(three_flats, tmp_path / "out", driver="random", seed=3, max_steps=60, workers=1)
    summary = record(config)
    assert (summary.trajectories, summary.instructions, summary.skipped) == (11, 11, 0)
    trajectories = load_trajectories(config.out, check_pictures=True)
    dataset = VLNCEDataset.load(three_flats, three_flats.parents[2] / "scene_datasets")
    from streamvln_gym.env import VLNEnv

    env = VLNEnv(dataset=dataset, sensors=("instruction",), camera=CameraConfig(64, 48))
    ends = set()
    for trajectory in trajectories:
        env.reset(options={"episode_id": str(trajectory.id)})
        expert = expert_for(env.simulator, env.episode, lenient=True)
        for label, action in zip(trajectory.actions, trajectory.executed, strict=True):
            assert expert.next_action(env.simulator.state) == label
            env.advance(action)
        ends.add(trajectory.executed[-1] == 0)
        assert trajectory.executed[-1] == 0 or len(trajectory) == 60
    env.close()
    assert ends == {True, False}, "some stopped, some were cut off"

    processor = StreamVLNProcessor.tiny()
    windows = StreamVLNWindows(config.out, processor)
    names = {token: action for action, token in enumerate(processor.action_ids)}
    longest = max(range(len(trajectories)), key=lambda k: len(trajectories[k]))
    told = [windows.encode(i)[2] for i, window in enumerate(windows.windows) if window.trajectory == longest]
    learned = [names[label] for window in told for label in window.labels if label in names]
    labels, driven = trajectories[longest].actions, trajectories[longest].executed
    # Of each answer, up to the first action that was not the expert's.
    known = [k for k in range(len(labels)) if labels[k // 4 * 4 : k] == driven[k // 4 * 4 : k]]
    assert 0 < len(known) < len(labels)
    assert learned == [labels[k] for k in known]
    executed = [
        names[token]
        for window in told
        for token, label in zip(window.input_ids, window.labels, strict=True)
        if token in names and label != IGNORE_LABEL
    ]
    assert executed == [driven[k] for k in known]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_streamvln_as_driver(three_flats, tmp_path, workers):
    """What it does in a scene depends on nothing before, and not on the number of workers."""
    config = configured(three_flats, tmp_path / "a", driver="streamvln", max_steps=9, scenes=1, per_scene=2, workers=1)
    assert record(config).trajectories == 2
    again = replace(config, out=tmp_path / "b", workers=workers, scenes=2)
    assert record(again).trajectories == 4
    first = contents(config.out)
    assert first["run.json"] == contents(again.out)["run.json"]
    videos = {name: data for name, data in first.items() if name.startswith("images")}
    assert videos.items() <= contents(again.out).items()


def test_a_driver_is_known_by_its_weights_not_by_its_folder(three_flats, tmp_path):
    """Two policies' trajectories are not mixed, where a training has written the same folder anew."""
    StreamVLNAgent.untrained(0).save_pretrained(tmp_path / "model")
    settings = {"driver": "streamvln", "max_steps": 5, "per_scene": 1, "workers": 1, "device": "cpu"}
    config = configured(three_flats, tmp_path / "out", checkpoint=str(tmp_path / "model"), scenes=1, **settings)
    assert record(config).trajectories == 1
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    assert record(replace(config, checkpoint=str(tmp_path / "elsewhere"), scenes=2)).trajectories == 2
    StreamVLNAgent.untrained(1).save_pretrained(tmp_path / "model")
    before = contents(config.out)
    with pytest.raises(DatasetError, match=r"checkpoint_sha256='\w+', but this one has '\w+': .*give another --out"):
        record(replace(config, scenes=3))
    assert contents(config.out) == before


def test_small_pictures_show_the_whole_view():
    view = CameraConfig()
    small = RecordConfig(Path("x"), width=112, height=112, supersampling=2).camera
    assert (small.width, small.height, small.supersampling, small.hfov) == (112, 112, 2, view.hfov)
    np.testing.assert_allclose(small.height / small.focal_lengths[1], view.height / view.focal_lengths[1])
    assert RecordConfig(Path("x")).camera == view
    assert RecordConfig(Path("x"), width=320, height=240).camera.vfov is None


def test_what_the_expert_cannot_reach_is_skipped(tiny_flats, tmp_path):
    good = tiny_flats.dataset.episode("10")
    island = replace(good, episode_id="90", trajectory_id="9", goals=(Goal((9.4, 0.2, 1.0)),))
    flats = copy_of(tiny_flats, tmp_path, good, island)
    config = configured(flats.episodes_path, tmp_path / "out", workers=1)
    for _ in range(2):
        summary = record(config)
        assert (summary.trajectories, summary.skipped) == (1, 1)
    assert "cannot reach" in json.loads((config.out / "episodes" / "tiny_a_x_000090.json").read_text())["skipped"]
    short = record(replace(config, out=tmp_path / "short", max_steps=3))
    assert (short.trajectories, short.skipped) == (0, 2)


@pytest.mark.parametrize("driver", ["expert", "forward"])
def test_empty_instructions_are_left_out(tiny_flats, tmp_path, driver):
    good = tiny_flats.dataset.episode("10")
    blank = replace(good, episode_id="11", instruction=Instruction(" "))
    alone = replace(tiny_flats.dataset.episode("20"), instruction=Instruction(""))
    flats = copy_of(tiny_flats, tmp_path, good, blank, alone)
    config = configured(flats.episodes_path, tmp_path / "out", driver=driver, workers=1)
    summary = record(config)
    assert (summary.trajectories, summary.instructions) == (1, 1)
    (trajectory,) = load_trajectories(config.out)
    assert trajectory.instructions == (good.instruction.text,)
    assert "instruction is empty" in (config.out / "episodes" / "tiny_a_x_000020.json").read_text()


# ------------------------------------------------------------------------------------- workers, kills, resuming


def test_three_workers_write_the_bytes_of_one(recorded, tmp_path):
    config = replace(recorded, out=tmp_path / "out", workers=3)
    assert record(config).trajectories == 8
    assert contents(config.out) == contents(recorded.out)


def test_more_of_the_same_goes_on(recorded, tmp_path):
    config = replace(recorded, out=tmp_path / "out", workers=1)
    assert record(replace(config, scenes=1)).trajectories == 3
    assert record(replace(config, per_scene=2)).trajectories == 7
    before = (config.out / "images" / "tiny_a_tiny_000010" / "rgb" / "000.jpg").stat().st_mtime_ns
    assert record(config).trajectories == 8
    assert (config.out / "images" / "tiny_a_tiny_000010" / "rgb" / "000.jpg").stat().st_mtime_ns == before
    assert contents(config.out) == contents(recorded.out)


def test_pictures_that_got_lost_are_recorded_again(recorded, tmp_path):
    config = replace(recorded, out=tmp_path / "out", workers=1)
    shutil.copytree(recorded.out, config.out)
    (config.out / "images" / "tiny_b_tiny_000040" / "rgb" / "002.jpg").unlink()
    (config.out / "episodes" / "tiny_a_tiny_000020.json").unlink()
    (config.out / "annotations.json").unlink()
    record(config)
    assert contents(config.out) == contents(recorded.out)


def kill_and_resume(recorded, out, kills, workers, seed):
    """Kills a recording (or, every other time, one of its workers) at random moments, and ends it undisturbed."""
    rng = random.Random(seed)
    config = replace(recorded, out=out, workers=workers)
    total = len(contents(recorded.out))
    moments = sorted(rng.sample(range(2, total - 4), kills))
    done = 0
    for number, moment in enumerate(moments):
        process = start(config)
        if wait_for_files(process, out, moment):
            time.sleep(rng.uniform(0, 0.01))
            workers_alive = children(process.pid)
            if number % 2 and workers_alive:
                os.kill(rng.choice(workers_alive), signal.SIGKILL)
                process.wait(60)
            else:
                process.kill()
                process.wait(60)
                deadline = time.monotonic() + 10
                while any("spawn_main" in command_of(child) for child in workers_alive):
                    assert time.monotonic() < deadline, "workers outlive the process that started them"
                    time.sleep(0.01)
            done += process.returncode != 0
        process.communicate()
    record(config)
    assert contents(out) == contents(recorded.out)
    return done


def test_killed_and_resumed(recorded, tmp_path):
    assert kill_and_resume(recorded, tmp_path / "out", kills=2, workers=1, seed=0) == 2


@NEEDS_PROC
@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_killed_many_times_and_resumed(recorded, tmp_path, seed):
    assert kill_and_resume(recorded, tmp_path / "out", kills=10, workers=3, seed=seed) >= 8


@NEEDS_PROC
def test_a_killed_worker_is_said_and_what_is_finished_is_kept(recorded, tmp_path):
    config = replace(recorded, out=tmp_path / "out", workers=2)
    process = start(config)
    assert wait_for_files(process, config.out, 150)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"was killed (out of memory?). The finished episodes are kept: run the same command again" in errors
    finished = load_trajectories(config.out)
    assert 0 < len(finished) < 8
    assert not list(config.out.glob(".*"))
    record(config)
    assert contents(config.out) == contents(recorded.out)


# ---------------------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": "nobody"}, "unknown driver 'nobody': use expert, streamvln, random, forward"),
        ({"checkpoint": "x"}, "a checkpoint is for the driver 'streamvln', not for 'expert'"),
        ({"quality": 101}, "quality must be at most 100"),
        ({"quality": 0}, "quality must be at least 1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"waypoint_radius": 0.0}, "waypoint_radius must be at least"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"width": 0}, "width must be a positive integer"),
        (
            {"privileged": True, "simulator": "habitat"},
            "embedded simulator, not from simulator='habitat'",
        ),
    ],
)
def test_nonsense_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        RecordConfig(Path("x"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": "random"}, "a recording with driver='expert', but this one has 'random'"),
        ({"max_steps": 77}, "max_steps=120, but this one has 77"),
        ({"width": 32, "height": 24}, r"with camera\.width=64, camera\.height=48, but this one has 32, 24: repeat"),
        ({"quality": 80}, "quality=90"),
        ({"depth": False}, "depth=True, but this one has False"),
        ({"privileged": False}, "privileged=8, but this one has 0"),
        ({"waypoint_radius": 1.0}, "waypoint_radius=0.5"),
        ({"along_reference": False}, "along_reference=True"),
    ],
)
def test_the_folder_of_another_run_is_refused(recorded, settings, message):
    before = contents(recorded.out)
    with pytest.raises(DatasetError, match=message) as caught:
        record(replace(recorded, **settings))
    assert "give another --out" in str(caught.value)
    assert contents(recorded.out) == before


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"device": "foo"}, ValueError, "there is no device 'foo' here"),
        ({"checkpoint": "/nonexist/x"}, CheckpointError, "there is no folder /nonexist/x"),
        ({"simulator": "unity"}, SimulatorUnavailableError, "unknown simulator 'unity'"),
    ],
)
def test_device_and_checkpoint_are_looked_for_before_anything_is_written(tmp_path, settings, kind, message):
    with pytest.raises(kind, match=message):
        record(RecordConfig(tmp_path / "out", driver="streamvln", **settings))
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_dataset_is_refused(recorded, tiny_flats):
    other = copy_of(tiny_flats, recorded.out.parent / "other")
    with pytest.raises(DatasetError, match="dataset='tiny', but this one has 'x'"):
        record(replace(recorded, data=str(other.episodes_path)))


def test_trajectories_of_unknown_origin_are_left_alone(recorded, tmp_path):
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(DatasetError, match=rf"holds trajectories, but no {RUN}"):
        record(replace(recorded, out=tmp_path))
    (tmp_path / RUN).write_text("{")
    with pytest.raises(DatasetError, match=rf"{RUN} cannot be read"):
        record(replace(recorded, out=tmp_path))


def test_two_recordings_in_one_folder(recorded):
    fcntl = pytest.importorskip("fcntl")
    handle = os.open(recorded.out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(DatasetError, match="another process is recording into"):
            record(recorded)
    finally:
        os.close(handle)


def test_a_folder_that_cannot_be_made(recorded, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=r"cannot record into .*file/out: give a folder"):
        record(replace(recorded, out=tmp_path / "file" / "out"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk(recorded, tmp_path, workers):
    """Files may not grow beyond 6,000 bytes, which some pictures exceed: writing fails as on a full disk."""
    resource = pytest.importorskip("resource")
    config = replace(recorded, out=tmp_path / "out", workers=workers, width=320, height=240, quality=100, per_scene=1)
    process = start(config, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b".jpg: File too large. Make room there" in errors
    assert not list(config.out.rglob("*.jpg"))
    assert json.loads((config.out / "annotations.json").read_text()) == []
    assert record(replace(config, workers=1)).trajectories == 3
    for trajectory in load_trajectories(config.out):
        trajectory.verify()


def test_a_workers_error_is_told_as_it_is(three_flats, recorded, tmp_path):
    root = shutil.copytree(three_flats.parents[2], tmp_path / "data")
    scene = next(root.rglob("tiny_b.glb"))
    content = scene.read_bytes()
    scene.unlink()
    config = configured(root / three_flats.relative_to(three_flats.parents[2]), tmp_path / "out", workers=2)
    with pytest.raises(SceneError, match=r"tiny_b\.glb"):
        record(config)
    scene.write_bytes(content)
    record(replace(config, workers=1))
    assert contents(config.out) == contents(recorded.out)


@pytest.mark.long
def test_workers_without_their_checkpoint(three_flats, tmp_path):
    missing = str(tmp_path / "no_checkpoint")
    config = configured(three_flats, tmp_path / "out", driver="streamvln", checkpoint=missing, workers=2, scenes=2)
    with pytest.raises(CheckpointError, match=r"no_checkpoint"):
        record(config)


def test_a_split_without_goals(tiny_flats, tmp_path):
    episode = replace(tiny_flats.dataset.episode("10"), goals=(), reference_path=(), gt_locations=None, gt_actions=None)
    flats = copy_of(tiny_flats, tmp_path, replace(episode, info={}))
    with pytest.raises(DatasetError, match="has no goal, so there is nothing an expert could show"):
        record(configured(flats.episodes_path, tmp_path / "out"))


def test_the_command(three_flats, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["record", "--out", str(out), "--data", str(three_flats), "--split", "tiny", "--workers", "1"]
    main([*arguments, "--width", "64", "--height", "48", "--scenes", "1"])
    assert f"3 trajectories with 4 instructions and 138 pictures are in {out}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"streamvln-gym: .*give another --out"):
        main(arguments)
