"""Learning from the averaged answers of other networks."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from streamvln_gym.errors import TrainingError
from streamvln_gym.training.config import ContextConfig
from streamvln_gym.training.online.batches import Bucket
from streamvln_gym.training.online.collector import Collector
from streamvln_gym.training.online.config import OptimizeConfig, ReinforceConfig, TeachConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.mirrored_streams import mirror_text
from streamvln_gym.training.online.teachers import Teachers, divergence
from streamvln_gym.training.online.trainer import train_online
from streamvln_gym.training.privileged import AuxiliaryConfig
from tests.training.online.test_mirroring import MIRRORED, TEXT, world
from tests.training.online.test_online_equivalence import plan_for, small_network
from tests.training.online.test_online_training import config, network  # noqa: F401 (fixtures)
from tests.training.online.test_reinforce import FREE, judged, play

LONGER_IMAGE = ("Right at the sofa, then stop.", "Left at the sofa, then stop.")  # one token more
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


def answers(models, parts, mirrored_world, mirrored, texts=(TEXT, MIRRORED)):
    """(chunks, 4, 4) what the teachers say to the episode of a world or its mirror image."""
    layout, buffer = DialogueLayout(parts[1]), world(mirrored_world, parts[1], *texts)
    plan = dataclasses.replace(plan_for(parts[1]), reflected=mirrored)
    packed = torch.from_numpy(plan.fill(np.arange(1), buffer, layout, FirstConjunction()))
    said = Teachers(models, [], layout, TeachConfig(mirrored=mirrored)).log_probs(packed, plan, buffer)
    windows = plan.gather(packed, buffer, layout)[1]
    return torch.cat([part[rows.current >= 0] for part, rows in zip(said, windows, strict=True)])


def test_one_teacher_says_what_the_policy_says(parts):
    learner, buffer, experience, layout = play(parts, (21, 9), FREE, (1.0, 0.0), frames_per_update=40)
    found = judged(learner, buffer, experience, buffer.whole)
    packed = torch.from_numpy(learner._plan.fill(buffer.whole, buffer, layout, np.random.default_rng(5)))
    said = Teachers([parts[0]], [], layout, TeachConfig(mirrored=False)).log_probs(packed, learner._plan, buffer)
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


@pytest.mark.parametrize("texts", [(TEXT, MIRRORED), LONGER_IMAGE, LONGER_IMAGE[::-1]])
def test_with_the_mirror_left_and_right_are_treated_alike(parts, texts):
    exchanged = [0, 1, 3, 2]
    plain, reflected = (answers([parts[0]], parts, mirror, False, texts) for mirror in (False, True))
    assert (plain - reflected[..., exchanged]).abs().max() > 0.1
    both, both_reflected = (answers([parts[0]], parts, mirror, True, texts) for mirror in (False, True))
    torch.testing.assert_close(both, both_reflected[..., exchanged])
    torch.testing.assert_close(both, ((plain + reflected[..., exchanged]) / 2).log_softmax(-1))


def test_an_image_that_is_longer_finds_room(parts):
    processor, layout = parts[1], DialogueLayout(parts[1])
    short, long = LONGER_IMAGE
    lengths = [len(processor.tokenizer.encode(text, add_special_tokens=False)) for text in (short, long)]
    assert lengths[0] < lengths[1]
    buffer = world(False, processor, short, long)
    plain = plan_for(processor)
    edges = [
        int(layout.lengths(torch.tensor([length]), torch.tensor([True]), torch.tensor([layout.turns])))
        for length in lengths
    ]
    plan = dataclasses.replace(plain, buckets=tuple(Bucket(8, edge) for edge in edges))
    used = []
    for reflected in (False, True):
        plan = dataclasses.replace(plan, reflected=reflected)
        packed = torch.from_numpy(plan.fill(np.arange(1), buffer, layout, FirstConjunction()))
        used.append([int((rows.current >= 0).any(1).sum()) for rows in plan.gather(packed, buffer, layout)[1]])
    assert used == [[5, 0], [1, 4]], "full windows with memory go where their mirror image fits, too"


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
    settings = OptimizeConfig(learning_rate=2e-3, warmup=1, frames_per_update=40)
    teach = TeachConfig(("other",), weight=5.0)
    learner = Learner(copy.deepcopy(parts[0]), layout, settings, NO_HEADS, None, teach, [other_network(parts[0])])
    learner.plan(buffer, buffer.whole, 64)
    rng, found = np.random.default_rng(1), []
    for _ in range(8):
        learner.update(np.arange(1), rng)
        found.append(learner.statistics()["teacher_divergence"])
    assert found[0] > 0.05 and found[-1] < 0.5 * found[0]


def test_the_average_of_its_own_weights_teaches_as_it_is_now(parts):
    layout, buffer = DialogueLayout(parts[1]), world(False, parts[1])
    settings = OptimizeConfig(learning_rate=2e-3, warmup=1, frames_per_update=40, ema=0.9)
    teach = TeachConfig(average=True, mirrored=False)
    learner = Learner(copy.deepcopy(parts[0]), layout, settings, NO_HEADS, None, teach)
    learner.plan(buffer, buffer.whole, 64)
    packed = torch.from_numpy(learner._plan.fill(np.arange(1), buffer, layout, np.random.default_rng(1)))
    found, said = [], []
    for _ in range(3):
        said.append(learner._teachers.log_probs(packed, learner._plan, buffer))
        now = Teachers([learner.average], [], layout, teach).log_probs(packed, learner._plan, buffer)
        torch.testing.assert_close(said[-1], now)
        learner.update(np.arange(1), np.random.default_rng(1))
        found.append(learner.statistics()["teacher_divergence"])
    assert found[0] == pytest.approx(0.0, abs=1e-6) and found[-1] > 1e-4
    assert max(float((a - b).abs().max()) for a, b in zip(said[0], said[-1], strict=True)) > 0.01


def test_a_training_with_teachers(config, network):  # noqa: F811
    config = dataclasses.replace(config, teach=TeachConfig((str(network),), mirrored=False))
    records = train_online(dataclasses.replace(config, evaluate_every=1))
    assert records[0]["teacher_divergence"] == pytest.approx(0.0, abs=1e-4)
    assert records[-1]["teacher_divergence"] > 1e-3
    with pytest.raises(TrainingError, match=r"another training.*teach\.weight"):
        train_online(dataclasses.replace(config, teach=dataclasses.replace(config.teach, weight=2.0)))


def test_all_streams_have_the_mirror_image_of_their_instruction(config, network, monkeypatch):  # noqa: F811
    """Those of free streams too, and where nothing is learned in the mirror."""
    config = dataclasses.replace(
        config, teach=TeachConfig((str(network),)), reinforce=ReinforceConfig(free_streams=0.5, value_updates=0)
    )
    assert config.optimize.mirrored == 0.0
    checked = set()
    take = Collector.take

    def take_and_check(self):
        shown = take(self)
        buffer = self.buffer
        for stream in np.flatnonzero(buffer.row_of >= 0):
            ids = self._encode(mirror_text(self.pool.arrays.text(int(stream))))
            row = buffer.rows + buffer.row_of[stream]
            assert buffer.instruction_ids[row, : buffer.instruction_lengths[row]].tolist() == ids
            checked.add(int(stream))
        return shown

    monkeypatch.setattr(Collector, "take", take_and_check)
    records = train_online(config)
    assert checked == {0, 1} and np.isfinite(records[-1]["teacher_divergence"])


def test_a_teacher_that_reads_something_else(config, network, tmp_path):  # noqa: F811
    config = dataclasses.replace(config, teach=TeachConfig((str(network),)))
    with pytest.raises(TrainingError, match="has num_history 8, the network that learns 4"):
        train_online(dataclasses.replace(config, context=ContextConfig(num_history=4)))
    other = tmp_path / "other"
    shutil.copytree(network, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = (word for word in words if word.endswith(("left", "right")) and len(word) <= 6)
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TrainingError, match="other has another vocabulary"):
        train_online(dataclasses.replace(config, teach=TeachConfig((str(other),))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be finite and not negative"),
        ({"weight": np.inf}, "weight must be finite and not negative"),
        ({"teachers": "streamvln-tiny"}, r"teachers must be a tuple.*write \('streamvln-tiny',\)"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeachConfig(**settings)
