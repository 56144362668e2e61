"""PPO changes what it should and nothing else; what it learned is saved, loaded and served."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import CheckpointError, TrainingError
from streamvln_gym.rl import (
    FiniteRollout,
    HoldActor,
    KeepBest,
    PooledFeatures,
    SaveArchive,
    StreamVLNActorCriticPolicy,
    WindowRolloutBuffer,
)
from tests.rl.conftest import batch


def make_ppo(envs: Any, checkpoint: Path, algorithm: Any = PPO, **policy: Any) -> Any:
    settings: dict[str, Any] = {"policy_kwargs": {"checkpoint": checkpoint, **policy}, "seed": 0, "learning_rate": 1e-3}
    if algorithm is PPO:
        settings |= {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "normalize_advantage": False}
        settings["rollout_buffer_class"] = WindowRolloutBuffer
    return algorithm(StreamVLNActorCriticPolicy, envs, device="cpu", **settings)


def weights(policy: StreamVLNActorCriticPolicy) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in policy.named_parameters()}


def changed(before: dict[str, torch.Tensor], policy: StreamVLNActorCriticPolicy) -> set[str]:
    return {name for name, weight in policy.named_parameters() if not torch.equal(before[name], weight)}


@pytest.fixture
def envs(make_env):
    return DummyVecEnv([lambda: make_env(max_steps=40)] * 2)


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ({}, ("language_model.",)),
        ({"parts": ("vision", "projector", "language")}, ("vision_tower.", "projector.", "language_model.")),
        ({"parts": ("projector",)}, ("projector.",)),
        ({"lora": {"rank": 4}}, ("language_model.layers",)),
        ({"lora": {"rank": 4}, "parts": ("vision", "language")}, ("vision_tower.", "language_model.")),
        ({"gradient_checkpointing": True, "value_gradient": True}, ("language_model.",)),
    ],
)
def test_the_chosen_parts_learn(envs, checkpoint, settings, learned):
    ppo = make_ppo(envs, checkpoint, **settings)
    before = weights(ppo.policy)
    ppo.learn(16)
    names = changed(before, ppo.policy)
    network = {name for name in names if not name.startswith("value_head")}
    assert any(name.startswith("value_head") for name in names)
    for part in learned:
        assert any(part in name for name in network), part
    assert all(any(part in name for part in learned) for name in network)
    if "lora" in settings:
        assert all("lora_" in name for name in network)


def test_networks_stored_in_16_bits_learn_in_32(envs, agent, tmp_path):
    half = copy.deepcopy(agent.model).to(torch.bfloat16)
    StreamVLNAgent(half, agent.processor).save_pretrained(tmp_path)
    ppo = make_ppo(envs, tmp_path)
    assert ppo.policy.network.dtype == torch.float32
    ppo.learn(16, callback=HoldActor(1))
    assert abs(ppo.logger.name_to_value["train/approx_kl"]) < 1e-6, "the actor was held"
    stored = make_ppo(envs, tmp_path, dtype="bfloat16", lora={"rank": 4}).policy
    assert stored.network.dtype == torch.bfloat16
    learned = [weight for weight in stored.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in learned} == {torch.float32}


def test_a2c_learns_too(envs, checkpoint):
    a2c = make_ppo(envs, checkpoint, A2C)
    before = weights(a2c.policy)
    a2c.learn(20)
    assert changed(before, a2c.policy)


def test_the_first_ratio_is_one(envs, checkpoint):
    ppo = make_ppo(envs, checkpoint)
    _, callback = ppo._setup_learn(16)
    ppo.collect_rollouts(envs, callback, ppo.rollout_buffer, 8)
    ppo.policy.set_training_mode(True)
    for part in ppo.rollout_buffer.get(8):
        values, log_probs, _ = ppo.policy.evaluate_actions(part.observations, part.actions)
        assert torch.allclose(log_probs, part.old_log_prob, atol=1e-4)
        assert torch.allclose(values.flatten(), part.old_values, atol=1e-4)


def test_ppo_makes_rewarded_chunks_likelier(make_env, checkpoint):
    """One update with advantages given by hand moves probabilities their way."""
    envs = DummyVecEnv([lambda: make_env(max_steps=40)] * 2)
    ppo = make_ppo(envs, checkpoint, value_lr_scale=1.0)
    _, callback = ppo._setup_learn(16)
    ppo.collect_rollouts(envs, callback, ppo.rollout_buffer, 8)
    first = ppo.rollout_buffer.actions[:, :, 0] == 1
    assert first.any() and not first.all()
    ppo.rollout_buffer.advantages = np.where(first, 1.0, -1.0).astype(np.float32)
    seen = {key: torch.from_numpy(value.reshape(16, -1)) for key, value in ppo.rollout_buffer.observations.items()}
    actions = torch.from_numpy(ppo.rollout_buffer.actions.reshape(16, 4))
    chosen = torch.from_numpy(first.reshape(16))
    with torch.no_grad():
        before = ppo.policy.evaluate_actions(seen, actions)[1]
    ppo.ent_coef = 0.0
    ppo.train()
    with torch.no_grad():
        after = ppo.policy.evaluate_actions(seen, actions)[1]
    assert (after - before)[chosen].mean() > (after - before)[~chosen].mean() + 0.1


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 4}}])
def test_what_was_learned_is_served(envs, checkpoint, tmp_path, settings):
    ppo = make_ppo(envs, checkpoint, **settings)
    before = weights(ppo.policy)
    ppo.learn(32)
    assert changed(before, ppo.policy)
    ppo.save(tmp_path / "ppo")
    loaded = PPO.load(tmp_path / "ppo", device="cpu")
    ppo.policy.save_checkpoint(tmp_path / "streamvln")
    ppo.policy.save(tmp_path / "policy.pt")
    alone = StreamVLNActorCriticPolicy.load(tmp_path / "policy.pt", device="cpu")
    agent = StreamVLNAgent.from_pretrained(tmp_path / "streamvln")
    assert agent.trained
    shared = ppo.policy.agent()
    env = envs.envs[0]
    obs, _ = env.reset(seed=4)
    done = False
    while not done:
        action, _ = ppo.predict(obs, deterministic=True)
        assert loaded.predict(obs, deterministic=True)[0].tolist() == action.tolist()
        assert alone.predict(obs, deterministic=True)[0].tolist() == action.tolist()
        raw = env.unwrapped.observe()
        said = agent.predict_chunk(raw)
        assert said == action.tolist()[: len(said)] == shared.predict_chunk(raw)
        obs, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    for seen in (env.reset(seed=5)[0], obs):
        expected = ppo.policy.predict_values(batch(seen))
        assert torch.allclose(loaded.policy.predict_values(batch(seen)), expected, atol=1e-6)
    loaded.set_env(envs)
    loaded.learn(16)


def test_an_archive_goes_with_a_checkpoint_that_moved(envs, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "old")
    ppo = make_ppo(envs, tmp_path / "old")
    ppo.learn(16)
    ppo.save(tmp_path / "ppo")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(CheckpointError, match=r"there is no folder .*old"):
        PPO.load(tmp_path / "ppo", device="cpu")
    place = {"policy_kwargs": {"checkpoint": tmp_path / "new"}}
    loaded = PPO.load(tmp_path / "ppo", device="cpu", custom_objects=place)
    assert all(torch.equal(weight, weights(loaded.policy)[name]) for name, weight in weights(ppo.policy).items())


def test_adapters_can_be_gone_on_with(envs, checkpoint, tmp_path):
    ppo = make_ppo(envs, checkpoint, lora={"rank": 4})
    ppo.learn(16)
    ppo.policy.save_adapter(tmp_path)
    assert json.loads((tmp_path / "context.json").read_text())["num_history"] == 8
    config = tmp_path / "adapter_config.json"  # supervised training's adapters have dropout
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "lora_dropout": 0.05}))
    again = make_ppo(envs, checkpoint, lora={"rank": 4}, adapter=tmp_path)
    again.policy.set_training_mode(True)
    assert not any(module.p for module in again.policy.modules() if isinstance(module, torch.nn.Dropout))
    obs = batch(envs.envs[0].reset(seed=0)[0])
    assert torch.allclose(ppo.policy(obs, True)[2], again.policy(obs, True)[2], atol=1e-6)
    before = weights(again.policy)
    again.learn(16)
    assert all("lora_" in name or "value_head" in name for name in changed(before, again.policy))


def test_pooled_features_train(make_env, agent, checkpoint):
    envs = PooledFeatures(DummyVecEnv([lambda: make_env(max_steps=20)] * 2), agent.model, agent.processor)
    ppo = make_ppo(envs, checkpoint)
    before = weights(ppo.policy)
    ppo.learn(32)
    names = changed(before, ppo.policy)
    assert names and not any("vision" in name or "projector" in name for name in names)


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, {}), (PPO, {"optimizer_class": torch.optim.SGD}), (A2C, {})])
def test_the_actor_is_held_while_the_value_head_warms_up(envs, checkpoint, algorithm, policy):
    """With any optimizer: A2C has RMSprop."""
    ppo = make_ppo(envs, checkpoint, algorithm, **policy)
    before, rollout = weights(ppo.policy), ppo.n_steps * 2
    ppo.learn(rollout, callback=HoldActor(1))
    names = changed(before, ppo.policy)
    assert names and all(name.startswith("value_head") for name in names)
    ppo.learn(2 * rollout, callback=HoldActor(1))
    assert any("language_model" in name for name in changed(before, ppo.policy))
    assert {group["lr"] for group in ppo.policy.optimizer.param_groups} == {ppo.learning_rate}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_value_head_has_a_rate_of_its_own(envs, checkpoint, optimizer):
    """Of SGD, the step is proportional to it; a further rollout with another one is not bound to the first."""
    moved = []
    for scale in (1.0, 10.0):
        ppo = make_ppo(envs, checkpoint, value_lr_scale=scale, optimizer_class=optimizer)
        ppo.n_epochs, ppo.batch_size, ppo.max_grad_norm = 1, 16, 1e9
        before = weights(ppo.policy)
        ppo.learn(16)
        moved.append((weights(ppo.policy)["value_head.2.bias"] - before["value_head.2.bias"]).abs().item())
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.02)


def test_an_actor_that_was_held_when_it_was_saved_learns(envs, checkpoint, tmp_path):
    """As after a kill or an interruption between two rollouts."""

    class Interrupt(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.save(tmp_path / "ppo")
            raise KeyboardInterrupt

    ppo = make_ppo(envs, checkpoint)
    with pytest.raises(KeyboardInterrupt):
        ppo.learn(16, callback=[HoldActor(1), Interrupt()])
    loaded = PPO.load(tmp_path / "ppo", envs, device="cpu")
    for algorithm in (ppo, loaded):
        before = weights(algorithm.policy)
        algorithm.learn(16)
        assert any("language_model" in name for name in changed(before, algorithm.policy))


def test_an_archive_goes_on_where_it_was_written(envs, checkpoint, tmp_path):
    """Whole or not at all; the actor, which was held in the first rollout, is not held again."""
    path = tmp_path / "runs" / "ppo.zip"
    ppo = make_ppo(envs, checkpoint)
    ppo.learn(48, callback=[SaveArchive(path, every=2), Stop(after=40), HoldActor(1)])
    assert PPO.load(path).num_timesteps == 40, "the end, too"
    before, ended = path.read_bytes(), weights(ppo.policy)

    def fail(file, **_):
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            ppo.learn(16, callback=SaveArchive(path))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["ppo.zip"]

    loaded = PPO.load(path, envs, device="cpu")
    assert not changed(ended, loaded.policy)
    loaded.learn(16, callback=HoldActor(1), reset_num_timesteps=False)
    assert any("language_model" in name for name in changed(ended, loaded.policy))
    assert loaded.num_timesteps == 56


class Stop(BaseCallback):
    """Ends training after so many decisions."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def _on_step(self):
        return self.num_timesteps < self.after


def test_a_checkpoint_says_what_the_policy_was_shown(make_env, checkpoint, tmp_path):
    settings = {"memory_strategy": "temporal_pool", "num_history": 3, "window_steps": 16}
    envs = DummyVecEnv([lambda: make_env(max_steps=60, **settings)])
    policy = make_ppo(envs, checkpoint, memory_strategy="temporal_pool").policy
    policy.save_checkpoint(tmp_path)
    agent = StreamVLNAgent.from_pretrained(tmp_path)
    said = {name: getattr(agent.model.config, name) for name in settings}
    assert said == settings
    assert policy.network.config.num_history != 3, "the network that learns is as it was"
    env = envs.envs[0]
    obs, _ = env.reset(seed=4)
    shared, done = policy.agent(), False
    while not done:
        action = policy.predict(obs, deterministic=True)[0].tolist()
        raw = env.unwrapped.observe()
        said = agent.predict_chunk(raw)
        assert said == action[: len(said)] == shared.predict_chunk(raw)
        obs, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated


def test_advantages_are_those_of_the_whole_rollout(envs, checkpoint):
    ppo = make_ppo(envs, checkpoint)
    _, callback = ppo._setup_learn(16)
    ppo.collect_rollouts(envs, callback, ppo.rollout_buffer, 8)
    given = ppo.rollout_buffer.advantages.T.ravel().copy()
    expected = np.sort((given - given.mean()) / (given.std() + 1e-8))
    for _ in range(2):
        drawn = torch.cat([part.advantages for part in ppo.rollout_buffer.get(5)])
        np.testing.assert_allclose(np.sort(drawn.numpy()), expected, atol=1e-6)
    plain = WindowRolloutBuffer(
        8, envs.observation_space, envs.action_space, n_envs=2, normalize_advantage=False, device="cpu"
    )
    plain.advantages[:] = 7.0
    plain.full = True
    assert (next(plain.get()).advantages == 7.0).all()


def test_the_best_checkpoint_is_kept(envs, make_env, checkpoint, tmp_path, monkeypatch):
    rewards = iter([0.2, 0.5, 0.1, 0.0, 0.9])

    def evaluate(policy, judged, episodes, callback, **_):
        for success in (1.0, 0.0):
            callback({"done": True, "info": {"success": success, "spl": success / 2}}, {})
        return [next(rewards)] * episodes, []

    monkeypatch.setattr("streamvln_gym.rl.callbacks.evaluate_policy", evaluate)
    ppo = make_ppo(envs, checkpoint)
    kept: list[dict] = []
    save = ppo.policy.save_checkpoint

    def note(folder):
        kept.append({name: value.clone() for name, value in ppo.policy.network.state_dict().items()})
        save(folder)

    ppo.policy.save_checkpoint = note
    with pytest.raises(ValueError, match="environments beside the training's"):
        ppo.learn(16, callback=KeepBest(envs, tmp_path / "best"))
    judged = DummyVecEnv([lambda: make_env(max_steps=40)] * 2)
    keep = KeepBest(judged, tmp_path / "best", episodes=2, every=1, measure=lambda means: means["reward"])
    ppo.learn(48, callback=[keep, FiniteRollout()])
    assert [(steps, means["reward"]) for steps, means in keep.history] == [(0, 0.2), (16, 0.5), (32, 0.1), (48, 0.0)]
    assert keep.best == {"success": 0.5, "spl": 0.25, "reward": 0.5}
    assert len(kept) == 2
    best = StreamVLNAgent.from_pretrained(tmp_path / "best").model.state_dict()
    assert all(torch.equal(best[name], value) for name, value in kept[-1].items())

    def fail(folder):
        save(folder)
        (Path(folder) / "config.json").write_text("half of")
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in (tmp_path / "best").iterdir()}
    ppo.policy.save_checkpoint = fail
    with pytest.raises(OSError, match="No space left"):
        ppo.learn(16, callback=keep)
    assert {file.name: file.read_bytes() for file in (tmp_path / "best").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("seed", [None, 3], ids=["not seeded", "seeded, as make_vec_env does"])
def test_evaluations_play_the_same_episodes(envs, make_env, checkpoint, tmp_path, monkeypatch, seed):
    played: list[list[str]] = []

    def evaluate(policy, judged, episodes, callback, **options):
        played.append([])

        def note(given, _):
            callback(given, _)
            if given["done"]:
                played[-1].append(given["info"]["episode_id"])

        return evaluate_policy(policy, judged, episodes, callback=note, **options)

    monkeypatch.setattr("streamvln_gym.rl.callbacks.evaluate_policy", evaluate)
    judged = DummyVecEnv([lambda: make_env(max_steps=20)] * 2)
    count = len(judged.get_attr("dataset")[0])
    with pytest.raises(ValueError, match=f"{count + 1} episodes cannot be evaluated where there are {count}"):
        make_ppo(envs, checkpoint).learn(16, callback=KeepBest(judged, tmp_path, episodes=count + 1))
    assert count % 2 == 1
    if seed is not None:
        judged.seed(seed)
    keep = KeepBest(judged, tmp_path, episodes=count, every=1)
    ppo = make_ppo(envs, checkpoint)
    ppo.learning_rate, ppo.lr_schedule = 0.0, lambda _: 0.0
    ppo.learn(32, callback=keep)
    assert len({str(means) for _, means in keep.history}) == 1, "nothing was learned, so nothing changes"
    assert all(len(set(ids)) == len(ids) == count for ids in played), "each episode once"


def test_nan_advantages_leave_the_weights_alone(envs, checkpoint):
    ppo = make_ppo(envs, checkpoint)
    before = weights(ppo.policy)
    _, callback = ppo._setup_learn(16)
    ppo.collect_rollouts(envs, callback, ppo.rollout_buffer, 8)
    ppo.rollout_buffer.advantages[:] = np.nan
    with pytest.raises(TrainingError, match="gradient is NaN or infinite, so no weight was changed"):
        ppo.train()
    assert not changed(before, ppo.policy)


@pytest.mark.parametrize("name", FiniteRollout.NAMES)
def test_a_rollout_that_is_not_finite_is_not_learned_from(envs, checkpoint, name):
    ppo = make_ppo(envs, checkpoint)
    check = FiniteRollout()
    check.init_callback(ppo)
    check.on_rollout_end()
    getattr(ppo.rollout_buffer, name)[3, 1] = np.inf
    with pytest.raises(TrainingError, match=rf"rollout's {name} are not finite \(decision 3 of environment 1"):
        check.on_rollout_end()


def test_broken_weights_are_named(envs, checkpoint):
    ppo = make_ppo(envs, checkpoint)
    with torch.no_grad():
        ppo.policy.network.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="weights are broken"):
        ppo.learn(16)
