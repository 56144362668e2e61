"""Learning from the averaged answers of other networks."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from streamvln_gym.errors import TrainingError
from streamvln_gym.training.online.config import OptimizeConfig, TeachConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.teachers import Teachers, divergence
from streamvln_gym.training.online.trainer import train_online
from streamvln_gym.training.privileged import AuxiliaryConfig
from tests.training.online.test_mirroring import world
from tests.training.online.test_online_equivalence import plan_for, small_network
from tests.training.online.test_online_training import config, network  # noqa: F401 (fixtures)
from tests.training.online.test_reinforce import FREE, judged, play

NO_HEADS = AuxiliaryConfig(0.0, 0.0)


class FirstConjunction:
    """Stands for a random generator."""

    def integers(self, high, size):
        return np.zeros(size, dtype=np.int64)


@pytest.fixture(scope="module")
def parts():
    torch.set_num_threads(1)
    return small_network()


def other_network(model, seed=3):
    """The network with disturbed weights."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return other


def answers(models, parts, mirrored_world, mirrored):
    """(chunks, 4, 4) what the teachers say to the episode of a world or its mirror image."""
    layout, buffer = DialogueLayout(parts[1]), world(mirrored_world, parts[1])
    plan = plan_for(parts[1])
    packed = torch.from_numpy(plan.fill(np.arange(1), buffer, layout, FirstConjunction()))
    said = Teachers(models, layout, mirrored).log_probs(packed, plan, buffer)
    windows = plan.gather(packed, buffer, layout)[1]
    return torch.cat([part[rows.current >= 0] for part, rows in zip(said, windows, strict=True)])


def test_one_teacher_says_what_the_policy_says(parts):
    learner, buffer, experience, layout = play(parts, (21, 9), FREE, (1.0, 0.0), frames_per_update=40)
    found = judged(learner, buffer, experience, buffer.whole)
    packed = torch.from_numpy(learner._plan.fill(buffer.whole, buffer, layout, np.random.default_rng(5)))
    said = Teachers([parts[0]], layout, mirrored=False).log_probs(packed, learner._plan, buffer)
    windows = learner._plan.gather(packed, buffer, layout)[1]
    compared = 0
    for taught, rows, chunks in zip(said, windows, found, strict=True):
        executed = rows.windows.executed
        chosen = taught.gather(-1, executed.clamp(min=0)[..., None])[..., 0]
        torch.testing.assert_close(
            (chosen * (executed >= 0)).sum(-1).flatten()[chunks.present], chunks.log_probs[chunks.present]
        )
        compared += int(chunks.present.sum())
    assert compared == 30


def test_the_mean_of_two(parts):
    models = [parts[0], other_network(parts[0])]
    first, second = (answers([model], parts, False, False) for model in models)
    both = answers(models, parts, False, False)
    torch.testing.assert_close(both, ((first + second) / 2).log_softmax(-1))
    assert len(both) == 40 and (first - second).abs().max() > 0.1


def test_with_the_mirror_left_and_right_are_treated_alike(parts):
    exchanged = [0, 1, 3, 2]
    plain, reflected = (answers([parts[0]], parts, mirror, False) for mirror in (False, True))
    assert (plain - reflected[..., exchanged]).abs().max() > 0.1
    both, both_reflected = (answers([parts[0]], parts, mirror, True) for mirror in (False, True))
    torch.testing.assert_close(both, both_reflected[..., exchanged])
    torch.testing.assert_close(both, ((plain + reflected[..., exchanged]) / 2).log_softmax(-1))


def test_the_divergence_counts_what_was_executed():
    learned, taught = torch.randn(2, 3, 4).log_softmax(-1), torch.randn(2, 3, 4).log_softmax(-1)
    counted = torch.tensor([[True, True, False], [False, True, False]])
    kinds = [torch.distributions.Categorical(logits=x[counted]) for x in (taught, learned)]
    expected = torch.distributions.kl_divergence(*kinds).mean()
    torch.testing.assert_close(divergence([learned], [taught], [counted]), expected)
    torch.testing.assert_close(divergence(learned, taught, counted), expected)
    assert divergence([learned], [taught], [counted & False]) == 0.0


def test_the_learner_comes_near_its_teachers(parts):
    layout, buffer = DialogueLayout(parts[1]), world(False, parts[1])
    teachers = Teachers([other_network(parts[0])], layout, mirrored=True, weight=5.0)
    settings = OptimizeConfig(learning_rate=2e-3, warmup=1, frames_per_update=40)
    learner = Learner(copy.deepcopy(parts[0]), layout, settings, NO_HEADS, None, teachers)
    learner.plan(buffer, 64, np.random.default_rng(0))
    rng, found = np.random.default_rng(1), []
    for _ in range(8):
        learner.update(np.arange(1), rng)
        found.append(learner.statistics()["teacher_divergence"])
    assert found[0] > 0.05 and found[-1] < 0.5 * found[0]


def test_a_training_with_teachers(config, network):  # noqa: F811
    config = dataclasses.replace(config, teach=TeachConfig((str(network),), mirrored=False))
    records = train_online(dataclasses.replace(config, evaluate_every=1))
    assert records[0]["teacher_divergence"] == pytest.approx(0.0, abs=1e-6)
    assert records[-1]["teacher_divergence"] > 1e-5


def test_a_teacher_that_reads_something_else(config, network):  # noqa: F811
    config = dataclasses.replace(config, num_history=4, teach=TeachConfig((str(network),)))
    with pytest.raises(TrainingError, match="has num_history 8, the network that learns 4"):
        train_online(config)
    with pytest.raises(ValueError, match=r"TeachConfig\.weight must not be negative"):
        TeachConfig(weight=-1.0)
