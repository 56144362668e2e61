"""N streams of a batch do what N agents of their own would do, whatever starts and ends around them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from tests.thin_network import thin_parts

INSTRUCTIONS = (
    "Leave the bedroom and wait by the piano.",
    "Walk past the sofa, turn left into the kitchen and stop in front of the fridge next to the second window.",
    "Go to the bed.",
)
INTRINSICS = np.array([[40.0, 0, 40], [0, 40.0, 30], [0, 0, 1]])


def make_parts() -> tuple[StreamVLNForConditionalGeneration, StreamVLNProcessor]:
    return thin_parts(0.3, narrow=True, seed=1)


@pytest.fixture(scope="module")
def parts():
    return make_parts()


def observe(stream: int, episode: int, step: int) -> dict:
    rng = np.random.default_rng([stream, episode, step])
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    depth = rng.uniform(0.5, 4.0, (6, 8, 1)).astype(np.float32)
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = 0.05 * step
    return {
        "rgb": blocks.repeat(10, 0).repeat(10, 1),
        "depth": depth.repeat(10, 0).repeat(10, 1),
        "camera_pose": pose,
        "intrinsics": INTRINSICS,
        "instruction": INSTRUCTIONS[(stream + episode) % len(INSTRUCTIONS)],
    }


def stack(observations: list[dict]) -> dict:
    """As a vector environment shows them: arrays, and a tuple of instructions."""
    arrays = {key: np.stack([obs[key] for obs in observations]) for key in observations[0] if key != "instruction"}
    return {**arrays, "instruction": tuple(obs["instruction"] for obs in observations)}


@dataclass
class Episodes:
    """Streams whose episodes start and end at random."""

    streams: int
    longest: int = 80
    seed: int = 0
    numbers: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.numbers = [0] * self.streams
        self.steps = [0] * self.streams
        self.ends = [self.draw() for _ in range(self.streams)]

    def draw(self) -> int:
        return int(self.rng.integers(1, self.longest)) if self.rng.random() < 0.8 else 1

    def observe(self) -> list[dict]:
        return [observe(*now) for now in zip(range(self.streams), self.numbers, self.steps, strict=True)]

    def starts(self) -> np.ndarray:
        return np.array(self.steps) == 0

    def executed(self, stream: int, steps: int) -> None:
        self.steps[stream] += steps
        if self.steps[stream] >= self.ends[stream]:
            self.numbers[stream] += 1
            self.steps[stream] = 0
            self.ends[stream] = self.draw()


def check_against_singles(parts, streams: int, steps: int, longest: int = 80, **settings) -> StreamVLNAgent:
    batched = StreamVLNAgent(*parts, **settings)
    singles = [StreamVLNAgent(*parts, **settings) for _ in range(streams)]
    episodes = Episodes(streams, longest)
    for number in range(steps):
        observations, starts = episodes.observe(), episodes.starts()
        active = episodes.rng.random(streams) < 0.9 if number % 3 else None
        expected = [0] * streams
        present = range(streams) if active is None else np.flatnonzero(active).tolist()
        for stream in np.flatnonzero(starts).tolist():
            singles[stream].reset()
        for stream in present:
            expected[stream] = singles[stream].act(observations[stream])
        shown = stack(observations)
        got = batched.act_batch(shown if number % 2 else observations, starts, active)
        assert got == expected, f"step {number}"
        for name in ("rgb", "depth"):
            shown[name][:] = 0  # as shared memory is overwritten
        for stream in present:
            episodes.executed(stream, 1)
    for single, stream in zip(singles, batched.batch.streams, strict=True):
        assert single.step == stream.step
        assert single.stream.memory.steps == stream.memory.steps
        if single.last_call is not None:
            call, own = stream.last_call, single.last_call
            assert (call.step, call.answer_ids, call.history_steps) == (own.step, own.answer_ids, own.history_steps)
    total = {name: sum(getattr(single.stats, name) for single in singles) for name in vars(batched.stats)}
    assert vars(batched.stats) == total
    return batched


@pytest.mark.parametrize(
    ("strategy", "chunk"), [("none", 4), ("pooled", 3), ("pooled", 4), ("temporal_pool", 3), ("voxel", 3)]
)
def test_batch_equals_single_agents(parts, strategy, chunk):
    batched = check_against_singles(parts, 6, 70, memory_strategy=strategy, chunk_size=chunk)
    assert batched.stats.windows > 15
    assert (batched.stats.history_frames > 0) == (strategy != "none"), "frames between calls are shown too"


def test_passes_are_cut_to_size(parts, monkeypatch):
    monkeypatch.setattr("streamvln_gym.agents.model_calls.TOWER_FRAMES", 2)
    monkeypatch.setattr("streamvln_gym.models.batched_streaming.PASS_EMBEDDINGS", 150)
    frames, rows = [], []
    model, _ = parts
    tower = model.vision_tower.register_forward_hook(lambda m, i, o: frames.append(len(o.last_hidden_state)))
    language = model.language_model.register_forward_hook(lambda m, i, o: rows.append(o.last_hidden_state.shape[:2]))
    agent = StreamVLNAgent(*parts)
    agent.act_batch([observe(stream, 0, 0) for stream in range(5)], [True] * 5)
    assert frames == [2, 2, 1]
    assert all(count == 1 or count * length <= 150 for count, length in rows)
    tower.remove()
    language.remove()
    check_against_singles(parts, 5, 20, 30)


@pytest.mark.long
@pytest.mark.parametrize("chunk", [3, 4])
@pytest.mark.parametrize("strategy", ["none", "pooled", "full", "voxel"])
def test_64_streams_equal_single_agents(parts, strategy, chunk):
    check_against_singles(parts, 64, 300, 150, memory_strategy=strategy, chunk_size=chunk)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_style": "published", "constrained": True},
        {"prompt_style": "published", "constrained": False, "max_new_tokens": 7},
        {"constrained": False, "repetition_penalty": 1.3},
        {"repetition_penalty": 1.5, "conjunctions": ["there is ", "you can see "]},
        {"max_new_tokens": 2, "window_steps": 8, "num_history": 3},
        {"prompt_style": "published", "constrained": True, "max_new_tokens": 1},
    ],
)
def test_every_way_of_decoding(parts, settings):
    check_against_singles(parts, 4, 24, 30, **settings)


def test_logits_processors_see_rows(parts):
    seen = []

    def favour(ids, scores):
        seen.append(tuple(ids.shape))
        scores[:, 7] += ids.shape[1]
        return scores

    model, processor = parts
    batched = StreamVLNAgent(model, processor, logits_processor=[favour], constrained=False)
    single = StreamVLNAgent(model, processor, logits_processor=[favour], constrained=False)
    observations = [observe(stream, 0, 0) for stream in range(3)]
    batched.act_batch(observations, [True] * 3)
    assert seen[:2] == [(3, 0), (3, 1)]
    for obs, stream in zip(observations, batched.batch.streams, strict=True):
        single.reset()
        single.act(obs)
        assert single.last_call.answer_ids == stream.last_call.answer_ids


def test_chunks_equal_those_of_single_agents(parts):
    streams = 5
    batched, singles = StreamVLNAgent(*parts), [StreamVLNAgent(*parts) for _ in range(streams)]
    episodes, executed = Episodes(streams, 60), [None] * streams
    for number in range(30):
        observations, starts = episodes.observe(), episodes.starts()
        active = episodes.rng.random(streams) < 0.9 if number % 3 else np.ones(streams, bool)
        expected = [[] for _ in range(streams)]
        for stream in range(streams):
            if starts[stream]:
                singles[stream].reset()
            if active[stream]:
                n = None if starts[stream] else executed[stream]
                expected[stream] = singles[stream].predict_chunk(observations[stream], n)
        given = [9 if start else n for start, n in zip(starts, executed, strict=True)]  # not read at a start
        assert batched.predict_chunk_batch(stack(observations), starts, given, active) == expected
        for stream in np.flatnonzero(active).tolist():
            chunk = expected[stream]
            fewer = int(episodes.rng.integers(1, len(chunk) + 1))
            executed[stream] = fewer if number % 2 else None
            episodes.executed(stream, fewer if number % 2 else len(chunk))


def test_only_streams_without_pending_actions_call_the_model(parts):
    agent = StreamVLNAgent(*parts)
    handle = agent.model.lm_head.register_forward_hook(never_stop(agent))
    passes = []
    watch = agent.model.vision_tower.register_forward_hook(lambda m, i, o: passes.append(len(o.last_hidden_state)))
    try:
        for step in range(12):
            starts = np.array([step == 0, step == 0, step in (0, 2)])
            steps = [step, step, step if step < 2 else step - 2]
            agent.act_batch([observe(0, 0, now) for now in steps], starts)
    finally:
        handle.remove()
        watch.remove()
    assert passes == [3, 1, 2, 1, 2, 1]
    assert agent.stats.tower_frames == agent.stats.calls == 10


def never_stop(agent):
    penalty = torch.zeros(agent.model.config.text_config.vocab_size)
    penalty[agent.processor.action_ids[0]] = -1e6
    return lambda module, inputs, output: output + penalty


def test_memory_holds_no_batch_alive(parts):
    agent = StreamVLNAgent(*parts, chunk_size=3)
    agent.model.lm_head.register_forward_hook(never_stop(agent))
    for step in range(40):
        agent.act_batch([observe(stream, 0, step) for stream in range(4)], np.full(4, step == 0))
    agent.model.lm_head._forward_hooks.clear()
    held = [frame.tokens for stream in agent.batch.streams for frame in stream.memory.sample(40)]
    assert len(held) == 32
    for tokens in held:
        if tokens is not None:
            assert tokens.untyped_storage().nbytes() == tokens.nbytes


def test_number_of_streams_changes_on_a_fresh_start_only(parts):
    agent = StreamVLNAgent(*parts)
    two, three = ([observe(stream, 0, 0) for stream in range(count)] for count in (2, 3))
    agent.act_batch(two, [False, False])  # new streams need no mark
    with pytest.raises(ValueError, match=r"2 streams, but episode_starts has 3.*all episodes start"):
        agent.act_batch(three, [True, True, False])
    assert len(agent.act_batch(three, [True] * 3)) == 3
    agent.reset()
    assert agent.batch is None
    assert len(agent.act_batch(two, [False, False])) == 2


def test_an_error_names_the_stream_and_changes_nothing(parts):
    agent = StreamVLNAgent(*parts)
    observations = [observe(stream, 0, 0) for stream in range(3)]
    agent.act_batch(observations, [True] * 3)
    kept = vars(agent.stats).copy()
    later = [observe(stream, 0, 1) for stream in range(3)]
    for change, kind, text in (
        ({"rgb": np.zeros((2, 2, 3))}, TypeError, "stream 1: .*uint8"),
        ({"rgb": np.zeros((2, 2), np.uint8)}, ValueError, "stream 1: .*shape"),
        ({"instruction": "Another one."}, ValueError, "stream 1: .*changed within an episode.*episode_starts"),
        ({"instruction": " "}, ValueError, "stream 1: .*empty"),
    ):
        with pytest.raises(kind, match=text):
            agent.act_batch([later[0], {**later[1], **change}, later[2]], [True, False, False])
    with pytest.raises(ValueError, match=r"stream 2: .*n_executed must be a number of actions"):
        agent.predict_chunk_batch(later, [False] * 3, [1, 1, -1])
    assert vars(agent.stats) == kept
    assert [stream.step for stream in agent.batch.streams] == [1, 1, 1], "not even stream 0 was reset"
    agent.predict_chunk_batch(later, [False] * 3, [0, 0, 0])
    with pytest.raises(ValueError, match=r"stream 2: .*already seen step 1"):
        agent.predict_chunk_batch(later, [True, False, False], [0, 1, 0])


def test_arguments_that_do_not_fit_are_refused(parts):
    agent = StreamVLNAgent(*parts)
    observations = [observe(stream, 0, 0) for stream in range(3)]
    batched = stack(observations)
    for shown, starts, active, kind, text in (
        (observations, [0, 1, 0], None, TypeError, "episode_starts must be bool"),
        (observations, [[True] * 3], None, ValueError, r"episode_starts must have shape \(streams,\)"),
        (observations, [], None, ValueError, "episode_starts must have shape"),
        (observations, [True] * 3, [True] * 2, ValueError, r"active must have shape \(3,\)"),
        (observations[:2], [True] * 3, None, ValueError, "2 observations, but 3 streams"),
        ({**batched, "rgb": batched["rgb"][:2]}, [True] * 3, None, ValueError, r"\['rgb'\] has 2 entries"),
        ({**batched, "instruction": "One."}, [True] * 3, None, TypeError, "one entry per stream, got str"),
        (5, [True] * 3, None, TypeError, "sequence of dicts"),
    ):
        with pytest.raises(kind, match=text):
            agent.act_batch(shown, starts, active)
    with pytest.raises(ValueError, match="n_executed has 2 entries"):
        agent.predict_chunk_batch(observations, [True] * 3, [1, 1])
    assert agent.stats.calls == 0


def test_streams_that_take_no_part_are_not_read(parts):
    agent = StreamVLNAgent(*parts)
    assert agent.act_batch([observe(0, 0, 0), None], [True, True], [True, False])[1] == 0
    assert agent.predict_chunk_batch([observe(0, 0, 9), None], [True, True], active=[True, False])[1] == []
    assert agent.batch.streams[1].last_call is None
    assert agent.act_batch([None, None], [False, False], [False, False]) == [0, 0]


def test_a_failed_call_loses_windows_and_nothing_else(parts, monkeypatch):
    agent = StreamVLNAgent(*parts, chunk_size=1)
    agent.act_batch([observe(stream, 0, 0) for stream in range(2)], [True, True])
    working = agent.batch.session.answer

    def fail(turns, rules):
        working(turns, rules)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(agent.batch.session, "answer", fail)
    later = [observe(stream, 0, 1) for stream in range(2)]
    with pytest.raises(RuntimeError, match="out of memory"):
        agent.act_batch(later, [False, False])
    assert [stream.step for stream in agent.batch.streams] == [1, 1]
    monkeypatch.setattr(agent.batch.session, "answer", working)
    agent.act_batch(later, [False, False])
    for stream in agent.batch.streams:
        assert stream.step == 2
        assert (stream.last_call.step, stream.last_call.kv_before, stream.last_call.history_steps) == (1, 0, [0])


def test_single_and_batched_streams_are_apart(parts):
    agent, alone = StreamVLNAgent(*parts), StreamVLNAgent(*parts)
    for step in range(6):
        agent.act_batch([observe(1, 0, step)] * 2, np.full(2, step == 0))
        assert agent.act(observe(0, 0, step)) == alone.act(observe(0, 0, step))
    assert agent.last_call == alone.last_call
