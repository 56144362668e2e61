"""Callbacks of stable-baselines3 for fine-tuning: checked rollouts, warm-up, best checkpoint, archives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from streamvln_gym.errors import TrainingError
from streamvln_gym.rl.optimizer import ScaledRates
from streamvln_gym.whole_writes import whole_file


def rollouts_so_far(algorithm: Any) -> int:
    """Whole rollouts since the algorithm's counter of decisions began; also where `learn` goes on from an archive."""
    return int(algorithm.num_timesteps // (algorithm.n_steps * algorithm.n_envs))


class FiniteRollout(BaseCallback):
    """Stops with the place of the first NaN or infinity of a rollout, before anything is learned from it.

    Raises:
        TrainingError: rewards, values, log-probabilities, advantages or returns are not finite.
    """

    NAMES = ("rewards", "values", "log_probs", "advantages", "returns")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        for name in self.NAMES:
            wrong = np.argwhere(~np.isfinite(getattr(buffer, name)))
            if len(wrong):
                step, env = wrong[0].tolist()
                raise TrainingError(
                    f"the rollout's {name} are not finite (decision {step} of environment {env}, {len(wrong)} in all): "
                    "nothing was learned from it; look at the reward, and at the last good checkpoint"
                )


class HoldActor(BaseCallback):
    """Lets only the value head learn in the first rollouts, so that its first errors do not shake the actor.

    The actor is held between a rollout and the next, by the policy's `rates`; nothing of it is saved. Give it as the
    last callback: whatever lets the policy predict after it, at a rollout's end, lets go of the actor. Where `learn`
    goes on (`reset_num_timesteps=False`), the rollouts that were before count.

    Args:
        rollouts: how many; 0 does nothing.
    """

    def __init__(self, rollouts: int) -> None:
        super().__init__()
        if rollouts < 0:
            raise ValueError(f"rollouts must not be negative, got {rollouts}")
        self.rollouts = rollouts

    def _on_training_start(self) -> None:
        if not isinstance(getattr(self.model.policy, "rates", None), ScaledRates):
            raise TypeError(f"HoldActor holds a StreamVLNActorCriticPolicy's actor, not {type(self.model.policy)}")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        policy: Any = self.model.policy
        policy.rates.actor_held = rollouts_so_far(self.model) <= self.rollouts

    def _on_training_end(self) -> None:
        policy: Any = self.model.policy
        policy.rates.actor_held = False


class KeepBest(BaseCallback):
    """Evaluates the greedy policy on fixed episodes while it learns, and keeps the best checkpoint.

    The start counts too: what is kept is never worse on these episodes than what training began with. Logs
    `eval/success`, `eval/spl` and `eval/reward`.

    The history goes into the algorithm's archive (as its attribute `evaluations`). Where `learn` goes on from one
    (`reset_num_timesteps=False`) and `folder` is still there, what is best so far counts: judge by the same episodes.

    Args:
        envs: others than the training environments, wrapped as these, over the episodes to be judged by (`val_seen`,
            say).
        folder: gets the checkpoint (`StreamVLNAgent.from_pretrained` reads it).
        episodes: so many, of an order that `seed` decides; every evaluation plays the same ones, each once.
        every: rollouts between evaluations.
        seed: of the episodes' order.
        measure: what is to be best, from the evaluation's means; default: success, then SPL.

    Attributes:
        history: (decisions so far, means) of each evaluation.
        best: the best means.
    """

    def __init__(
        self,
        envs: VecEnv,
        folder: str | Path,
        episodes: int = 32,
        every: int = 4,
        seed: int = 0,
        measure: Callable[[dict[str, float]], Any] = lambda means: (means["success"], means["spl"]),
    ) -> None:
        super().__init__()
        if episodes < 1 or every < 1:
            raise ValueError(f"episodes and every must be at least 1, got {episodes} and {every}")
        self.envs = envs
        self.folder = Path(folder)
        self.episodes = episodes
        self.every = every
        self.seed = seed
        self.measure = measure
        self.history: list[tuple[int, dict[str, float]]] = []
        self.best: dict[str, float] | None = None

    def _on_training_start(self) -> None:
        if not hasattr(self.model.policy, "save_checkpoint"):
            raise TypeError(f"KeepBest keeps a StreamVLNActorCriticPolicy's checkpoint, not {type(self.model.policy)}")
        if self.envs.unwrapped is self.training_env.unwrapped:
            raise ValueError("KeepBest plays episodes of its own: make it environments beside the training's")
        self._go_on()
        self.envs.reset()  # takes the seeds that `make_vec_env` left: each would shuffle its environment's share anew
        if not (self.num_timesteps and self._judged):  # at 0 it may be another policy's history
            self._evaluate()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if rollouts_so_far(self.model) % self.every == 0 and not self._judged:
            self._evaluate()

    def _on_training_end(self) -> None:
        if not self._judged:
            self._evaluate()
            self.logger.dump(self.num_timesteps)  # nobody does after the end

    @property
    def _judged(self) -> bool:
        """The policy as it is has been evaluated."""
        return bool(self.history) and self.history[-1][0] == self.num_timesteps

    def _go_on(self) -> None:
        """Takes over what an archive knows, unless this object knows more."""
        known = getattr(self.model, "evaluations", [])
        if self.history or not self.num_timesteps or not known or not any(self.folder.glob("*")):
            return
        self.history = [(decisions, means) for decisions, means in known]  # JSON makes lists of tuples
        self.best = max((means for _, means in self.history), key=self.measure)  # of equal ones the first, as kept

    def _evaluate(self) -> None:
        policy: Any = self.model.policy
        ends: list[dict[str, Any]] = []

        def note(given: dict[str, Any], _: dict[str, Any]) -> None:
            if given["done"]:
                ends.append(given["info"])

        count, present = self.envs.num_envs, 0
        for k in range(count):  # no episode twice; `evaluate_policy` gives the last environments more
            present += self.envs.env_method("share_episodes", count - 1 - k, count, self.seed, indices=k)[0]
        if self.episodes > present:
            raise ValueError(f"{self.episodes} episodes cannot be evaluated where there are {present}: lower episodes")
        rewards, _ = evaluate_policy(
            policy, self.envs, self.episodes, callback=note, return_episode_rewards=True, warn=False
        )
        means = {name: float(np.mean([info[name] for info in ends[: self.episodes]])) for name in ("success", "spl")}
        means["reward"] = float(np.mean(rewards))
        for name, value in means.items():
            self.logger.record(f"eval/{name}", value)
        self.history.append((self.num_timesteps, means))
        self.model.evaluations = self.history  # type: ignore[attr-defined]
        if self.best is None or self.measure(means) > self.measure(self.best):
            self.best = means
            self._keep(policy)

    def _keep(self, policy: Any) -> None:
        """Writes the checkpoint beside the folder first, so that what is killed leaves the old one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.folder.name}.", dir=self.folder.parent) as scratch:
            policy.save_checkpoint(scratch)
            for file in Path(scratch).iterdir():
                os.replace(file, self.folder / file.name)


class SaveArchive(BaseCallback):
    """Writes stable-baselines3's archive between rollouts, so that a run which was killed goes on from the last one.

        ppo = PPO.load("ppo.zip", envs)
        ppo.set_random_seed(seed + ppo.num_timesteps)  # otherwise the first rollouts' draws and episodes come again
        ppo.learn(decisions - ppo.num_timesteps, callback=[...], reset_num_timesteps=False)

    Weights, the optimizer's state, the learning rate's schedule, `KeepBest`'s history and `HoldActor`'s rollouts go on
    where they were; the episodes under way begin anew. The file appears whole or not at all. Give it after `KeepBest`,
    so that the archive knows of the evaluation between the same rollouts.

    Args:
        path: the file, `ppo.zip` say; its folder is made.
        every: rollouts between archives. There is one at the end of training, too.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.path = Path(path)
        self.every = every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        done = rollouts_so_far(self.model)
        if done and done % self.every == 0:
            self._save()

    def _on_training_end(self) -> None:
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as partial, partial.open("wb") as file:
            self.model.save(file, exclude=["_last_obs"])  # the observations that are due are large
