"""Random dialogues: streamed logits equal those of one prefill, and every frame shown is the right one.

The test keeps its own clock and its own record of the frames; it shares no code with the agent but the network.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamvln_gym.agents import StreamVLNAgent
from tests.thin_network import thin_parts

IMAGE, MEMORY = -200, -300
INSTRUCTION = "Leave the bedroom, go down the hallway and wait by the piano."


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.3, narrow=True, seed=1)


def frame_at(step: int, seed: int) -> dict:
    blocks = np.random.default_rng([seed, step]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return {"rgb": blocks.repeat(4, 0).repeat(4, 1), "instruction": INSTRUCTION}


@dataclass
class PlannedLength:
    """Logits processor: the answer has `length` arrows (chosen by the network), then it ends; 0 is unparsable."""

    arrows: list[int]
    end: int
    length: int = 4

    def __call__(self, input_ids, scores):
        allowed = self.arrows if input_ids.shape[1] < self.length else [self.end]
        restricted = torch.full_like(scores, -torch.inf)
        restricted[:, allowed] = scores[:, allowed]
        return restricted


@dataclass
class Event:
    """What the caller does next: `act` so many times, or one `predict_chunk` after so many executed actions."""

    acts: int
    executed: int | None
    lengths: list[int] = field(default_factory=list)


EVENTS = st.builds(
    Event,
    acts=st.sampled_from([0, 0, 1, 2, 5, 9]),
    executed=st.one_of(st.none(), st.integers(1, 6)),
    lengths=st.lists(st.integers(0, 6), min_size=10, max_size=10),
)


class Reference:
    """The published rules, written down a second time: clock, windows, frames."""

    def __init__(self, agent, window, history, seed):
        self.agent, self.window, self.history, self.seed = agent, window, history, seed
        self.clock = self.pending = self.uncounted = 0
        self.shown: list[int] = []
        self.number = None
        self.features: dict[int, torch.Tensor] = {}
        self.streamed: list[tuple[int, torch.Tensor]] = []
        self.blocks: list[torch.Tensor] = []

    def encode(self, step):
        if step not in self.features:
            pixels = self.agent.processor.images([frame_at(step, self.seed)["rgb"]])
            self.features[step] = self.agent.model.encode_images(torch.from_numpy(pixels))[0]
        return self.features[step]

    def memory_steps(self):
        t0, seen = self.clock, [step for step in self.shown if step < self.clock]
        wanted = list(range(0, t0, max(t0 // self.history, 1)))[: min(self.history, t0)]
        return [max([step for step in seen if step <= index], default=seen[0]) for index in wanted] if seen else []

    def check_call(self):
        """After a model call at the clock: the frames that went in, and the streamed logits."""
        call, session = self.agent.last_call, self.agent.session
        opens = self.number != self.clock // self.window
        if opens:
            self.compare_with_one_prefill()
            self.number = self.clock // self.window
        else:
            assert len(session.embeddings) > len(self.blocks)
        memory = self.memory_steps() if opens else []
        assert call.step == self.clock
        assert call.history_steps == memory
        assert call.prompt_ids.count(MEMORY) == bool(memory)
        assert (call.kv_before == 0) == opens
        start = 0 if opens else len(self.blocks)
        prompt = session.embeddings[start][0]
        position = call.prompt_ids.index(IMAGE) + (len(memory) * 16 - 1 if memory else 0)
        torch.testing.assert_close(prompt[position : position + 16], self.encode(self.clock), rtol=0, atol=1e-5)
        if memory:
            first = call.prompt_ids.index(MEMORY)
            expected = torch.cat([self.encode(step) for step in memory])
            torch.testing.assert_close(prompt[first : first + len(expected)], expected, rtol=0, atol=1e-5)
        base = sum(block.shape[1] for block in session.embeddings[: start + 1]) - 1
        self.streamed += [(base + index, logits) for index, logits in enumerate(session.logits)]
        self.blocks = list(session.embeddings)
        assert session.kv_length == sum(block.shape[1] for block in self.blocks) == call.kv_after

    def compare_with_one_prefill(self):
        if self.blocks:
            whole = self.agent.model(inputs_embeds=torch.cat(self.blocks, 1)).logits[0]
            positions = [position for position, _ in self.streamed]
            streamed = torch.stack([logits for _, logits in self.streamed])
            torch.testing.assert_close(streamed, whole[positions], rtol=0, atol=1e-4)
        self.streamed, self.blocks = [], []

    def act(self):
        self.clock += self.uncounted
        self.uncounted = 0
        calls = self.agent.stats.calls
        self.agent.act(frame_at(self.clock, self.seed))
        assert self.agent.stats.calls - calls == (self.pending == 0)
        if self.pending == 0:
            self.check_call()
            self.pending = self.actions()
        self.shown.append(self.clock)
        self.pending -= 1
        self.clock += 1

    def predict_chunk(self, executed):
        clock = self.clock + (self.uncounted if executed is None else executed)
        if self.shown and clock <= self.shown[-1]:
            return
        self.clock, self.pending = clock, 0
        chunk = self.agent.predict_chunk(frame_at(clock, self.seed), executed)
        self.check_call()
        self.shown.append(clock)
        self.uncounted = len(chunk)
        assert len(chunk) == self.actions()

    def actions(self):
        return len(self.agent.processor.parse_actions(self.agent.last_call.answer_ids)) or 1


@torch.inference_mode()
def play(parts, window, history, style, seed, events):
    model, processor = parts
    _, *arrows = processor.action_ids
    plan = PlannedLength(arrows, processor.turn_end_id)
    agent = StreamVLNAgent(
        model,
        processor,
        window_steps=window,
        num_history=history,
        prompt_style=style,
        constrained=False,
        logits_processor=[plan],
    )
    agent.session.record = True
    reference = Reference(agent, window, history, seed)
    for event in events:
        for length in event.lengths[: event.acts]:
            plan.length = length
            reference.act()
        if event.acts == 0:
            plan.length = event.lengths[0]
            reference.predict_chunk(event.executed)
    reference.compare_with_one_prefill()
    return agent


ARGUMENTS = {
    "window": st.integers(8, 40),
    "history": st.integers(1, 12),
    "style": st.sampled_from(["trained", "published"]),
    "seed": st.integers(0, 3),
    "events": st.lists(EVENTS, min_size=8, max_size=40),
}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
PHASES = [Phase.explicit, Phase.generate]  # shrinking whole dialogues takes minutes


@given(**ARGUMENTS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=QUIET, phases=PHASES)
def test_random_dialogues(parts, window, history, style, seed, events):
    play(parts, window, history, style, seed, events)


@pytest.mark.long
@given(**ARGUMENTS)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=QUIET, phases=PHASES)
def test_two_hundred_random_dialogues(parts, window, history, style, seed, events):
    play(parts, window, history, style, seed, events)
