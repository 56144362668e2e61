"""A mirrored batch is the batch of a mirrored world."""

import dataclasses

import numpy as np
import pytest
import torch

from streamvln_gym.training.online.config import CollectConfig, OptimizeConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.mirrored_streams import mirror_chunk, mirror_text
from streamvln_gym.training.online.pictures import PicturesOfWorkers
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.worker import StreamsSpec, Worker
from streamvln_gym.training.privileged import AuxiliaryConfig

from .test_online_equivalence import plan_for, small_network

TEXT = "Turn left, then wait right by the sofa on your right."
MIRRORED = "Turn right, then wait right by the sofa on your left."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, MIRRORED),
        ("Left past the RIGHTMOST door.", "Right past the LEFTMOST door."),
        ("Take the left-hand door.", "Take the right-hand door."),
        (
            "Go right in the hallway and stop right in front of it.",
            "Go left in the hallway and stop right in front of it.",
        ),
        ("The door on the right next to the sofa.", "The door on the left next to the sofa."),
        ("Turn right before the rug, halt right before it.", "Turn left before the rug, halt right before it."),
        ("The bright copyright cleft.", "The bright copyright cleft."),
    ],
)
def test_sides_are_exchanged(text, expected):
    assert mirror_text(text) == expected
    assert mirror_text(expected) == text


def world(mirrored, processor, instruction=TEXT, image=MIRRORED):
    """A buffer with one episode of 40 frames, or its mirror image."""
    rng = np.random.default_rng(0)
    arrays = StreamArrays(1, 112, 64, 4)
    buffer = FrameBuffer(60, arrays, 64, 64, torch.device("cpu"))
    encode = processor.tokenizer.encode
    for turn in range(40):
        arrays.rgb[:] = rng.integers(0, 256, arrays.rgb.shape)
        arrays.patch_class[:] = rng.integers(0, 20, arrays.patch_class.shape)
        arrays.patch_depth[:] = rng.integers(0, 256, arrays.patch_depth.shape)
        arrays.pose[:] = rng.normal(size=arrays.pose.shape)
        arrays.rooms[:] = rng.integers(0, 5, arrays.rooms.shape)
        executed, labels = rng.integers(1, 4, (2, 1, 4))
        if mirrored:
            arrays.rgb[:] = arrays.rgb[:, :, ::-1].copy()
            for patches in (arrays.patch_class, arrays.patch_depth):
                patches[:] = patches.reshape(1, 8, 8)[:, :, ::-1].reshape(1, 64).copy()
            arrays.pose[:, [0, 4]] *= -1.0
            swap = np.array([0, 1, 3, 2])
            executed, labels = swap[executed], swap[labels]
        arrays.executed[:], arrays.labels[:] = executed, labels
        text, other = (image, instruction) if mirrored else (instruction, image)
        start = turn == 0
        buffer.add(
            arrays,
            PicturesOfWorkers(arrays, torch.device("cpu")).take(),
            {0: encode(text)} if start else {},
            {0: encode(other)} if start else {},
        )
        arrays.finished[:] = turn == 39
        buffer.finish_turn(arrays)
    arrays.close()
    return buffer


def test_a_mirrored_batch_is_that_of_the_mirrored_world():
    model, processor = small_network()
    layout = DialogueLayout(processor)
    learner = Learner(model, layout, OptimizeConfig(), AuxiliaryConfig())
    parts = []
    for mirrored, share in ((True, 0.0), (False, 1.0), (False, 0.0)):
        buffer = world(mirrored, processor)
        learner.plan(buffer, buffer.whole, 64)
        learner._plan = dataclasses.replace(plan_for(processor), mirrored=share)

        class Draws:
            """Every conjunction is the first."""

            def integers(self, high, size):
                return np.zeros(size, dtype=np.int64)

            def random(self, size):
                return np.zeros(size)

        packed = torch.from_numpy(learner._plan.fill(np.arange(1), buffer, layout, Draws()))
        with torch.no_grad():
            loss, rest = learner.loss(packed)
        parts.append([loss.item(), *(part.item() for part in rest)])
    assert parts[1] == pytest.approx(parts[0], rel=1e-5)
    assert parts[2][1] != pytest.approx(parts[0][1], rel=1e-3), "the mirror makes a difference"


def worker(tiny_flats, mirrored, free=2):
    """A worker with three streams, the first `free` of them free, and its arrays."""
    dataset = tiny_flats.make().dataset
    scenes = tuple({dataset.scene_of(episode_id) for episode_id in dataset.episode_ids})
    collect = CollectConfig(shelf=1, short_until=0.0)
    data = str(tiny_flats.episodes_path)
    spec = StreamsSpec(data, "train", None, scenes, 0, 3, 112, 8, 4, (0,), collect, free, mirrored)
    arrays = StreamArrays(3, 112, 64, 4)
    return Worker(spec, arrays), arrays


def shown(arrays):
    """Copies of what the streams show."""
    names = ("rgb", "patch_class", "patch_depth", "pose", "rooms", "executed", "progress", "finished", "results")
    return {name: getattr(arrays, name).copy() for name in names} | {"text": [arrays.text(row) for row in range(3)]}


def play_turns(tiny_flats, mirrored, chunks):
    """What a worker's streams show at the beginning and after each chunk."""
    played, arrays = worker(tiny_flats, mirrored)
    played.train(10**6)
    found = [shown(arrays)]
    for chunk in chunks:
        arrays.actions[:] = chunk
        played.turn(10**6)
        found.append(shown(arrays))
    arrays.close()
    return found


def test_free_streams_are_played_in_the_mirror(tiny_flats):
    chunks = [[2, 2, 1, 1], [3, 1, 2, 1], [1, 3, 3, 0]]
    straight = play_turns(tiny_flats, 0.0, chunks)
    exchanged = play_turns(tiny_flats, 1.0, [mirror_chunk(chunk) for chunk in chunks])
    for chunk, plain, mirror in zip([None, *chunks], straight, exchanged, strict=True):
        assert mirror["text"][:2] == [mirror_text(text) for text in plain["text"][:2]]
        np.testing.assert_array_equal(mirror["rgb"][:2], plain["rgb"][:2, :, ::-1])
        for name in ("patch_class", "patch_depth"):
            grids = plain[name][:2].reshape(2, 8, 8)[:, :, ::-1].reshape(2, 64)
            np.testing.assert_array_equal(mirror[name][:2], grids)
        np.testing.assert_array_equal(mirror["pose"][:2], plain["pose"][:2] * [-1, 1, 1, 1, -1])
        for name in ("rooms", "progress", "finished", "results"):
            np.testing.assert_array_equal(mirror[name][:2], plain[name][:2])
        if chunk is not None:
            assert mirror["executed"][:2].tolist() == [mirror_chunk(chunk)] * 2
    assert straight[-1]["finished"][:2].all(), "the last chunk says STOP"


def test_taught_streams_and_evaluations_are_played_as_they_are(tiny_flats):
    straight, exchanged = (play_turns(tiny_flats, mirrored, [[1, 1, 1, 1]])[0] for mirrored in (0.0, 1.0))
    assert straight["text"][2] == exchanged["text"][2]
    np.testing.assert_array_equal(straight["rgb"][2], exchanged["rgb"][2])
    pictures = []
    for mirrored in (0.0, 1.0):
        played, arrays = worker(tiny_flats, mirrored, free=3)
        played.train(10**6)
        played.evaluate(list(played._dataset.episode_ids[:3]), 20)
        pictures.append(shown(arrays))
        arrays.close()
    assert pictures[0]["text"] == pictures[1]["text"]
    np.testing.assert_array_equal(pictures[0]["rgb"], pictures[1]["rgb"])


def test_a_share_of_the_free_episodes_is_played_in_the_mirror(tiny_flats):
    played, arrays = worker(tiny_flats, 0.5, free=3)
    seen = set()
    for _ in range(12):
        played.train(10**6)
        seen |= set(played._mirrored.tolist())
    arrays.close()
    assert seen == {False, True}
