"""Online DAgger: environments in worker processes act and are labelled while the network learns."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from tqdm import tqdm
from transformers.utils import logging

from streamvln_gym import __version__
from streamvln_gym.errors import TrainingError
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.models.dialogue import CONJUNCTIONS, ConjunctionPicker
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.online.builders import FlatBuilders
from streamvln_gym.training.online.config import OnlineConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.policy import StreamsPolicy
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.workers import (
    EXPERT,
    KINDS,
    POLICY,
    RESULTS,
    StreamsSpec,
    WorkerPool,
    open_training_data,
)

MAX_TURNS = 128
INSTRUCTION_TOKENS = 256
REPLAN = 1000  # updates after which the batches' shapes are suited to the episodes anew
SHORTEST = 8  # turns: so many short episodes in a row do not occur
_RANDOM_MOVES = np.array([[1, 0.5], [2, 0.25], [3, 0.25]])


def train_online(config: OnlineConfig) -> list[dict[str, Any]]:
    """Trains until `config.optimize.updates`, or for `config.minutes`; returns the log's records.

    Under `torchrun` every process trains on its own device with its own environments, and gradients are averaged.

    Writes into `config.out`: config.json (of the latest call), state.pt (everything to go on from), log.jsonl (one
    record per evaluation), checkpoint/ (the averaged weights, for `StreamVLNAgent.from_pretrained`).

    Raises:
        TrainingError: the folder belongs to another training, or the loss is no longer finite.
        WorkerError: a worker process failed or was killed; what was saved is kept.
    """
    run = _OnlineRun(config)
    try:
        return run.train()
    finally:
        run.close()


class _OnlineRun:
    """One process of a training."""

    def __init__(self, config: OnlineConfig) -> None:
        self.begun = time.monotonic()
        self.config = config
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self.main = self.rank == 0
        config.out.mkdir(parents=True, exist_ok=True)
        state = read_state(config)
        done = 0 if state is None else int(state["learner"]["updates"])
        self.processor, model = _initial_network(config)
        self.scenes, self.held_out, self.held_out_ids = _split_scenes(config, done)
        self.seeds = [config.seed, self.rank, done]  # a training that goes on draws what it has not drawn yet
        self.pool = WorkerPool(self._specs())
        self.pool.train(config.collect.longest(_progress(config, done)))
        self.builders = self._build_ahead()
        self.device = self._choose_device()
        self.rng = np.random.default_rng(self.seeds)
        seed = int(self.rng.integers(2**31))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        model.to(device=self.device)  # type: ignore[call-arg]  # transformers hides the signature
        self.layout = DialogueLayout(self.processor, self.device)
        torch.manual_seed(config.seed)  # the same auxiliary heads in every process
        self.learner = Learner(model, self.layout, config.optimize, config.auxiliary)
        torch.manual_seed(seed)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.acting = copy.deepcopy(self.learner.average).eval()
        self.acting.to(dtype=dtype)  # type: ignore[call-arg]
        streams = self.pool.streams
        self.policy = StreamsPolicy(self.acting, self.layout, streams, MAX_TURNS, INSTRUCTION_TOKENS)
        self.buffer = FrameBuffer(
            config.optimize.buffer_frames, self.pool.arrays, MAX_TURNS, INSTRUCTION_TOKENS, self.device
        )
        self.sampled = torch.from_numpy(self.rng.random(streams) < config.collect.sampled_streams).to(self.device)
        self.expert_shares = np.ones(streams)  # of each stream's present episode
        self.log: list[dict[str, Any]] = []
        self.turns = 0
        self.planned = False
        self.seconds = {"waiting": 0.0, "acting": 0.0}  # for the workers; for the policy
        self._tokens_of: dict[str, list[int]] = {}
        self._conjunctions = _drawn_conjunctions(MAX_TURNS)
        if self.main:
            text = json.dumps(asdict(config), indent=2, default=str)
            _write_whole(config.out / "config.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
        if state is not None:
            self.learner.load_state(state["learner"])
            self.log, self.turns = list(state["log"]), int(state["turns"])

    def train(self) -> list[dict[str, Any]]:
        config, learner = self.config, self.learner
        total = config.optimize.updates
        bar = tqdm(total=total, initial=learner.updates, desc="online DAgger", unit="update", disable=not self.main)
        next_evaluation = learner.updates + config.evaluate_every
        next_save = learner.updates + config.save_every
        with bar:
            while learner.updates < total and not self._out_of_time():
                before = learner.updates
                self._turn()
                bar.update(learner.updates - before)
                if self.held_out_ids and learner.updates >= next_evaluation and learner.updates < total:
                    next_evaluation += config.evaluate_every
                    self._evaluate(bar)
                if learner.updates >= next_save:
                    self._check_loss()
                    next_save += config.save_every
                    self.save()
            if self.held_out_ids:
                self._evaluate(bar, resume=False)
        self._check_loss()
        self.save()
        return self.log

    def save(self) -> None:
        """Writes state and checkpoint, each whole or not at all."""
        if not self.main:
            return
        _write_whole(
            self.config.out / "state.pt",
            lambda path: torch.save(
                {"learner": self.learner.state(), "recipe": _recipe(self.config), "log": self.log, "turns": self.turns},
                path,
            ),
        )
        save_checkpoint(self.learner.average, self.processor, self.config.out / "checkpoint")

    def close(self) -> None:
        if self.builders is not None:
            self.builders.close()
        self.pool.close()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    # ------------------------------------------------------------------------------------------------- one turn

    def _turn(self) -> None:
        """Decides a chunk for every stream, and learns while the workers execute it."""
        arrays, config = self.pool.arrays, self.config
        begun = time.monotonic()
        self.pool.wait()
        self.seconds["waiting"] += time.monotonic() - begun
        begun = time.monotonic()
        self._check_loss()
        self.buffer.finish_turn(arrays)
        rgb, starting = self._take_frames()
        self.policy.begin(starting)
        self.buffer.add(arrays, rgb, starting)
        self._load_acting(self.learner.model)
        conjunctions = torch.randint(
            len(CONJUNCTIONS), (self.pool.streams,), generator=self.generator, device=self.device
        )
        executed = torch.from_numpy(arrays.executed).to(self.device).long()
        actions = self.policy.act(rgb, executed, conjunctions, self.sampled).cpu().numpy().astype(np.int8)
        self._share_out(np.flatnonzero(arrays.started))
        expert = self.rng.random(self.pool.streams) < self.expert_shares
        disturbed = self.rng.random(self.pool.streams) < config.collect.random_chunks
        actions[disturbed] = self._random_chunks(int(disturbed.sum()), actions.shape[1])
        arrays.actions[:] = actions
        arrays.driver[:] = np.where(expert & ~disturbed, EXPERT, POLICY)
        self.pool.turn(config.collect.longest(self.progress))
        self.turns += 1
        self.seconds["acting"] += time.monotonic() - begun
        rows = self.buffer.whole
        if not self._everywhere(len(rows) >= 2):
            return
        for _ in range(config.optimize.updates_per_turn):
            if self.learner.updates >= config.optimize.updates:
                return
            if self.learner.updates % REPLAN == 0 or not self.planned:
                self.learner.plan(self.buffer, INSTRUCTION_TOKENS, self.rng)
                self.planned = True
            episodes = self.buffer.draw(rows, self.rng, -(-config.optimize.frames_per_update // SHORTEST))
            self.learner.update(episodes, self.rng)

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return _progress(self.config, self.learner.updates)

    def _check_loss(self) -> None:
        """Stops before weights that are no numbers are acted on or saved."""
        if not np.isfinite(self.learner.last_loss):
            raise TrainingError(
                f"the loss is {self.learner.last_loss} at update {self.learner.updates}: lower the learning rate; what "
                f"was saved in {self.config.out} is from before and is kept"
            )

    def _share_out(self, streams: NDArray[np.int64]) -> None:
        """Draws how often the expert drives in the episodes that start."""
        collect = self.config.collect
        share = collect.expert_share(self.progress)
        spread = self.rng.uniform(-collect.expert_spread, collect.expert_spread, len(streams))
        self.expert_shares[streams] = share + spread if share < 1.0 else 1.0

    def _random_chunks(self, count: int, chunk: int) -> NDArray[np.int8]:
        """Half of them wander, half turn on the spot."""
        moves, shares = _RANDOM_MOVES.T
        chunks = self.rng.choice(moves.astype(np.int8), (count, chunk), p=shares)
        turning = self.rng.random(count) < 0.5
        chunks[turning] = self.rng.integers(2, 4, (int(turning.sum()), 1))
        return chunks

    def _take_frames(self) -> tuple[Tensor, dict[int, list[int]]]:
        """The pictures on the device, and the instructions of episodes that start."""
        arrays = self.pool.arrays
        rgb = torch.from_numpy(arrays.rgb).to(self.device)
        rows = np.flatnonzero(arrays.started & (arrays.episode >= 0))
        return rgb, {int(row): self._encode(arrays.text(int(row))) for row in rows}

    def _encode(self, text: str) -> list[int]:
        if text not in self._tokens_of:
            ids = self.processor.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) > INSTRUCTION_TOKENS:
                raise TrainingError(
                    f"an instruction has {len(ids)} tokens, online training takes {INSTRUCTION_TOKENS}: {text!r}"
                )
            self._tokens_of[text] = ids
        return self._tokens_of[text]

    @torch.no_grad()
    def _load_acting(self, source: StreamVLNForConditionalGeneration) -> None:
        torch._foreach_copy_(list(self.acting.parameters()), list(source.parameters()))

    # --------------------------------------------------------------------------------------------- evaluation

    def _evaluate(self, bar: Any, resume: bool = True) -> None:
        """Evaluates the averaged weights on held-out scenes and logs the result."""
        begun = time.monotonic()
        self._check_loss()
        statistics = self.learner.statistics()
        self.pool.wait()
        self._load_acting(self.learner.average)
        results = self._sum_over_ranks(self._play_held_out())
        record = {
            "updates": self.learner.updates,
            "frames": self.buffer.written,
            "episodes": self.buffer.episodes,
            "turns": self.turns,
            "seconds": round(time.monotonic() - self.begun, 1),
            **{f"{name}_seconds": round(value, 1) for name, value in self.seconds.items()},
            "learning_rate": self.config.optimize.rate(self.learner.updates),
            **{name: round(value, 4) for name, value in statistics.items()},
            **_summary(results),
            "evaluation_seconds": round(time.monotonic() - begun, 1),
        }
        self.log.append(record)
        if self.main:
            with (self.config.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            bar.write(_line(record))
        if resume:
            self.buffer.forget_running()
            self.pool.train(self.config.collect.longest(self.progress))

    def _play_held_out(self) -> NDArray[np.float64]:
        """(episodes, results) of this process's share."""
        arrays, policy = self.pool.arrays, self.policy
        ids = self.held_out_ids[self.rank :: self.ranks]
        results = []
        for begin in range(0, len(ids), self.pool.streams):
            part = ids[begin : begin + self.pool.streams]
            given = self.pool.evaluate(part, max_steps=self.config.evaluate_steps)
            self.pool.wait()
            while (arrays.episode >= 0).any():
                rgb, starting = self._take_frames()
                policy.begin(starting)
                turns = np.minimum(policy.turns, len(self._conjunctions) - 1)
                conjunctions = torch.from_numpy(self._conjunctions[turns]).to(self.device)
                executed = torch.from_numpy(arrays.executed).to(self.device).long()
                arrays.actions[:] = policy.act(rgb, executed, conjunctions).cpu().numpy()
                self.pool.turn()
                self.pool.wait()
            results.append(arrays.results[given >= 0].astype(np.float64))
        return np.concatenate(results) if results else np.empty((0, len(RESULTS)))

    def _sum_over_ranks(self, results: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.ranks == 1:
            return results
        parts: list[Any] = [None] * self.ranks
        distributed.all_gather_object(parts, results)
        return np.concatenate(parts)

    # ------------------------------------------------------------------------------------------------ set-up

    def _specs(self) -> list[StreamsSpec]:
        config, network = self.config, self.processor.config
        workers = config.collect.processes if self.ranks == 1 else max(config.collect.processes // self.ranks, 1)
        return [
            StreamsSpec(
                config.data,
                config.split,
                config.scenes,
                tuple(self.scenes[self.rank * workers + worker :: self.ranks * workers]),
                worker * config.collect.streams,
                config.collect.streams,
                network.image_size,
                network.patches_per_side,
                network.chunk_size,
                (*self.seeds, worker),
                config.collect,
            )
            for worker in range(workers)
        ]

    def _build_ahead(self) -> FlatBuilders | None:
        """Builds the flats that the workers will come to, beside them."""
        if not self.main or self.config.collect.builders < 1 or self.config.data != "flats":
            return None
        dataset = FlatsDataset(self.config.split, scenes=self.config.scenes)
        seeds = dict(zip(dataset.scene_ids, dataset.seeds, strict=True))
        first = self.pool.workers * self.ranks * self.config.collect.shelf
        coming = [*self.held_out, *self.scenes[first:], *self.scenes[:first]]
        seeds_in_order = [seeds[scene] for scene in coming]
        return FlatBuilders(dataset.root, self.config.split, seeds_in_order, self.config.collect.builders)

    def _choose_device(self) -> torch.device:
        name = self.config.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        else:
            device = torch.device(name)
        if self.ranks > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return device

    def _everywhere(self, here: bool) -> bool:
        """Whether it holds in every process."""
        if self.ranks == 1:
            return here
        flag = torch.tensor([float(here)], device=self.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MIN)
        return bool(flag.item() > 0.5)

    def _out_of_time(self) -> bool:
        minutes = self.config.minutes
        return minutes is not None and not self._everywhere(time.monotonic() - self.begun < 60.0 * minutes)


def read_state(config: OnlineConfig) -> dict[str, Any] | None:
    """The state that an interrupted training left in `config.out`, on the CPU; None if there is none.

    Raises:
        TrainingError: it cannot be read, or is another training's.
    """
    path = config.out / "state.pt"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        mine, theirs = _recipe(config), state["recipe"]
    except Exception as error:  # torch and pickle raise many kinds
        raise TrainingError(f"{path} cannot be read: {error!r}. Remove it to begin anew") from error
    if different := sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)):
        changes = "; ".join(f"{key}: {theirs.get(key)!r} there, {mine.get(key)!r} now" for key in different)
        raise TrainingError(f"{path} is from another training ({changes}): use the same options, or another --out")
    return state


def save_checkpoint(model: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor, folder: Path) -> None:
    """Writes a checkpoint that `StreamVLNAgent.from_pretrained` loads, weights in bfloat16; whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        staged = Path(scratch) / "new"
        saved = copy.deepcopy(model)
        saved.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        saved.config.trained = True
        logging.disable_progress_bar()
        saved.save_pretrained(str(staged))
        processor.save_pretrained(staged)
        if folder.exists():
            os.rename(folder, Path(scratch) / "old")
        os.rename(staged, folder)
        shutil.rmtree(Path(scratch) / "old", ignore_errors=True)


def _initial_network(config: OnlineConfig) -> tuple[StreamVLNProcessor, StreamVLNForConditionalGeneration]:
    if config.checkpoint is not None:
        from streamvln_gym.agents.checkpoint import load_checkpoint

        model, processor = load_checkpoint(config.checkpoint, torch.float32)
        if not config.memory:
            model.config.num_history = processor.config.num_history = 0
        return processor, model
    processor = StreamVLNProcessor.tiny(**({} if config.memory else {"num_history": 0}))
    return processor, StreamVLNForConditionalGeneration.from_seed(processor.config, config.seed)


def _split_scenes(config: OnlineConfig, done: int) -> tuple[list[str], list[str], list[str]]:
    """Training scenes in the order in which they are played after `done` updates; held-out scenes; their episodes."""
    dataset = open_training_data(config.data, config.split, config.scenes)
    scenes = list(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    if config.held_out and len(scenes) <= config.held_out:
        raise TrainingError(
            f"{config.data}/{config.split} has {len(scenes)} scenes, {config.held_out} of which would be held out: use "
            "more scenes or a smaller held_out"
        )
    held_out = scenes[len(scenes) - config.held_out :] if config.held_out else scenes
    training = scenes[: len(scenes) - len(held_out)] if config.held_out else scenes
    order = np.random.default_rng([config.seed, done]).permutation(len(training))
    chosen = set(held_out)
    ids = [e for e in dataset.episode_ids if dataset.scene_of(e) in chosen]
    # Evenly over scenes and episodes, where not all are evaluated.
    if len(ids) > config.evaluate_at_most:
        ids = [ids[k] for k in np.linspace(0, len(ids) - 1, config.evaluate_at_most).round().astype(int)]
    return [training[k] for k in order], held_out, ids


def _progress(config: OnlineConfig, updates: int) -> float:
    return updates / config.optimize.updates


def _drawn_conjunctions(turns: int) -> NDArray[np.int64]:
    """The conjunctions that the agent shows by default, as indices."""
    picker = ConjunctionPicker()
    return np.array([CONJUNCTIONS.index(picker.next()) for _ in range(turns)])


def _summary(results: NDArray[np.float64]) -> dict[str, float]:
    """Means, and the success rates of the episodes that need memory and of the others."""
    if not len(results):
        return {}
    summary = {name: round(float(results[:, k].mean()), 4) for k, name in enumerate(RESULTS[:-1])}
    kinds = results[:, -1].astype(int)
    for k, kind in enumerate(KINDS):
        if (kinds == k).any():
            summary[f"success_{kind or 'plain'}"] = round(float(results[kinds == k, 0].mean()), 4)
    return {**summary, "evaluated": len(results)}


def _line(record: dict[str, Any]) -> str:
    """A log record for people."""
    text = f"update {record['updates']}, {record['frames']:,} frames, {record['seconds']:.0f} s"
    if "loss" in record:
        text += f": loss {record['loss']:.3f}, right actions {record['accuracy']:.1%}"
    if "success" in record:
        text += f"; SR {record['success']:.3f}, SPL {record['spl']:.3f}, NE {record['navigation_error']:.2f} m"
    return f"{text} ({record.get('evaluated', 0)} episodes)"


def _recipe(config: OnlineConfig) -> dict[str, Any]:
    """What must not change when a training goes on: the length may."""
    free = {"updates", "decay", "updates_per_turn", "buffer_frames", "compile", "record"}
    recipe = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        "split": config.split,
        "scenes": config.scenes,
        "held_out": config.held_out,
        "memory": config.memory,
        "seed": config.seed,
        **{f"optimize.{key}": value for key, value in asdict(config.optimize).items() if key not in free},
        **{f"auxiliary.{key}": value for key, value in asdict(config.auxiliary).items()},
    }
    return {**recipe, "version": __version__}


def _write_whole(path: Path, write: Any) -> None:
    staged = path.with_name(f".{path.name}.new")
    try:
        write(staged)
        os.replace(staged, path)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error}; the last saved state is kept") from error
