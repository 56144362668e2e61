"""Streams show the same, whether the workers draw or somebody else does from where they say the streams stand."""

import numpy as np
import pytest
import torch

from streamvln_gym.errors import TrainingError
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.gpu_renderer import GpuRenderer, Views
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.training.online.config import CollectConfig, OnlineConfig, OptimizeConfig, ReinforceConfig
from streamvln_gym.training.online.pictures import PicturesOfWorkers, PicturesOnGpu
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.trainer import train_online
from streamvln_gym.training.online.worker import StreamsSpec, Worker

STREAMS = 6
CPU = torch.device("cpu")
CAMERA = CameraConfig.of_size(112, 112, 1)


class CpuRenderer:
    """Draws as `GpuRenderer` does, with `Renderer`."""

    camera, device = CAMERA, CPU

    def __init__(self):
        self.scenes, self.added = {}, []

    def add(self, key, mesh, class_ids):
        self.scenes[key] = Renderer(mesh), class_ids
        self.added.append(key)

    def keep(self, keys):
        self.scenes = {key: scene for key, scene in self.scenes.items() if key in set(keys)}

    def __contains__(self, key):
        return key in self.scenes

    def render(self, keys, positions, yaws):
        views = []
        for key, position, yaw in zip(keys, positions, yaws, strict=True):
            renderer, class_ids = self.scenes[key]
            drawn = renderer.render(position, yaw, CAMERA, ("rgb", "depth", "instance"))
            views.append((drawn["rgb"], drawn["depth"][..., 0], class_ids[drawn["instance"][..., 0]]))
        return Views(*(torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True)))


def play(tiny_flats, draws, turns, renderer=None):
    """What streams show, turn by turn, some of them free and in the mirror; and the renderer where there is one."""
    renderer = renderer or CpuRenderer()
    dataset = tiny_flats.dataset
    scenes = tuple(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    collect = CollectConfig(shelf=2, plays=1, supersampling=1, spare_steps=5, drawn_by="workers" if draws else "gpu")
    data = str(tiny_flats.episodes_path)
    spec = StreamsSpec(data, "train", None, scenes, 0, STREAMS, 112, 8, 4, (0,), collect, 4, 0.5)
    arrays = StreamArrays(STREAMS, 112, 64, 4)
    source = PicturesOfWorkers(arrays, CPU) if draws else PicturesOnGpu(arrays, renderer, 8)
    worker, rng, found = Worker(spec, arrays), np.random.default_rng(0), []
    worker.train(10**6)
    for _ in range(turns):
        scenes_entered = worker.hand_over()
        assert not (draws and scenes_entered)
        source.enter(scenes_entered)
        pictures = source.take()
        seen = {name: getattr(pictures, name).cpu().numpy().copy() for name in ("rgb", "patch_class", "patch_depth")}
        known = {name: getattr(arrays, name).copy() for name in ("pose", "rooms", "started", "executed")}
        found.append(seen | known)
        arrays.actions[:] = rng.integers(1, 4, (STREAMS, 4))
        worker.turn(10**6)
    worker.evaluate([dataset.episode_ids[0], dataset.episode_ids[-1]], 20)
    source.enter(worker.hand_over())
    found.append({"rgb": source.take().rgb[:2].cpu().numpy().copy()})
    arrays.close()
    return found, renderer


def test_streams_show_the_same_whoever_draws(tiny_flats):
    by_workers, _ = play(tiny_flats, True, 25)
    elsewhere, renderer = play(tiny_flats, False, 25)
    for ours, theirs in zip(by_workers, elsewhere, strict=True):
        for name, expected in ours.items():
            np.testing.assert_array_equal(theirs[name], expected, err_msg=name)
    assert sum(turn["started"].sum() for turn in elsewhere[:-1]) > STREAMS, "episodes have ended"
    assert len(renderer.added) < 6, "a scene that is being played in does not come again"


@pytest.fixture
def at_rest(tiny_flats):
    """A worker that does not draw, before any episode, and its arrays."""
    dataset = tiny_flats.dataset
    scenes = tuple(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    collect = CollectConfig(shelf=1, supersampling=1, drawn_by="gpu")
    data = str(tiny_flats.episodes_path)
    spec = StreamsSpec(data, "train", None, scenes, 0, STREAMS, 112, 8, 4, (0,), collect)
    arrays = StreamArrays(STREAMS, 112, 64, 4)
    yield Worker(spec, arrays), arrays
    arrays.close()


def test_scenes_that_are_left_are_forgotten_and_come_anew(tiny_flats, at_rest):
    worker, arrays = at_rest
    first, last = tiny_flats.dataset.episode_ids[0], tiny_flats.dataset.episode_ids[-1]
    renderer = CpuRenderer()
    source = PicturesOnGpu(arrays, renderer, 8)
    for episodes in ([first], [first, first], [last], [first, last], [last, first]):
        worker.evaluate(episodes, 20)
        source.enter(worker.hand_over())
        assert set(renderer.scenes) == {tiny_flats.dataset.scene_of(one).encode() for one in episodes}
    assert [key.decode().split("/")[1] for key in renderer.added] == ["tiny_a", "tiny_b", "tiny_a"]


def test_streams_that_rest_are_black(tiny_flats, at_rest):
    worker, arrays = at_rest
    worker.evaluate([tiny_flats.dataset.episode_ids[0]] * 2, 20)
    source = PicturesOnGpu(arrays, CpuRenderer(), 8)
    source.enter(worker.hand_over())
    rgb = source.take().rgb
    assert rgb[0].any()
    assert torch.equal(rgb[0], rgb[1])
    assert not rgb[2:].any()


def test_drawing_on_a_gpu_needs_one(tmp_path):
    config = OnlineConfig(tmp_path / "run", device="cpu", collect=CollectConfig(workers=1, drawn_by="gpu"))
    with pytest.raises(TrainingError, match="needs a CUDA device; without one leave it at 'workers'"):
        train_online(config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnAGPU:
    def test_pictures_are_the_workers(self, tiny_flats):
        by_workers, _ = play(tiny_flats, True, 6)
        on_gpu, _ = play(tiny_flats, False, 6, GpuRenderer(CAMERA, torch.device("cuda")))
        for ours, theirs in zip(by_workers, on_gpu, strict=True):
            wrong = np.abs(theirs["rgb"].astype(int) - ours["rgb"]).max(axis=3) > 8
            assert wrong.mean() < 0.01
            for name in {"patch_class", "patch_depth"} & ours.keys():
                assert (np.abs(theirs[name].astype(int) - ours[name]) > 1).mean() < 0.01

    def test_a_training(self, tiny_flats, tmp_path):
        collect = CollectConfig(
            workers=2, streams=4, shelf=1, short_until=0.0, spare_steps=4, supersampling=1, drawn_by="gpu"
        )
        optimize = OptimizeConfig(updates=6, updates_per_turn=1, frames_per_update=80, buffer_frames=2000, mirrored=0.5)
        config = OnlineConfig(
            tmp_path / "run",
            data=str(tiny_flats.episodes_path),
            held_out=0,
            evaluate_every=3,
            evaluate_at_most=3,
            evaluate_steps=24,
            collect=collect,
            optimize=optimize,
            reinforce=ReinforceConfig(free_streams=0.5),
        )
        records = train_online(config)
        assert [record["updates"] for record in records] == [3, 6]
        assert np.isfinite(records[-1]["loss"])
