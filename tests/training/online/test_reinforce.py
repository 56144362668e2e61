"""Learning from success: what is earned, and that the probabilities of the players are those of the learner."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamvln_gym.training.online.config import OptimizeConfig, ReinforceConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.pictures import PicturesOfWorkers
from streamvln_gym.training.online.policy import StreamsPolicy
from streamvln_gym.training.online.reinforce import PARTS, Experience, advantages_of
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import RESULTS, StreamArrays
from streamvln_gym.training.online.trainer import train_online
from streamvln_gym.training.privileged import AuxiliaryConfig
from tests.training.online.test_online_equivalence import TEXTS, small_network
from tests.training.online.test_online_training import config, network, read_state  # noqa: F401 (fixtures)

FREE = ReinforceConfig(free_streams=1.0, free_frames=1.0, value_updates=0)
NO_HEADS = AuxiliaryConfig(0.0, 0.0)
SUCCESS = RESULTS.index("success")


def test_advantages_are_the_discounted_sums_of_the_errors():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 7)).astype(np.float32)
    lengths, gamma, lam = np.array([7, 1, 4]), 0.9, 0.8
    advantages, returns = advantages_of(rewards, values, lengths, gamma, lam)
    for k, length in enumerate(lengths):
        following = np.append(values[k, 1:length], 0.0)
        errors = rewards[k, :length] + gamma * following - values[k, :length]
        for t in range(length):
            expected = sum((gamma * lam) ** i * error for i, error in enumerate(errors[t:]))
            assert advantages[k, t] == pytest.approx(expected, abs=1e-5)
            assert returns[k, t] == pytest.approx(expected + values[k, t], abs=1e-5)
        assert not advantages[k, length:].any() and not returns[k, length:].any()


def play(parts, lengths, reinforce, success, auxiliary=NO_HEADS, **optimize):
    """Free streams that play one episode each; the buffer, what was experienced, and the learner."""
    model, processor = parts
    layout, streams, rng = DialogueLayout(processor), len(lengths), np.random.default_rng(1)
    torch.manual_seed(0)
    learner = Learner(model, layout, OptimizeConfig(learning_rate=0.01, warmup=1, **optimize), auxiliary, reinforce)
    arrays = StreamArrays(streams, 112, 64, 4)
    buffer = FrameBuffer(400, arrays, 64, 64, torch.device("cpu"))
    experience = Experience(buffer, np.ones(streams, bool), reinforce, 64)
    policy = StreamsPolicy(model, layout, streams, 64, 64)
    arrays.executed[:] = -1
    ids = [processor.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    for turn in range(max(lengths) + 1):
        experience.finish_turn(arrays)
        buffer.finish_turn(arrays)
        starting = {k: ids[k] for k in range(streams)} if turn == 0 else {}
        policy.begin(starting)
        arrays.rgb[:] = rng.integers(0, 256, (streams, 7, 7, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        arrays.pose[:] = rng.normal(size=arrays.pose.shape)
        pictures = PicturesOfWorkers(arrays, torch.device("cpu")).take()
        conjunctions = rng.integers(5, size=streams)
        buffer.add(arrays, pictures, starting, None, conjunctions, np.ones(streams, bool))
        executed = torch.from_numpy(arrays.executed).long()
        answers = policy.act(
            pictures.rgb, executed, torch.from_numpy(conjunctions), torch.ones(streams, dtype=torch.bool)
        )
        with torch.no_grad():
            experience.note(answers.log_probs, learner.value(answers.states, torch.from_numpy(arrays.pose)))
        for k, length in enumerate(lengths):  # a STOP in the middle counts as any other action here
            arrays.executed[k] = answers.actions[k].numpy()
            arrays.progress[k], arrays.finished[k] = rng.normal(), turn + 1 == length
            arrays.results[k, SUCCESS] = success[k]
    arrays.close()
    return learner, buffer, experience, layout


@pytest.fixture(scope="module")
def parts():
    torch.set_num_threads(1)
    return small_network()


def judged(learner, buffer, experience, rows):
    """(N,) the chunks of a batch, with the differences of their log-probabilities to those noted."""
    learner.plan(buffer, buffer.whole, 64, experience)
    packed = torch.from_numpy(learner._plan.fill(rows, buffer, learner.layout, np.random.default_rng(5)))
    found = []
    judge = learner._judge
    learner._judge = lambda *args: found.append(judge(*args)) or found[-1]
    with torch.no_grad():
        learner.loss(packed)
    learner._judge = judge
    return found


@pytest.mark.parametrize("informed", [False, True])
def test_probabilities_and_values_are_those_of_the_players(parts, informed):
    lengths = (21, 9, 2)
    reinforce = replace(FREE, informed_value=informed)
    learner, buffer, experience, _ = play(parts, lengths, reinforce, (1.0, 0.0, 0.0))
    assert buffer.whole.tolist() == [0, 1, 2]
    compared = 0
    for chunks in judged(learner, buffer, experience, buffer.whole):
        noted = experience.log_probs[chunks.places]
        usable = chunks.present
        torch.testing.assert_close(chunks.log_probs[usable], noted.sum(-1)[usable], atol=1e-4, rtol=0.0)
        compared += int(usable.sum())
        with torch.no_grad():
            values = experience.returns[chunks.places] - experience.advantages[chunks.places]
        torch.testing.assert_close(chunks.values[usable], values[usable], atol=1e-4, rtol=0.0)
    assert compared == sum(lengths)
    state, pose = torch.randn(3, 5, learner.model.config.text_config.hidden_size), torch.randn(3, 5, 5)
    assert torch.equal(learner.value(state, pose), learner.value(state, -pose)) != informed


def test_what_an_episode_earned(parts):
    reinforce = replace(FREE, progress_reward=0.0, chunk_cost=0.5, success_reward=3.0, discount=1.0, trace=1.0)
    _, buffer, experience, _ = play(parts, (5, 3, 2), reinforce, (1.0, 0.0, 1.0))
    for row, total, length in ((0, 3.0, 5), (1, 0.0, 3), (2, 3.0, 2)):
        returns = experience.returns[torch.from_numpy(buffer.frames_of(np.array([row])))]
        expected = [total - 0.5 * (length - turn) for turn in range(length)]
        assert returns.tolist() == pytest.approx(expected, abs=1e-5)
    statistics = experience.statistics()
    assert statistics["free_success"] == pytest.approx(2 / 3, abs=1e-4)
    assert statistics["free_turns"] == pytest.approx(10 / 3, abs=1e-2)
    assert experience.statistics() == {}


def test_updates_make_what_paid_more_likely():
    torch.set_num_threads(1)
    reinforce = replace(FREE, progress_reward=0.0, success_reward=5.0, discount=1.0, trace=1.0)
    learner, buffer, experience, _ = play(small_network(), (6, 6), reinforce, (1.0, 0.0), frames_per_update=16)
    for row, advantage in ((0, 1.0), (1, -1.0)):
        experience.advantages[torch.from_numpy(buffer.frames_of(np.array([row])))] = advantage
    before = {row: likelihood(learner, buffer, experience, row) for row in (0, 1)}
    learner.plan(buffer, buffer.whole, 64, experience)
    for _ in range(3):
        learner.update(np.array([0, 1]), np.random.default_rng(5))
    gains = [float((likelihood(learner, buffer, experience, row) - before[row]).mean()) for row in (0, 1)]
    assert gains[0] > gains[1] + 0.05
    assert set(PARTS) <= set(learner.statistics())


def test_heads_that_begin_with_nothing_may_learn_faster():
    torch.set_num_threads(1)
    learner, buffer, experience, _ = play(
        small_network(), (6, 6), FREE, (1.0, 0.0), head_rate=8.0, frames_per_update=16
    )
    learner.plan(buffer, buffer.whole, 64, experience)
    learner.update(np.array([0, 1]), np.random.default_rng(5))
    rates = {
        id(p): group["lr"]
        for optimizer in learner.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(rates) == len(learner._trained)
    heads = {id(p) for head in (learner.heads, learner.value) for p in head.parameters()}
    for parameter, rate in rates.items():
        assert rate == pytest.approx(learner.learning_rate * (8.0 if parameter in heads else 1.0))


def test_heads_that_begin_with_nothing_may_learn_alone():
    """The first updates change the heads, and the network as if there were no heads."""
    torch.set_num_threads(1)

    def learn(auxiliary, reinforce, head_updates):
        settings = {"auxiliary": auxiliary, "head_updates": head_updates, "frames_per_update": 16}
        learner, buffer, experience, _ = play(small_network(), (3, 2), reinforce, (1.0, 0.0), **settings)
        heads = [p.detach().clone() for p in learner._untried]
        learner.plan(buffer, buffer.whole, 64, experience)
        for _ in range(2):
            learner.update(np.array([0, 1]), np.random.default_rng(5))
        moved = any(not torch.equal(a, b) for a, b in zip(heads, learner._untried, strict=True))
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()]), moved

    alone, moved = learn(AuxiliaryConfig(0.3, 0.2), FREE, head_updates=2)
    together, _ = learn(AuxiliaryConfig(0.3, 0.2), FREE, head_updates=1)
    without, _ = learn(NO_HEADS, replace(FREE, value_weight=0.0), head_updates=0)
    assert moved
    torch.testing.assert_close(alone, without, atol=1e-6, rtol=0.0)
    assert not torch.allclose(together, without, atol=1e-6, rtol=0.0)


def test_how_much_labels_weigh(parts):
    losses = []
    for weight in (1.0, 0.25):
        learner, buffer, experience, _ = play(
            parts, (6, 6), replace(FREE, labels_weight=weight), (1.0, 0.0), frames_per_update=16
        )
        learner.plan(buffer, buffer.whole, 64, experience)
        rows = learner._plan.fill(np.array([0, 1]), buffer, learner.layout, np.random.default_rng(5))
        with torch.no_grad():
            loss, (action, *_) = learner.loss(torch.from_numpy(rows))
        losses.append((float(loss), float(action)))
    (whole, action), (part, same) = losses
    assert action == same > 0.1
    assert whole - part == pytest.approx(0.75 * action, rel=1e-4)


def likelihood(learner, buffer, experience, row):
    """(turns,) log-probabilities of an episode's chunks."""
    places = torch.from_numpy(buffer.frames_of(np.array([row])))
    found = {}
    for chunks in judged(learner, buffer, experience, np.array([row])):
        for place, value, present in zip(chunks.places, chunks.log_probs, chunks.present, strict=True):
            if present:
                found[int(place)] = value
    return torch.stack([found[int(place)] for place in places])


def test_a_training_with_free_streams_goes_on_where_it_stopped(config):  # noqa: F811
    reinforce = ReinforceConfig(free_streams=0.5, value_updates=1, recent_turns=50)
    config = replace(config, reinforce=reinforce, evaluate_every=100)
    first = train_online(replace(config, optimize=replace(config.optimize, updates=3)))
    assert set(PARTS) <= set(first[-1]) and np.isfinite(first[-1]["policy_loss"])
    assert "value" in read_state(config)["learner"]
    records = train_online(config)
    assert [record["updates"] for record in records] == [3, 4]


@pytest.mark.parametrize(
    "settings", [{"free_streams": 1.5}, {"discount": -0.1}, {"recent_turns": 0}, {"labels_weight": -1.0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"ReinforceConfig.{next(iter(settings))} must"):
        ReinforceConfig(**settings)
