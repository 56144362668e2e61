"""Episodes that are given up: the last state has a label, no action, and what is learned of it is the label alone."""

import numpy as np
import pytest
import torch

from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.training.online.batches import answer_labels
from streamvln_gym.training.online.config import MAX_STEPS, CollectConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.streams import NOTHING, Stream

LEFT = 2


@pytest.fixture
def begin(tiny_flats):
    """Starts the first episode, driven as the settings say."""

    def start(**settings):
        env = tiny_flats.make()
        stream = Stream(env.simulator, env.dataset, CollectConfig(rescue_metres=1000.0, **settings))
        stream.begin(env.dataset.episode(env.dataset.episode_ids[0]))
        return stream

    return start


def to_the_goal(stream):
    """Drives with the expert until it wants to stop."""
    while (action := stream.follower.next_action(stream.state)) != 0:
        stream.state, _ = stream.simulator.try_step(stream.state, action)


def spin(stream):
    """Turns on the spot until the episode is over; all that was executed, all labels and the last chunk."""
    executed, labels = [], []
    for _ in range(200):
        done, said, over = stream.drive([LEFT] * 4, by_expert=False)
        executed += done
        labels += said
        if over:
            return executed, labels, (done, said)
    raise AssertionError("the episode never ended")


@pytest.mark.parametrize("ignored", [0, 2, 3, 5])
def test_ignored_stops_end_an_episode(begin, ignored):
    stream = begin(ignored_stops=ignored)
    to_the_goal(stream)
    executed, labels, (done, said) = spin(stream)
    assert executed == [LEFT] * ignored
    assert labels == [0] * (ignored + 1)
    assert len(said) == len(done) + 1 <= 4


def test_too_many_steps_end_an_episode(begin):
    stream = begin(spare_steps=3)
    limit = int(1.5 * len(stream.episode.gt_actions)) + 3
    executed, labels, _ = spin(stream)
    assert len(executed) == stream.steps == limit
    assert len(labels) == limit + 1


def test_no_episode_is_longer_than_one_of_the_environment(begin):
    assert begin(spare_steps=10_000)._limit == MAX_STEPS


@pytest.mark.parametrize("count", range(4))
def test_the_label_of_the_last_state_is_learned(count):
    layout = DialogueLayout(StreamVLNProcessor.tiny())
    executed, labels = np.full(4, NOTHING), np.full(4, NOTHING)
    executed[:count] = labels[:count] = LEFT
    labels[count] = 0
    ids, stops = answer_labels(torch.from_numpy(executed), torch.from_numpy(labels), layout)
    stop, left = int(layout.action_ids[0]), int(layout.action_ids[LEFT])
    assert ids.tolist() == [*[left] * count, stop, *[IGNORE_LABEL] * (4 - count)]
    assert stops.nonzero().tolist() == [[count]]
