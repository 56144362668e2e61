"""Windows whose beginning was prefilled in the step before: the same episode as without, with shorter first calls."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models.configuration_streamvln import MEMORY_STRATEGIES
from streamvln_gym.simulators.base import CameraConfig
from tests.thin_network import thin_parts

INTRINSICS = CameraConfig(width=32, height=24).intrinsics
STEPS = 72


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.3, narrow=True, seed=1)


def observe(step, seed=0):
    pose = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)
    pose[:3, 3] = [0.05 * step, 1.25, 0.0]
    return {
        "rgb": np.random.default_rng([seed, step]).integers(0, 256, (24, 32, 3), dtype=np.uint8),
        "instruction": "Leave the bedroom, go down the hallway and wait by the piano.",
        "depth": np.full((24, 32, 1), 2.0, dtype=np.float32),
        "camera_pose": pose,
        "intrinsics": INTRINSICS,
    }


def make_agent(parts, prepares=True, **settings):
    """An agent that never stops; `logits` gets what each token is chosen by."""
    model, processor = parts
    logits = []

    def never_stop(ids, scores):
        logits.append(scores.clone())
        scores[:, processor.action_ids[0]] = -torch.inf
        return scores

    agent = StreamVLNAgent(model, processor, logits_processor=[never_stop], **settings)
    if not prepares:
        agent._caller.prepare = lambda moment, session: None
    agent.logits = logits
    return agent


def run_episode(agent, steps, seed=0):
    """Actions, calls, and the steps after which a window was prepared."""
    actions, calls, prepared = [], [], []
    for step in range(steps):
        before = agent.stats.calls
        actions.append(agent.act(observe(step, seed)))
        if agent.stats.calls > before:
            calls.append(agent.last_call)
        if agent.session.prepared is not None:
            prepared.append(step)
    return actions, calls, prepared


def assert_same_episode(parts, **settings):
    """Plays with and without preparation; the steps that prepared."""
    agent, other = make_agent(parts, **settings), make_agent(parts, prepares=False, **settings)
    actions, calls, prepared = run_episode(agent, STEPS)
    expected, expected_calls, never = run_episode(other, STEPS)
    assert never == []
    assert actions == expected
    assert calls == expected_calls, "ids, lengths, history and cache positions"
    # Sums in another order: on some processors they differ by more than 1e-5.
    torch.testing.assert_close(torch.cat(agent.logits), torch.cat(other.logits), rtol=0, atol=1e-4)
    assert agent.stats == other.stats
    return prepared


@pytest.mark.parametrize("strategy", MEMORY_STRATEGIES)
def test_same_episode_with_every_memory_strategy(parts, strategy):
    prepared = assert_same_episode(parts, memory_strategy=strategy)
    assert prepared == ([] if strategy == "none" else [31, 63])


@pytest.mark.parametrize("style", ["published", "trained"])
@pytest.mark.parametrize("constrained", [False, True])
def test_same_episode_in_every_style(parts, style, constrained):
    assert_same_episode(parts, prompt_style=style, constrained=constrained, max_new_tokens=12)


@pytest.mark.parametrize(
    "settings",
    [
        {"chunk_size": 1},
        {"chunk_size": 3},
        {"chunk_size": 5},
        {"window_steps": 4},
        {"window_steps": 8, "num_history": 7},
        {"num_history": 1},
        {"max_steps": 40},
        {"max_steps": 40, "chunk_size": 3, "window_steps": 12},
    ],
    ids=str,
)
def test_same_episode_with_other_sizes(parts, settings):
    assert_same_episode(parts, **settings)


def test_a_chunk_without_hand_outs_prepares_nothing(parts):
    assert assert_same_episode(parts, chunk_size=1) == []


def test_first_call_of_a_prepared_window_sees_the_new_frame_only(parts):
    agent, lengths = make_agent(parts), []
    handle = agent.model.language_model.register_forward_hook(
        lambda module, inputs, output: lengths.append(output.last_hidden_state.shape[1])
    )
    by_step = []
    for step in range(34):
        lengths.clear()
        agent.act(observe(step))
        by_step.append(list(lengths))
    handle.remove()
    assert by_step[29:31] == [[], []]
    (opening,) = by_step[31]
    prefill, second = by_step[32]
    assert second == 1 + 3, "a move, and the three that may follow it"
    assert opening + prefill == agent.last_call.prefill_length + 3
    assert prefill < 16 + 16
    assert opening > 8 * 16


def test_reset_between_preparation_and_use(parts):
    agent = make_agent(parts)
    expected = run_episode(agent, 40, seed=1)
    agent.reset()
    _, _, prepared = run_episode(agent, 32, seed=2)
    assert prepared == [31]
    agent.reset()
    assert agent.session.prepared is None
    assert run_episode(agent, 40, seed=1) == expected


def test_nothing_is_prepared_before_a_stop(parts):
    agent = make_agent(parts)
    run_episode(agent, 29)
    agent.stream.queue.clear()
    agent.stream.queue.push([1, 1, 0])
    assert [agent.act(observe(step)) for step in (29, 30, 31)] == [1, 1, 0]
    assert agent.session.prepared is None


@pytest.mark.parametrize("executed", [0, 1, 7, 30])
def test_chunks_asked_for_after_a_preparation(parts, executed):
    """The window then opens later than expected; its memory may be another."""
    agent, other = make_agent(parts), make_agent(parts, prepares=False)
    for each in (agent, other):
        run_episode(each, 32)
    assert agent.session.prepared is not None
    later = observe(32 + executed)
    assert agent.predict_chunk(later, executed) == other.predict_chunk(later, executed)
    assert agent.last_call == other.last_call
    assert agent.session.prepared is None
    torch.testing.assert_close(torch.cat(agent.logits), torch.cat(other.logits), rtol=0, atol=1e-5)


def test_a_preparation_that_fails_loses_no_action(parts, monkeypatch):
    agent, other = make_agent(parts), make_agent(parts)
    for each in (agent, other):
        run_episode(each, 31)

    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(agent.session, "prepare", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            agent.act(observe(31))
    again, expected = ([each.act(observe(step)) for step in range(31, 40)] for each in (agent, other))
    assert again == expected


def test_a_call_that_fails_forgets_what_was_prepared(parts, monkeypatch):
    agent, other = make_agent(parts), make_agent(parts, prepares=False)
    for each in (agent, other):
        run_episode(each, 32)
        with monkeypatch.context() as patch:
            patch.setattr(each.session, "generate", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                each.act(observe(32))
        assert each.session.prepared is None
    again, expected = ([each.act(observe(step)) for step in range(32, 40)] for each in (agent, other))
    assert again == expected


def test_batches_prepare_nothing_and_act_alike(parts):
    agent, batched = make_agent(parts), make_agent(parts)
    expected, _, _ = run_episode(agent, 70)
    actions = [batched.act_batch([observe(step)], np.array([step == 0]))[0] for step in range(70)]
    assert actions == expected
    assert batched.session.prepared is None
