"""Which episode is played next, and in which flat."""

from types import SimpleNamespace

import numpy as np
import pytest

from streamvln_gym.simulators.embedded import simulator
from streamvln_gym.training.online import streams
from streamvln_gym.training.online.config import CollectConfig
from streamvln_gym.training.online.stream_arrays import EXPERT, StreamArrays
from streamvln_gym.training.online.streams import EpisodeSupply
from streamvln_gym.training.online.worker import StreamsSpec, Worker


def test_the_supply_draws_from_scenes_in_turn(tiny_flats):
    dataset = tiny_flats.dataset
    scenes = list(dict.fromkeys(dataset.scene_of(e) for e in dataset.episode_ids))
    supply = EpisodeSupply(dataset, scenes, CollectConfig(shelf=1, plays=2), np.random.default_rng(0))
    count = {scene: sum(dataset.scene_of(e) == scene for e in dataset.episode_ids) for scene in scenes}
    for scene in (*scenes, *scenes):
        assert {supply.next(1000).scene_id for _ in range(2 * count[scene])} == {scene}


def test_the_supply_passes_over_scenes_that_are_not_there(tiny_flats):
    dataset = tiny_flats.dataset
    first, second = dict.fromkeys(dataset.scene_of(e) for e in dataset.episode_ids)
    supply = EpisodeSupply(dataset, (first, second), CollectConfig(shelf=1, plays=1), np.random.default_rng(0))
    there = {first}
    supply.ready = there.__contains__
    assert {supply.next(1000).scene_id for _ in range(40)} == {first}
    there.add(second)
    assert {supply.next(1000).scene_id for _ in range(40)} == {first, second}
    there.remove(first)
    for _ in range(20):
        supply.next(1000)
    assert {supply.next(1000).scene_id for _ in range(40)} == {second}


class SixScenes:
    """A dataset of one episode a scene."""

    episode_ids = tuple("abcdef")

    def scene_of(self, episode_id):
        return episode_id

    def episode(self, episode_id):
        instruction = SimpleNamespace(text="Go.")
        return SimpleNamespace(scene_id=episode_id, gt_actions=(1,), instruction=instruction, needs_memory=None)


def test_a_scene_that_was_passed_over_comes_as_soon_as_it_is_there(monkeypatch):
    supply = EpisodeSupply(SixScenes(), "abcdef", CollectConfig(shelf=1, plays=1), np.random.default_rng(0))
    there = set("acdef")
    supply.ready = there.__contains__
    assert [supply.next(10).scene_id for _ in range(3)] == ["a", "c", "d"]
    there.add("b")
    assert [supply.next(10).scene_id for _ in range(4)] == ["e", "b", "f", "a"], "one is always there ahead"
    there.remove("a")  # and never built again
    monkeypatch.setattr(streams, "_LAPS", 2)
    assert {supply.next(10).scene_id for _ in range(12)} == set("bcdef")
    while supply._coming[0] == "a":
        supply.next(10)
    while supply._coming[0] != "a":
        supply.next(10)
    for _ in range(2):
        assert supply._coming[0] == "a"
        supply.next(10)
    assert supply._coming[0] != "a", "it went to the end of the line"


def test_the_supply_keeps_to_short_demonstrations(tiny_flats):
    dataset = tiny_flats.dataset
    scenes = list(dict.fromkeys(dataset.scene_of(e) for e in dataset.episode_ids))
    supply = EpisodeSupply(dataset, scenes, CollectConfig(shelf=2, plays=50), np.random.default_rng(0))
    lengths = sorted(len(dataset.episode(e).gt_actions) for e in dataset.episode_ids)
    assert {len(supply.next(1000).gt_actions) for _ in range(200)} == set(lengths)
    assert max(len(supply.next(lengths[4]).gt_actions) for _ in range(50)) == lengths[4]
    assert max(len(supply.next(0).gt_actions) for _ in range(50)) == lengths[2], "the three shortest are always there"


def test_the_supply_prefers_kinds_that_fail(tiny_flats):
    dataset = tiny_flats.dataset
    scenes = list(dict.fromkeys(dataset.scene_of(e) for e in dataset.episode_ids))
    episodes = [dataset.episode(e) for e in dataset.episode_ids]
    needing = sum(bool(episode.needs_memory) for episode in episodes)
    others = len(episodes) - needing
    assert needing and others
    for share in (0.0, 0.5, 1.0):
        config = CollectConfig(shelf=len(scenes), plays=1000, failing_share=share)
        supply = EpisodeSupply(dataset, scenes, config, np.random.default_rng(0))
        for number in range(1000):  # where memory is needed four of ten fail, elsewhere one
            for episode in episodes:
                supply.note(episode, number % 10 >= (4 if episode.needs_memory else 1))
        drawn = np.mean([bool(supply.next(1000).needs_memory) for _ in range(2000)])
        by_failure = 0.4 * needing / (0.4 * needing + 0.1 * others)
        assert drawn == pytest.approx(share * by_failure + (1 - share) * needing / len(episodes), abs=0.05)
    with pytest.raises(ValueError, match="failing_share must lie between 0 and 1, got 2"):
        CollectConfig(failing_share=2.0)


def test_the_supply_draws_evenly_before_anything_is_known(tiny_flats):
    dataset = tiny_flats.dataset
    scenes = list(dict.fromkeys(dataset.scene_of(e) for e in dataset.episode_ids))
    drawn = {}
    for share in (0.0, 1.0):
        config = CollectConfig(shelf=len(scenes), plays=1000, failing_share=share)
        supply = EpisodeSupply(dataset, scenes, config, np.random.default_rng(0))
        drawn[share] = [supply.next(1000).episode_id for _ in range(50)]
    assert drawn[0.0] == drawn[1.0]


def test_the_scene_that_comes_next_is_read_between_the_turns(tiny_flats, monkeypatch):
    dataset, streams_count = tiny_flats.dataset, 2
    scenes = tuple(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    collect = CollectConfig(shelf=1, plays=1, supersampling=1, drawn_by="gpu")
    data = str(tiny_flats.episodes_path)
    spec = StreamsSpec(data, "train", None, scenes, 0, streams_count, 112, 8, 4, (0,), collect)
    arrays = StreamArrays(streams_count, 112, 64, 4)
    worker, read = Worker(spec, arrays), []
    load = simulator._load
    monkeypatch.setattr(simulator, "_load", lambda path: read.append(path.parent.name) or load(path))
    worker.prepare()
    assert read == ["tiny_b"], "tiny_a is on the shelf"
    worker.train(1000)
    assert read == ["tiny_b", "tiny_a"]
    for _ in range(60):
        worker.prepare()
        arrays.driver[:] = EXPERT
        worker.turn(1000)
    assert {stream.episode.scene_id.split("/")[1] for stream in worker._streams} <= {"tiny_a", "tiny_b"}
    assert read == ["tiny_b", "tiny_a"], "nothing is read twice, nor in a turn"
    arrays.close()
