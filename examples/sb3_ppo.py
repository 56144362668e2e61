"""Trains a StreamVLN checkpoint with stable-baselines3's own PPO, and keeps the best by the flats of val_seen.

    pip install "streamvln-gym[rl,train]"
    python examples/sb3_ppo.py --envs 4 --decisions 20000                       # the package's checkpoint, all of it
    python examples/sb3_ppo.py --lora 16 --device cuda --workers --envs 16      # adapters, environments in processes

One decision of PPO is one chunk of up to four actions. Written to --out: `best/` (a StreamVLN checkpoint, for
`StreamVLNAgent.from_pretrained`), `ppo.zip` (stable-baselines3's archive, written at each evaluation: with --resume, a
run that was killed goes on from it), `progress.csv` (reward, KL, entropy, value error, success on val_seen; of a
resumed part `progress_from_DECISIONS.csv`), `options.json`. See docs/rl.md.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.devices import choose_device
from streamvln_gym.env import VLNEnv
from streamvln_gym.evaluation.identity import differences
from streamvln_gym.models import StreamVLNProcessor
from streamvln_gym.rewards import RewardConfig
from streamvln_gym.rl import (
    FiniteRollout,
    HoldActor,
    KeepBest,
    PooledFeatures,
    SaveArchive,
    SlowFastObservation,
    StreamVLNActorCriticPolicy,
    WindowRolloutBuffer,
)
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.whole_writes import write_whole

# Loaded once for the processes of all environments, which share them: half the memory, and a third of the start.
PRELOADED = ["stable_baselines3", "streamvln_gym.env", "streamvln_gym.rl.observation"]
FREE = ("out", "resume", "device", "workers")  # options that change no result


def make_maker(processor: StreamVLNProcessor, options: argparse.Namespace, split: str, scenes: int) -> Callable:
    """Makes one environment, in the process that calls it."""

    def make() -> Monitor:
        if options.workers:  # a process of its own, beside others
            torch.set_num_threads(1)
        camera = CameraConfig.of_size(
            processor.config.image_size, processor.config.image_size, supersampling=options.supersampling
        )
        reward = RewardConfig(options.progress_reward, options.step_reward, options.success_reward)
        env = VLNEnv(
            options.dataset, "embedded", split, camera=camera, sensors=("rgb", "instruction"),
            max_steps=options.max_steps, scenes=scenes, reward=reward,
        )  # fmt: skip
        return Monitor(SlowFastObservation(env, processor), info_keywords=("success", "spl"))

    return make


def make_envs(
    processor: StreamVLNProcessor, options: argparse.Namespace, split: str, scenes: int, count: int
) -> VecEnv:
    makers = [make_maker(processor, options, split, scenes)] * count
    if options.workers:
        multiprocessing.set_forkserver_preload(PRELOADED)
    envs: VecEnv = SubprocVecEnv(makers) if options.workers else DummyVecEnv(makers)
    if options.features:
        envs = PooledFeatures.from_pretrained(envs, options.checkpoint, options.device)
    return envs


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder or hub id; default: the package's own")
    parser.add_argument("--out", type=Path, default=Path("sb3_ppo"))
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains the language model's weights")
    parser.add_argument("--dataset", default="flats", help="a name, or episode files with {split} in their path")
    parser.add_argument("--scenes", type=int, default=50, help="of train")
    parser.add_argument("--judged-scenes", type=int, default=20, help="of val_seen")
    parser.add_argument("--judged", type=int, default=60, help="episodes of val_seen for each evaluation")
    parser.add_argument("--evaluate-every", type=int, default=5, help="rollouts between evaluations")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--workers", action="store_true", help="one process for each environment")
    parser.add_argument("--features", action="store_true", help="keep pooled features in the buffer, not pictures")
    parser.add_argument("--rollout", type=int, default=64, help="decisions of each environment between updates")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-5, help="of learning; falls to 0 over the second half")
    parser.add_argument("--target-kl", type=float, default=0.02)
    parser.add_argument("--entropy", type=float, default=0.0, help="weight of the entropy bonus")
    parser.add_argument("--hold", type=int, default=3, help="rollouts in which only the value head learns")
    parser.add_argument("--progress-reward", type=float, default=0.2, help="for each metre nearer the goal")
    parser.add_argument("--step-reward", type=float, default=-0.0025, help="of each step")
    parser.add_argument("--success-reward", type=float, default=4.0, help="for a STOP at the goal")
    parser.add_argument("--supersampling", type=int, default=2, help="as the checkpoint's training pictures had it")
    parser.add_argument("--max-steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    if options.dataset.endswith((".json", ".json.gz")) and "{split}" not in options.dataset:
        parser.error(
            "--dataset is one file, which would be trained in and judged by: write {split} where the paths of train "
            "and val_seen differ"
        )
    if (options.out / "ppo.zip").exists():
        said = options.out / "options.json"
        others = differences(json.loads(said.read_text()) if said.exists() else {}, settings(options))
        if others or not options.resume:
            say = f"whose options were others (then, now): {others}" if others else "which --resume goes on with"
            parser.error(f"{options.out} holds a run, {say}; a new one needs another --out")
    options.device = choose_device(options.device)
    return options


def settings(options: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(options).items() if name not in FREE}


def make_ppo(envs: VecEnv, options: argparse.Namespace) -> PPO:
    lora = {"lora": {"rank": options.lora, "alpha": 2 * options.lora}} if options.lora else {}
    return PPO(
        StreamVLNActorCriticPolicy,
        envs,
        policy_kwargs={"checkpoint": options.checkpoint, **lora},
        rollout_buffer_class=WindowRolloutBuffer,
        n_steps=options.rollout,
        batch_size=options.batch,
        n_epochs=options.epochs,
        normalize_advantage=False,  # the buffer does, over the whole rollout
        learning_rate=lambda left: options.rate * min(1.0, 2 * left),  # falls to 0 over the second half
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.1,
        ent_coef=options.entropy,
        target_kl=options.target_kl,
        max_grad_norm=1.0,
        seed=options.seed,
        device=options.device,
    )


def main(arguments: list[str] | None = None) -> KeepBest:
    options = read_options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "options.json", json.dumps(settings(options), indent=2))
    processor = StreamVLNAgent.from_pretrained(options.checkpoint).processor
    envs = make_envs(processor, options, "train", options.scenes, options.envs)
    # Sixteen judge about as fast as more.
    judged = make_envs(processor, options, "val_seen", options.judged_scenes, min(options.envs, 16))
    archive = options.out / "ppo.zip"
    resumed = archive.exists()
    ppo = PPO.load(archive, envs, options.device) if resumed else make_ppo(envs, options)
    if resumed:  # otherwise the first rollouts' draws and episodes come again
        ppo.set_random_seed(options.seed + ppo.num_timesteps)
    if options.features:
        envs.check_same(ppo.policy.network)
    layout = ppo.policy.layout
    megabytes = layout.rollout_bytes(options.rollout, options.envs) / 1e6
    print(f"an observation takes {layout.observation_bytes:,} bytes, the rollout buffer {megabytes:,.0f} MB")
    left = max(0, options.decisions - ppo.num_timesteps)
    out, suffix = str(options.out), f"_from_{ppo.num_timesteps}" if resumed else ""  # the curves until then stay
    curves = [make_output_format("csv", out, suffix)] if left else []
    ppo.set_logger(Logger(out, [make_output_format("stdout", out), *curves]))
    keep = KeepBest(judged, options.out / "best", options.judged, options.evaluate_every)
    callbacks = [FiniteRollout(), keep, SaveArchive(archive, options.evaluate_every), HoldActor(options.hold)]
    ppo.learn(left, callbacks, log_interval=1, reset_num_timesteps=not resumed)
    for name in ("success", "spl", "reward"):
        print(f"{name} on val_seen: {keep.history[0][1][name]:.3f} at the start, {keep.best[name]:.3f} kept")
    envs.close()
    judged.close()
    return keep


if __name__ == "__main__":
    main()
