"""The tensors of online training are those of the windows' encoder, the collator and the agent."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL, IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.dialogue import CONJUNCTIONS
from streamvln_gym.models.memory_strategies import strategy_of
from streamvln_gym.training.collator import StreamVLNCollator
from streamvln_gym.training.online.batches import BatchPlan, Bucket, answer_labels
from streamvln_gym.training.online.config import OptimizeConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.pictures import PicturesOfWorkers
from streamvln_gym.training.online.policy import StreamsPolicy
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.privileged import AuxiliaryConfig
from streamvln_gym.training.trajectories import Trajectory
from streamvln_gym.training.windows import WindowConfig, WindowEncoder
from tests.thin_network import thin_parts

CONJUNCTION = 2
TEXTS = (
    "Go to the kitchen and stop.",
    "Leave the bedroom, walk down the hallway, then wait by the grey sofa.",
    "Wait.",
)


def small_network(**settings):
    return thin_parts(0.15, narrow=True, seed=2, **settings)


SIZES = {"memory": {"num_history": 8}, "no memory": {"num_history": 0}}
SIZES["short windows"] = {"num_history": 4, "window_steps": 16}
SIZES["unpooled"] = {"num_history": 4, "memory_strategy": "full"}
SIZES["pairs of frames"] = {"num_history": 5, "memory_strategy": "temporal_pool"}
SIZES["none shown"] = {"num_history": 8, "memory_strategy": "none"}


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES.keys())
def parts(request):
    torch.set_num_threads(1)
    return small_network(**request.param)


class FixedConjunction:
    """Stands for a random generator."""

    def integers(self, high, size):
        return np.full(size, CONJUNCTION)


def plan_for(processor):
    """Two buckets, with rows to spare in both; shorter windows are more."""
    config = processor.config
    more = 32 // config.window_steps
    history = 0 if config.memory_strategy == "none" else config.num_history
    return BatchPlan(64, (Bucket(5 * more, 300), Bucket(4 * more, 650)), config.window_steps // 4, history)


def fill_buffer(processor, lengths, rng):
    """A buffer with one finished episode per length (in actions), and what was put in."""
    arrays = StreamArrays(1, 112, 64, 4)
    buffer = FrameBuffer(200, arrays, 64, 64, torch.device("cpu"))
    episodes = []
    for text, length in zip(TEXTS, lengths, strict=True):
        moves = [*rng.integers(1, 4, length - 1).tolist(), 0]
        pictures = []
        for begin in range(0, length, 4):
            arrays.rgb[:] = rng.integers(0, 256, (1, 7, 7, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
            pictures.append(arrays.rgb[0].copy())
            ids = processor.tokenizer.encode(text, add_special_tokens=False)
            buffer.add(arrays, PicturesOfWorkers(arrays, torch.device("cpu")).take(), {0: ids} if begin == 0 else {})
            chunk = moves[begin : begin + 4]
            for row in (arrays.executed[0], arrays.labels[0]):
                row[:] = -1
                row[: len(chunk)] = chunk
            arrays.finished[:] = begin + 4 >= length
            buffer.finish_turn(arrays)
        episodes.append((text, moves, pictures))
    arrays.close()
    return buffer, episodes


class Pictures(Trajectory):
    """A trajectory whose pictures are in memory."""

    shown: list

    def picture(self, step):
        return self.shown[step // 4]


def samples_of(processor, episodes):
    """The same episodes by way of the encoder, as samples for the collator."""
    encoder = WindowEncoder(processor, WindowConfig(conjunctions=(CONJUNCTIONS[CONJUNCTION],)))
    samples = []
    for text, moves, pictures in episodes:
        trajectory = Trajectory("memory", 0, (text,), tuple(moves), None)
        for window in encoder.windows([trajectory]):
            encoded = encoder.encode(trajectory, window, encoder.picker())
            steps = encoded.history_steps + encoded.frame_steps
            samples.append(
                {
                    "input_ids": torch.tensor(encoded.input_ids),
                    "labels": torch.tensor(encoded.labels),
                    "pixel_values": torch.from_numpy(processor.images([pictures[step // 4] for step in steps])),
                    "memory_frames": len(encoded.history_steps),
                }
            )
    return samples


def expand(ids, processor):
    """Window ids with one entry per embedding."""
    config = processor.config
    memory = strategy_of(config).most_tokens(config.num_history, config.patches_per_side**2, config.tokens_per_frame)
    counts = {IMAGE_TOKEN_ID: config.tokens_per_frame, MEMORY_TOKEN_ID: memory}
    return [token for token in ids for _ in range(counts.get(token, 1))]


LENGTHS = (70, 32, 5)


def test_ids_and_labels_equal_the_encoders(parts):
    _, processor = parts
    buffer, episodes = fill_buffer(processor, LENGTHS, np.random.default_rng(0))
    layout = DialogueLayout(processor)
    plan = plan_for(processor)
    packed = torch.from_numpy(plan.fill(np.arange(3), buffer, layout, FixedConjunction()))
    shown, windows = plan.gather(packed, buffer, layout)
    assert shown.counted.sum() == buffer.written == 28
    assert shown.places[:28].tolist() == list(range(28))
    assert not shown.mirrored.any()
    expected = sorted((expand(s["input_ids"].tolist(), processor) for s in samples_of(processor, episodes)), key=len)
    labels = [s["labels"][s["labels"] != IGNORE_LABEL].tolist() for s in samples_of(processor, episodes)]
    found, found_labels = [], []
    for rows in windows:
        ids, places = layout.build(rows.windows, rows.length)
        for k in range(len(ids)):
            turns = int((rows.current[k] >= 0).sum())
            if not turns:
                assert (rows.labels[k] == IGNORE_LABEL).all()
                continue
            memory = bool(rows.windows.with_memory[k])
            length = int(
                layout.lengths(
                    rows.windows.instruction_lengths[k : k + 1], torch.tensor([memory]), torch.tensor([turns])
                )
            )
            row = [
                token if place < 0 else MEMORY_TOKEN_ID if place < layout.memory_tokens else IMAGE_TOKEN_ID
                for token, place in zip(ids[k, :length].tolist(), places[k, :length].tolist(), strict=True)
            ]
            found.append(row)
            wanted = rows.labels[k]
            found_labels.append(wanted[wanted != IGNORE_LABEL].tolist())
    assert len(found) == len(expected) == (5 if processor.config.window_steps == 32 else 8)
    newline = processor.tokenizer.encode("\n")
    for mine, theirs in zip(sorted(found, key=len), expected, strict=True):
        theirs = theirs[: -len(newline)]  # closes a training dialogue, and is never learned
        shared = min(len(mine), len(theirs))  # an answer that ends in STOP has room to spare here
        assert mine[:shared] == theirs[:shared]
        assert 0 <= len(mine) - len(theirs) <= 4
    assert sorted(found_labels) == sorted(labels)


def test_loss_equals_the_models(parts):
    model, processor = parts
    buffer, episodes = fill_buffer(processor, LENGTHS, np.random.default_rng(1))
    layout = DialogueLayout(processor)
    learner = Learner(model, layout, OptimizeConfig(stop_weight=1.0), AuxiliaryConfig(0.0, 0.0))
    learner.plan(buffer, buffer.whole, 64)
    learner._plan = plan_for(processor)
    packed = torch.from_numpy(learner._plan.fill(np.arange(3), buffer, layout, FixedConjunction()))
    with torch.no_grad():
        loss, _ = learner.loss(packed)
        expected = model(**StreamVLNCollator()(samples_of(processor, episodes))).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_actions_equal_the_agents(parts):
    model, processor = parts
    layout = DialogueLayout(processor)
    streams, calls = 3, 21
    policy = StreamsPolicy(model, layout, streams, 32, 64)
    starts = {0: [0, 11], 1: [0], 2: [0, 5, 17]}  # turns at which the streams' episodes start
    agents = [StreamVLNAgent(model, processor, conjunctions=(CONJUNCTIONS[CONJUNCTION],)) for _ in range(streams)]
    rng = np.random.default_rng(2)
    executed = torch.full((streams, 4), -1)
    texts = list(TEXTS)
    moved = 0
    for turn in range(calls):
        begun = {k: processor.tokenizer.encode(texts[k], add_special_tokens=False) for k in starts if turn in starts[k]}
        policy.begin(begun)
        rgb = rng.integers(0, 256, (streams, 7, 7, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        actions = policy.act(torch.from_numpy(rgb), executed, torch.full((streams,), CONJUNCTION)).actions
        for k, agent in enumerate(agents):
            if k in begun:
                agent.reset()
            chunk = agent.predict_chunk({"rgb": rgb[k], "instruction": texts[k]}, n_executed=None if k in begun else 4)
            assert actions[k, : len(chunk)].tolist() == chunk
            moved += len(chunk)
        # A STOP that is not executed would leave another dialogue: the agent's own answer is what went into its cache.
        executed = torch.where(actions == 0, 1, actions)
        stopped = (actions == 0).any(1)
        for k in np.flatnonzero(stopped.numpy()):
            starts[int(k)].append(turn + 1)
    assert moved > streams * calls * 2


def test_a_resting_stream_runs_on(parts):
    model, processor = parts
    policy = StreamsPolicy(model, DialogueLayout(processor), 2, 16, 64)
    policy.begin({0: [5], 1: [6]})
    rgb, executed = torch.zeros((2, 112, 112, 3), dtype=torch.uint8), torch.ones((2, 4), dtype=torch.int64)
    first = policy.act(rgb, executed, torch.zeros(2, dtype=torch.int64))
    for _ in range(15):
        policy.act(rgb, executed, torch.zeros(2, dtype=torch.int64))
    policy.begin({0: [5]})
    again = policy.act(rgb, executed, torch.zeros(2, dtype=torch.int64))
    assert policy.turns.tolist() == [1, 17]
    assert again.actions.tolist() == first.actions.tolist()


@pytest.mark.parametrize("history", [8, 0])
def test_a_batch_is_cut_where_it_is_full(history):
    _, processor = small_network(num_history=history)
    buffer, _ = fill_buffer(processor, LENGTHS, np.random.default_rng(3))
    layout = DialogueLayout(processor)
    whole = plan_for(processor)
    tight = BatchPlan(64, (Bucket(3, 300), Bucket(4, 500)), whole.turns, whole.num_history)
    short = BatchPlan(27, whole.buckets, whole.turns, whole.num_history)
    # Of the first episode three windows are short without memory, two with it.
    expected = {whole: 28, short: 26, tight: 26 if processor.config.num_history else 18}
    for plan, frames in expected.items():
        packed = plan.fill(np.arange(3), buffer, layout, np.random.default_rng(0))
        assert packed.shape == (plan.size,)
        assert packed[0] == frames


def test_planned_shapes_take_every_window(parts):
    _, processor = parts
    buffer, _ = fill_buffer(processor, LENGTHS, np.random.default_rng(4))
    layout = DialogueLayout(processor)
    plan = BatchPlan.for_buffer(buffer, layout, buffer.whole, 64, 64)
    longest = layout.lengths(torch.tensor([64]), torch.tensor([layout.num_history > 0]), torch.tensor([layout.turns]))
    assert plan.buckets[-1].length >= int(longest[0])
    assert [bucket.length for bucket in plan.buckets] == sorted({bucket.length for bucket in plan.buckets})
    packed = plan.fill(np.array([0, 1, 2]), buffer, layout, np.random.default_rng(0))
    assert packed[0] == 28


def test_an_episode_that_is_too_long_for_a_batch_is_passed_over(parts):
    _, processor = parts
    buffer, _ = fill_buffer(processor, LENGTHS, np.random.default_rng(5))
    whole = plan_for(processor)
    plan = BatchPlan(12, whole.buckets, whole.turns, whole.num_history)
    packed = plan.fill(np.array([0, 1, 2]), buffer, DialogueLayout(processor), np.random.default_rng(0))
    assert packed[0] == 8 + 2


def test_a_plan_made_for_short_episodes_starves_long_ones_until_it_is_made_anew(parts):
    _, processor = parts
    layout, rng = DialogueLayout(processor), np.random.default_rng(6)
    buffer, _ = fill_buffer(processor, (5, 6, 7), rng)
    early = BatchPlan.for_buffer(buffer, layout, buffer.whole, 60, 64)
    later, _ = fill_buffer(processor, (110, 100, 120), rng)
    rows = np.array([0, 1, 2] * 4)
    planned = BatchPlan.for_buffer(later, layout, later.whole, 60, 64)
    few, many = (plan.fill(rows, later, layout, rng)[0] for plan in (early, planned))
    assert few < many and many >= 28


def test_nothing_is_learned_of_an_answer_after_another_s_action():
    layout = DialogueLayout(StreamVLNProcessor.tiny())
    executed = torch.tensor([[1, 2, 3, 1], [2, 2, 2, 2], [1, 1, 1, 1], [1, 0, -1, -1]])
    wanted = torch.tensor([[1, 3, 3, 1], [3, 3, 0, 3], [1, 1, 1, 0], [1, 0, -1, -1]])
    ids, stops = answer_labels(executed, wanted, layout)
    stop, forward, _, right = layout.action_ids.tolist()
    end, none = layout.end_id, IGNORE_LABEL
    assert ids.tolist() == [
        [forward, right, none, none, end],
        [right, none, none, none, end],
        [forward, forward, forward, stop, end],
        [forward, stop, end, none, none],
    ]
    assert stops.nonzero().tolist() == [[2, 3], [3, 1]]
