"""Vision-tower passes over whole episodes; memory that stays bounded however long an episode is."""

import gc
import os

import psutil
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from tests.agents.test_streaming_fuzz import PlannedLength, frame_at
from tests.thin_network import NARROW, thin_parts


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.02, narrow=True, layers=1)


def make_agent(parts, length=4, **settings):
    _, *arrows = parts[1].action_ids
    plan = PlannedLength(arrows, parts[1].turn_end_id, length)
    return StreamVLNAgent(*parts, constrained=False, logits_processor=[plan], **settings)


@pytest.mark.parametrize("length", [4, 3, 5])
def test_tower_passes_of_a_500_step_episode(parts, length):
    """One per model call with 4-action answers; otherwise also the shown frames that were no call frames, once each."""
    agent, passes, shown = make_agent(parts, length), [], set()
    handle = agent.model.vision_tower.register_forward_hook(lambda m, i, o: passes.append(len(o.last_hidden_state)))
    for step in range(500):
        agent.act(frame_at(step, 0))
        if agent.last_call.step == step:
            shown.update(agent.last_call.history_steps)
    handle.remove()
    calls = -(-500 // length)
    between = {step for step in shown if step % length}
    assert agent.stats.calls == agent.stats.current_frames == calls
    assert agent.stats.history_frames == len(between)
    assert sum(passes) == calls + len(between)
    assert bool(between) == (length != 4)


def test_history_frames_at_most_31_after_a_window_opens(parts):
    """The rule's own need with 8 frames per window and 32 steps, in episodes of up to 500 steps; 35 between windows."""
    agent = make_agent(parts)
    held = []
    for step in range(500):
        agent.act(frame_at(step, 0))
        held.append(len(agent.stream.memory))
    current = 1
    assert max(held[::32]) == 31 + current
    assert max(held) == 35 + current
    assert agent.stream.memory.nbytes <= 36 * 16 * NARROW * 4


def test_history_beyond_max_steps_spans_the_whole_past(parts):
    agent = make_agent(parts)
    for step in range(900):
        agent.act(frame_at(step, 0))
        call = agent.last_call
        if call.step == step and call.history_steps and step > 500:
            wanted = [index * (step // 8) for index in range(8)]
            assert all(0 <= index - shown <= 60 for index, shown in zip(wanted, call.history_steps, strict=True))
        assert len(agent.stream.memory) <= 37


def tensor_bytes() -> int:
    """Bytes of all live tensors, each storage once."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    storages = {found.untyped_storage().data_ptr(): found.untyped_storage().nbytes() for found in tensors}
    return sum(storages.values())


def check_growth(parts, steps, settle):
    """After `settle` steps, no window start finds more tensors alive or a larger process (but for 16 MiB of heap)."""
    agent, process = make_agent(parts, conjunctions=["there is "]), psutil.Process(os.getpid())
    tensors, resident = [], []
    for step in range(steps):
        agent.act(frame_at(step, 0))
        if step % 32 == 28:
            tensors.append(tensor_bytes())
            resident.append(process.memory_info().rss)
    early = settle // 32
    frame = 16 * NARROW * 4
    assert max(tensors[early:]) <= max(tensors[:early]) + 2 * frame
    assert max(resident[early:]) <= max(resident[:early]) + 16 * 2**20
    return agent


def test_memory_over_500_steps(parts):
    agent = check_growth(parts, 500, 300)
    assert agent.stream.memory.nbytes <= 36 * 16 * NARROW * 4


@pytest.mark.long
def test_memory_over_5000_steps(parts):
    agent = check_growth(parts, 5000, 600)
    assert agent.stream.memory.nbytes <= 37 * 16 * NARROW * 4
    assert agent.stats.tower_frames == 1250
