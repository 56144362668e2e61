"""Streams that join and leave at any time do what agents of their own would do."""

import numpy as np
import pytest

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.agents.stream_pool import Question
from tests.thin_network import thin_parts


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.3, narrow=True, seed=1)


def observe(seed: int, step: int) -> dict:
    blocks = np.random.default_rng([seed, step]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return {"rgb": blocks.repeat(10, 0).repeat(10, 1), "instruction": f"Go to room {seed % 3} and wait."}


@pytest.mark.parametrize("fast", [False, True])
def test_joining_and_leaving_streams_equal_single_agents(parts, fast):
    pool = StreamVLNAgent(*parts, fast=fast).open_pool(3)
    rng = np.random.default_rng(0)
    alive: dict[int, dict] = {}
    born = 0
    for _ in range(30):
        while len(pool) < pool.capacity and rng.random() < 0.5:
            alive[pool.join()] = {"seed": born, "agent": StreamVLNAgent(*parts), "step": 0, "executed": 0, "new": True}
            born += 1
        asking = [slot for slot in alive if rng.random() < 0.8]
        rng.shuffle(asking)
        questions, expected = [], []
        for slot in asking:
            one = alive[slot]
            obs = observe(one["seed"], one["step"])
            questions.append(Question(slot, obs, one["executed"], one["new"]))
            expected.append(one["agent"].predict_chunk(obs, one["executed"]))
        assert pool.predict(questions) == expected
        for slot, chunk in zip(asking, expected, strict=True):
            one = alive[slot]
            one["executed"] = int(rng.integers(1, len(chunk) + 1))
            one["step"] += one["executed"]
            one["new"] = False
            assert pool.stream(slot).memory.steps == one["agent"].stream.memory.steps
            if rng.random() < 0.15:
                pool.leave(slot)
                del alive[slot]
            elif rng.random() < 0.1:  # the next episode of the same stream
                one |= {"seed": born, "step": 0, "executed": 0, "new": True}
                one["agent"].reset()
                born += 1
    assert born > 8


def test_a_bad_observation_is_one_streams_own_trouble(parts):
    pool, alone = StreamVLNAgent(*parts).open_pool(3), StreamVLNAgent(*parts)
    slots = [pool.join() for _ in range(3)]
    first = pool.predict([Question(slot, observe(0, 0), starts=True) for slot in slots])
    assert first == [alone.predict_chunk(observe(0, 0))] * 3
    later = observe(0, 1)
    for wrong, n_executed, kind, told in (
        ({**later, "rgb": later["rgb"].astype(float)}, 1, TypeError, "uint8"),
        ({**later, "instruction": "Another."}, 1, ValueError, "changed within an episode"),
        (later, 0, ValueError, "already seen step 0"),
        ({**later, "depth": np.full((60, 80), np.nan, np.float32)}, 1, ValueError, "NaN"),
    ):
        # the others have their episode begin anew each time
        asked = [Question(slots[1], wrong, n_executed), Question(slots[0], observe(0, 0), starts=True)]
        error, chunk = pool.predict(asked)
        assert isinstance(error, kind) and told in str(error)
        assert chunk == first[0]
        assert pool.stream(slots[1]).step == 0
    assert pool.predict([Question(slots[1], later, 1)]) == [alone.predict_chunk(later, 1)]


def test_a_failed_call_is_told_to_all_and_can_be_made_again(parts, monkeypatch):
    pool, alone = StreamVLNAgent(*parts).open_pool(2), StreamVLNAgent(*parts)
    slots = [pool.join(), pool.join()]
    questions = [Question(slot, observe(1, 0), starts=True) for slot in slots]
    working = pool._session.answer

    def fail(turns, rules):
        working(turns, rules)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pool._session, "answer", fail)
    assert [str(error) for error in pool.predict(questions)] == ["out of memory"] * 2
    monkeypatch.setattr(pool._session, "answer", working)
    assert pool.predict(questions) == [alone.predict_chunk(observe(1, 0))] * 2


def test_misuse(parts):
    pool = StreamVLNAgent(*parts).open_pool(1)
    assert (len(pool), pool.capacity, pool.predict([])) == (0, 1, [])
    slot = pool.join()
    with pytest.raises(ValueError, match="all 1 streams are in use"):
        pool.join()
    with pytest.raises(ValueError, match="asks once at a time"):
        pool.predict([Question(slot, observe(0, 0), starts=True)] * 2)
    pool.leave(slot)
    for call in (lambda: pool.leave(slot), lambda: pool.predict([Question(slot, {})]), lambda: pool.stream(5)):
        with pytest.raises(ValueError, match="no stream has joined as number"):
            call()
