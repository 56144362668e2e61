"""The fast path gives what the eager one gives; recorded on a GPU (marked gpu), with plain calls elsewhere."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import ActionGrammar, AnswerRules
from streamvln_gym.models.fast_streaming import FastSession, why_not_fast
from streamvln_gym.models.frame_encoder import RECORDED_SIZES, DeviceFrameEncoder
from streamvln_gym.models.look_ahead import MoveTree
from streamvln_gym.models.packed_language import PackedLanguageModel, all_plain
from streamvln_gym.models.packed_ops import TorchOps
from streamvln_gym.models.packed_plan import pack_rows
from streamvln_gym.models.pil_bicubic import resize
from streamvln_gym.models.recorded_calls import RecordedCalls
from streamvln_gym.models.stream_cache import StreamCache
from tests.agents.test_act_batch import check_against_singles, observe
from tests.packed_ops_cases import CASES, LARGER_CASES, check_ops
from tests.thin_network import thin_parts

ROOT = Path(__file__).parents[2]
SPREAD = 0.3


@pytest.fixture(scope="module")
def parts():
    return thin_parts(SPREAD, narrow=True)


@pytest.fixture(scope="module")
def gpu_parts():
    model, processor = thin_parts(SPREAD, narrow=True)
    return model.cuda(), processor


def compare(parts, chunks: int, episode_steps: int = 80, **settings) -> int:
    """Plays frames to a fast and to an eager agent; the number of different answers."""
    fast, eager = StreamVLNAgent(*parts, fast=True, **settings), StreamVLNAgent(*parts, fast=False, **settings)
    answers, episode = set(), 0
    while eager.stats.calls < chunks:
        fast.reset()
        eager.reset()
        for step in range(episode_steps):
            obs = observe(0, episode, step)
            assert fast.act(obs) == eager.act(obs), f"episode {episode}, step {step}"
            assert fast.last_call == eager.last_call
            answers.add(tuple(eager.last_call.answer_ids))
        episode += 1
    assert fast.stats == eager.stats
    return len(answers)


@pytest.mark.parametrize("chunks", [60, pytest.param(500, marks=pytest.mark.long)])
def test_chunks_as_the_eager_path(parts, chunks):
    assert compare(parts, chunks) > 10


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt_style": "published", "constrained": True},
        {"repetition_penalty": 1.3},
        {"chunk_size": 6},
        {"chunk_size": 1},
        {"memory_strategy": "full"},
    ],
    ids=str,
)
def test_other_settings(parts, settings):
    assert compare(parts, 24, episode_steps=48, **settings) > 2


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_depth_gives_the_same(parts, depth):
    model, processor = parts
    fast, eager = StreamVLNAgent(*parts, fast=True), StreamVLNAgent(*parts, fast=False)
    fast.fast_session = FastSession(model, 1, 64, depth=depth)  # which has to grow, too
    for step in range(80):
        obs = observe(1, 0, step)
        assert fast.act(obs) == eager.act(obs)
        assert fast.last_call == eager.last_call


@pytest.mark.parametrize(("strategy", "pass_tokens"), [("pooled", 16_384), ("voxel", 200)])
def test_batch_equals_single_agents(parts, strategy, pass_tokens, monkeypatch):
    """Random starts, ends and gaps, memories of different lengths; passes are cut where they get long."""
    monkeypatch.setattr("streamvln_gym.models.fast_streaming.PASS_TOKENS", pass_tokens)
    made = []

    def make(*arguments, **settings):
        made.append(StreamVLNAgent(*arguments, fast=not made, **settings))
        return made[-1]

    monkeypatch.setattr("tests.agents.test_act_batch.StreamVLNAgent", make)
    check_against_singles(parts, 5, 48, memory_strategy=strategy)
    session = made[0].batch.session
    assert isinstance(session, FastSession)


def test_slots_are_reused(parts):
    agent = StreamVLNAgent(*parts, fast=True)
    places = set()
    for episode in range(3):
        for step in range(0, 40, 4):
            agent.predict_chunk_batch([observe(n, episode, step) for n in range(3)], [step == 0] * 3, [4] * 3)
            places.add(agent.batch.session.cache.memory.data_ptr())
    assert len(places) == 1


def reference_logits(model, prompt: torch.Tensor, path: list[int]) -> torch.Tensor:
    cache = model.new_cache()
    fed = torch.cat([prompt, model.embed(path)], 1) if path else prompt
    return model.lm_head(model.extend(fed, cache))[0]


@torch.inference_mode()
def check_logits(model, ops, tolerance: float, record: bool = False) -> None:
    """A packed pass over rows with a past gives every node of every tree the logits that it has alone."""
    generator = torch.Generator().manual_seed(0)
    device, hidden = model.device, model.config.text_config.hidden_size

    def draw(length: int) -> torch.Tensor:
        return (0.1 * torch.randn(1, length, hidden, generator=generator)).to(device, model.dtype)

    moves, tree, slots = [5, 6, 7], MoveTree(3, 2), [3, 0, 2]
    pasts, prompts = [draw(9), draw(70), draw(1)], [draw(33), draw(1), draw(5)]
    cache, network = StreamCache(model, 4, 128), PackedLanguageModel(model, ops)
    group = model.config.text_config.num_attention_heads // cache.kv_heads
    for rows, ahead in ((pasts, MoveTree(3, 0)), (prompts, tree)):
        arrays = pack_rows([part.shape[1] for part in rows], slots, 4, ahead, group, recorded=True)
        plan = arrays.plan(torch.from_numpy(arrays.numbers).to(device))
        leaves = model.embed(ahead.ids(moves))[0] if ahead.nodes else draw(1)[0, :0]
        x = torch.cat([torch.cat([part[0], leaves]) for part in rows])
        x = torch.cat([x, x.new_zeros(len(plan.row) - len(x), hidden)])
        output = network(x, plan, cache)
        cache.lengths[plan.slots[:-1]] += plan.known
    logits = model.lm_head(output).view(3, 1 + tree.nodes, -1)
    for row in range(3):
        whole = torch.cat([pasts[row], prompts[row]], 1)
        for node in range(1 + tree.nodes):
            path, at = [], node
            while at:
                path.insert(0, moves[(at - 1) % 3])
                at = (at - 1) // 3
            expected = reference_logits(model, whole, path)
            torch.testing.assert_close(logits[row, node], expected, rtol=tolerance, atol=tolerance)


def test_logits(parts):
    check_logits(parts[0], TorchOps(), 1e-4)


def test_weights_stay_loadable(tmp_path):
    model, _ = thin_parts(SPREAD, narrow=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    PackedLanguageModel(model, TorchOps())
    layer = model.language_model.layers[0].self_attn
    assert layer.q_proj.weight.untyped_storage().data_ptr() == layer.v_proj.weight.untyped_storage().data_ptr()
    storages = [layer.q_proj.weight.data_ptr()]
    PackedLanguageModel(model, TorchOps())
    assert storages == [layer.q_proj.weight.data_ptr()], "joined once"
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    for name, weight in before.items():
        assert torch.equal(loaded[name], weight), name


class WeightOfAnotherClass(torch.nn.Parameter):
    """As torchao's: the layer stays an nn.Linear."""


def test_layers_of_other_classes_are_called_one_by_one():
    model, processor = thin_parts(SPREAD, narrow=True)
    assert all_plain(model)
    projection = model.language_model.layers[0].self_attn.q_proj
    projection.weight = WeightOfAnotherClass(projection.weight.data)
    assert not all_plain(model)
    place = projection.weight.data_ptr()
    assert compare((model, processor), 12, episode_steps=48) > 1
    assert projection.weight.data_ptr() == place, "left as it is"


def test_moved_weights_are_noticed():
    model, processor = thin_parts(SPREAD, narrow=True)
    fast, eager = StreamVLNAgent(model, processor, fast=True), StreamVLNAgent(model, processor, fast=False)
    for number in range(2):
        fast.reset()
        eager.reset()
        for step in range(0, 12, 4):
            assert fast.predict_chunk(observe(0, 0, step), 4) == eager.predict_chunk(observe(0, 0, step), 4)
        if not number:
            for weight in model.parameters():
                weight.data = weight.data.flip(0).clone()


def drawn_chunks(model, processor, fast: bool, streams: int) -> np.ndarray:
    """(streams, 4) answers to one and the same observation, drawn anew in each stream; filled up with -1."""
    agent = StreamVLNAgent(model, processor, fast=fast)
    seen = observe(0, 0, 0)
    observations = {"rgb": np.stack([seen["rgb"]] * streams), "instruction": [seen["instruction"]] * streams}
    state, actions = None, []
    for _ in range(4):
        action, state = agent.predict(observations, state, deterministic=False)
        actions.append(action)
    chunks = np.stack(actions, 1)
    ended = np.cumsum(chunks == 0, 1) - (chunks == 0) > 0
    return np.where(ended, -1, chunks)


def check_draws(model, processor, streams: int = 1500) -> None:
    """Both paths draw each action from the same probabilities, given the actions before it."""
    torch.manual_seed(0)
    ours, theirs = (drawn_chunks(model, processor, fast, streams) for fast in (True, False))
    for place in range(4):
        for action in range(4):
            shares = [(chunks[:, place] == action).mean() for chunks in (ours, theirs)]
            assert abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * 0.25 / streams), (place, action, shares)
        firsts = np.unique(ours[:, place])
        assert place > 0 or len(firsts) > 1, "nothing was drawn"
    pairs = [np.bincount(chunks[:, 0] * 5 + chunks[:, 1] + 1, minlength=20) / streams for chunks in (ours, theirs)]
    assert np.abs(pairs[0] - pairs[1]).max() < 4 * np.sqrt(2 * 0.25 / streams)


def test_draws_follow_the_same_probabilities():
    check_draws(*thin_parts(0.1), streams=700)


def test_best_actions_after_drawn_ones(parts):
    """A batch may be asked for either, call by call."""
    fast, eager = StreamVLNAgent(*parts, fast=True), StreamVLNAgent(*parts, fast=False)
    observations = [observe(n, 0, 0) for n in range(3)]
    starts = np.ones(3, bool)
    torch.manual_seed(0)
    seen = {
        "rgb": np.stack([obs["rgb"] for obs in observations]),
        "instruction": [o["instruction"] for o in observations],
    }
    fast.predict(seen, deterministic=False)
    assert fast.predict_chunk_batch(observations, starts) == eager.predict_chunk_batch(observations, starts)


def check_release(parts) -> None:
    gc.collect()
    gc.disable()
    try:
        agent = StreamVLNAgent(*parts, fast=True)
        agent.predict_chunk(observe(0, 0, 0))
        agent.predict_chunk_batch([observe(n, 0, 0) for n in range(2)], np.ones(2, bool))
        held = [weakref.ref(agent.fast_session.cache.memory), weakref.ref(agent.batch.session.cache.memory)]
        del agent
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


def test_nothing_is_held_by_an_agent_that_is_gone(parts):
    """Caches are large: they go with the agent, and not at some time when Python looks for cycles."""
    check_release(parts)


def test_off_on_a_cpu_unless_asked_for(parts):
    assert not StreamVLNAgent(*parts).fast
    assert StreamVLNAgent(*parts).fast_session is None
    assert not StreamVLNAgent(*parts, fast=False).fast
    assert StreamVLNAgent(*parts, fast=True).fast


def test_what_is_not_served(parts):
    model, processor = parts
    grammar = ActionGrammar(4, (5, 6, 7), 8)
    assert why_not_fast(model, AnswerRules((8,), 8, grammar)) is None
    assert "grammar" in why_not_fast(model, AnswerRules((8,), 8))
    assert "processors" in why_not_fast(model, AnswerRules((8,), 8, grammar, logits_processor=(lambda i, s: s,)))
    assert "end" in why_not_fast(model, AnswerRules((8,), 4, grammar))
    with pytest.raises(ValueError, match="fast=True cannot be had: answers are not held"):
        StreamVLNAgent(*parts, fast=True, constrained=False)
    with pytest.raises(ValueError, match="62 at most"):
        MoveTree(3, 4)


@pytest.mark.parametrize("shape", [(480, 640, 384), (48, 64, 112), (300, 112, 112), (1, 7, 16)])
def test_resizing_is_pillows(shape):
    height, width, size = shape
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    pictures[1] = 255 * (pictures[1] > 127)
    for ours, picture in zip(resize(torch.from_numpy(pictures), size), pictures, strict=True):
        theirs = np.asarray(Image.fromarray(picture).resize((size, size), resample=Image.Resampling.BICUBIC))
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), theirs)


def test_triton_kernels_in_the_interpreter():
    """In a process of its own: Triton reads the variable when it is imported."""
    pytest.importorskip("triton")
    code = (
        "from tests.triton_interpreter import mend\nmend()\n"
        "from tests.packed_ops_cases import CASES, check_ops\nfor case in CASES: check_ops(case, 1e-5)"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class TestOnAGPU:
    pytestmark = cuda

    @pytest.fixture(autouse=True)
    def exact(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("case", [*CASES, *LARGER_CASES])
    def test_kernels(self, case, dtype):
        check_ops(case, 1e-4 if dtype == torch.float32 else 3e-2, dtype=dtype, device="cuda")

    def test_logits(self, gpu_parts):
        from streamvln_gym.models.triton_ops import TritonOps

        check_logits(gpu_parts[0], TritonOps(), 1e-3)

    def test_recorded_chunks_as_the_eager_path(self, gpu_parts):
        compare(gpu_parts, 500)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
    def test_on_another_device_than_the_current_one(self):
        model, processor = thin_parts(SPREAD, narrow=True)
        compare((model.to("cuda:1"), processor), 60)

    def test_recorded_draws(self, gpu_parts):
        check_draws(*gpu_parts)

    def test_chosen_by_default(self, gpu_parts):
        agent = StreamVLNAgent(*gpu_parts)
        assert agent.fast and isinstance(agent.fast_session, FastSession)
        assert not StreamVLNAgent(*gpu_parts, constrained=False).fast

    def test_nothing_is_held_by_an_agent_that_is_gone(self, gpu_parts):
        check_release(gpu_parts)

    def test_recorded_batch(self, gpu_parts, monkeypatch):
        made = []

        def make(*arguments, **settings):
            made.append(StreamVLNAgent(*arguments, fast=not made, **settings))
            return made[-1]

        monkeypatch.setattr("tests.agents.test_act_batch.StreamVLNAgent", make)
        check_against_singles(gpu_parts, 6, 60)
        assert len(made[0].batch.session.calls) > 0

    def test_copies(self, gpu_parts):
        agent = StreamVLNAgent(*gpu_parts, fast=True)
        agent.predict_chunk(observe(0, 0, 0))
        for other in (copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
            other.reset()
            assert other.predict_chunk(observe(0, 0, 0)) == StreamVLNAgent(*gpu_parts).predict_chunk(observe(0, 0, 0))

    def test_resizing_is_pillows(self):
        picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        ours = resize(torch.from_numpy(picture)[None].cuda(), 384)[0].permute(1, 2, 0).cpu().numpy()
        theirs = np.asarray(Image.fromarray(picture).resize((384, 384), resample=Image.Resampling.BICUBIC))
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("targets", [["v_proj", "o_proj"], ["q_proj", "gate_proj"]])
def test_adapters_that_come_later_or_are_switched_count(targets):
    peft = pytest.importorskip("peft")
    model, processor = thin_parts(SPREAD, narrow=True)
    agent = StreamVLNAgent(model, processor, fast=True)
    agent.predict_chunk(observe(0, 0, 0))
    settings = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings)
    assert not all_plain(model), "by default, such a network is answered eagerly"

    def answers(agent):
        agent.reset()
        return [agent.act(observe(0, 0, step)) for step in range(40)]

    with_adapters = answers(StreamVLNAgent(model, processor, fast=False))
    assert answers(agent) == with_adapters
    with adapted.disable_adapter():
        without = answers(StreamVLNAgent(model, processor, fast=False))
        assert answers(agent) == without != with_adapters
    assert answers(agent) == with_adapters


def test_a_network_that_is_cast_between_episodes():
    model, processor = thin_parts(SPREAD, narrow=True)
    agent = StreamVLNAgent(model, processor, fast=True)
    agent.predict_chunk(observe(0, 0, 0))
    model.double()
    with pytest.raises(RuntimeError, match=r"agent\.reset"):
        agent.predict_chunk(observe(0, 0, 4), 4)
    agent.reset()
    eager = StreamVLNAgent(model, processor, fast=False)
    for step in (0, 4, 8):
        executed = 4 if step else None
        assert agent.predict_chunk(observe(0, 0, step), executed) == eager.predict_chunk(observe(0, 0, step), executed)


def test_adapters_of_the_tower_and_new_sizes_of_pictures():
    """What recordings of the tower depend on; recordings themselves need a GPU."""
    peft = pytest.importorskip("peft")
    model, processor = thin_parts(SPREAD, narrow=True)
    encoder = DeviceFrameEncoder(model, processor)
    kept = [encoder._keep((60 + number, 80, 3)) for number in range(RECORDED_SIZES + 2)]
    assert kept == [True] * RECORDED_SIZES + [False, False]
    assert encoder._keep((60, 80, 3))
    encoder._check_place()
    assert not encoder._sizes, "a first look forgets what was recorded elsewhere"
    places = [encoder._place]
    peft.get_peft_model(model, peft.LoraConfig(target_modules=r"vision_tower.*\.q_proj", init_lora_weights=False))
    encoder._check_place()
    places.append(encoder._place)
    adapted = next(part for part in model.modules() if "base_layer" in part._modules)
    adapted.enable_adapters(False)
    encoder._check_place()
    places.append(encoder._place)
    assert places[0] != places[1] != places[2]


def test_recordings_are_left_out_of_copies():
    calls = RecordedCalls(True)
    calls._recordings["key"] = threading.Lock()  # cannot be copied either
    assert len(copy.deepcopy(calls)) == 0
    assert len(pickle.loads(pickle.dumps(calls))) == 0


def test_parts_of_the_attention_can_be_held_small():
    lengths, tree = [400] * 8, MoveTree(3, 1)
    assert pack_rows(lengths, range(8), 8, tree, 7, False).tile == 128
    small = pack_rows(lengths, range(8), 8, tree, 7, False, most=64)
    assert small.tile == 64
    assert small.sizes[-1] > pack_rows(lengths, range(8), 8, tree, 7, False).sizes[-1]
