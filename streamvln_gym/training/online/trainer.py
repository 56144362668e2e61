"""Online DAgger: environments in worker processes act and are labelled while the network learns."""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from tqdm import tqdm

from streamvln_gym.devices import choose_device
from streamvln_gym.errors import TrainingError
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.online.builders import FlatBuilders
from streamvln_gym.training.online.collector import INSTRUCTION_TOKENS, Collector
from streamvln_gym.training.online.config import OnlineConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.learner import Learner
from streamvln_gym.training.online.pictures import choose_pictures
from streamvln_gym.training.online.run_folder import RunFolder
from streamvln_gym.training.online.scenes import split_scenes
from streamvln_gym.training.online.stream_arrays import KINDS, RESULTS
from streamvln_gym.training.online.teachers import load_teachers
from streamvln_gym.training.online.worker import StreamsSpec
from streamvln_gym.training.online.workers import WorkerPool

REPLAN = 1000  # updates after which the batches' shapes are suited to the episodes anew, at the latest
LOOKED_AT = 512  # episodes, to find these shapes
SHORTEST = 4  # turns: a batch full of shorter episodes does not occur
LEAST_EPISODES = 2


def train_online(config: OnlineConfig) -> list[dict[str, Any]]:
    """Trains until `config.optimize.updates` or for `config.minutes`, whichever is first; returns the log's records.

    With `config.decay_minutes`, always for `config.minutes`.

    Under `torchrun` every process trains on its own device with its own environments, and gradients are averaged.
    What is written into `config.out` is described in `run_folder`.

    Raises:
        TrainingError: the folder belongs to another training or cannot be written, or the loss is no longer finite.
        WorkerError: a worker process failed or was killed; what was saved is kept.
        DatasetError: another process trains in the folder.
    """
    with ExitStack() as stack:
        return _OnlineRun(config, stack).train()


class _OnlineRun:
    """One process of a training; what has to be closed goes onto `stack`."""

    def __init__(self, config: OnlineConfig, stack: ExitStack) -> None:
        self.begun = time.monotonic()
        self.config = config
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        _check_device(config)
        self.folder = RunFolder(config, writes=self.rank == 0)
        stack.enter_context(self.folder.alone())
        state = self.folder.read_state()
        self.folder.open()
        done = 0 if state is None else int(state["learner"]["updates"])
        self.processor, model = _initial_network(config)
        taught_by = load_teachers(config.teach, self.processor)
        self.scenes = split_scenes(config, done)
        seeds = (config.seed, self.rank, done)  # a training that goes on draws what it has not drawn yet
        specs = self._specs(seeds)
        pool = WorkerPool(specs)
        stack.callback(pool.close)
        self._limit = None if config.clocked else config.optimize.updates
        self._elapsed = 0.0
        pool.train(config.collect.longest(0.0 if self._limit is None else done / self._limit))
        self.builders = self._build_ahead(pool)
        if self.builders is not None:
            stack.callback(self.builders.close)
        self.device = self._choose_device(stack)
        model.to(device=self.device)  # type: ignore[call-arg]  # transformers hides the signature
        layout = DialogueLayout(self.processor, self.device)
        torch.manual_seed(config.seed)  # the same auxiliary heads in every process
        self.learner = Learner(
            model, layout, config.optimize, config.auxiliary, config.reinforce, config.teach, taught_by
        )
        self.rng = np.random.default_rng(seeds)
        torch.manual_seed(int(self.rng.integers(2**31)))
        pictures, value = choose_pictures(specs[0], pool.arrays, self.device), self.learner.value
        self.collector = Collector(
            pool, pictures, self.learner.average, self.processor, layout, config, self.rng, value
        )
        self.log: list[dict[str, Any]] = []
        self._next_plan = self._updates_before = done
        if state is not None:
            self.learner.load_state(state["learner"])
            self.log, self.collector.turns = list(state["log"]), int(state["turns"])

    @property
    def progress(self) -> float:
        """Share of the training that is done: of its updates, or of the time of a call that goes by the clock."""
        if self._limit is not None:
            return self.learner.updates / self._limit
        assert self.config.minutes is not None
        return min(self._elapsed / self.config.minutes, 1.0)

    def train(self) -> list[dict[str, Any]]:
        config, learner = self.config, self.learner
        next_evaluation = learner.updates + config.evaluate_every
        next_save = learner.updates + config.save_every
        quiet = self.rank > 0
        with tqdm(
            total=self._limit, initial=learner.updates, desc="online DAgger", unit="update", disable=quiet
        ) as bar:
            while self._updates_left() > 0 and not self._out_of_time():
                before = learner.updates
                self._turn()
                bar.update(learner.updates - before)
                if learner.updates >= next_evaluation and self._updates_left() > 0:
                    next_evaluation += config.evaluate_every
                    self._evaluate(bar)
                    self.collector.restart(self.progress)
                if learner.updates >= next_save:
                    next_save += config.save_every
                    self._save()
            if not self.log or self.log[-1]["updates"] < learner.updates:
                self._save()  # before the last evaluation, which may take minutes
                self._evaluate(bar)
        self._save()
        return self.log

    def _updates_left(self) -> float:
        return math.inf if self._limit is None else self._limit - self.learner.updates

    def _turn(self) -> None:
        """Decides a chunk for every stream, and learns while the workers execute it."""
        config, learner, buffer = self.config, self.learner, self.collector.buffer
        self.collector.wait()
        if self.builders is not None:
            self.builders.check()
        shown = self.collector.take()
        self._check_update()  # waits for the last update; what comes before need not
        self.collector.decide(shown, learner.model, self.progress)
        rows = self.collector.drawable()
        # Free episodes that ended too long ago are whole, too.
        if buffer.written > 2 * buffer.capacity and max(len(rows), len(buffer.whole)) < LEAST_EPISODES:
            raise TrainingError(
                f"episodes of {self.collector.pool.streams} streams are overwritten before they end: a buffer of "
                f"{buffer.capacity} frames is too small, raise optimize.buffer_frames or lower collect.streams"
            )
        if not self._everywhere(len(rows) >= LEAST_EPISODES):
            return
        decayed = self._decayed()
        for _ in range(int(min(config.optimize.updates_per_turn, self._updates_left()))):
            if learner.updates >= self._next_plan:
                looked_at = self.collector.draw(rows, LOOKED_AT)
                learner.plan(buffer, looked_at, INSTRUCTION_TOKENS, self.collector.experience)
                # The first episodes to end are short ones: at first the buffer changes with every turn.
                made = learner.updates - self._updates_before
                self._next_plan = learner.updates + min(max(made, 1), REPLAN)
            count = -(-config.optimize.frames_per_update // SHORTEST)
            learner.update(self.collector.draw(rows, count), self.rng, decayed)

    def _evaluate(self, bar: Any) -> None:
        """Evaluates the averaged weights on held-out scenes and logs the result; the streams rest afterwards."""
        begun = time.monotonic()
        self._check_update()
        statistics = self.learner.statistics()
        experience = self.collector.experience
        earned = {} if experience is None else experience.statistics()
        self.collector.wait()
        mine = self.scenes.evaluated[self.rank :: self.ranks]
        results = self._gather(self.collector.evaluate(self.learner.average, mine))
        record = {
            "updates": self.learner.updates,
            "frames": self.collector.buffer.written,
            "episodes": self.collector.buffer.episodes,
            "scenes": len(self.collector.scenes),
            "turns": self.collector.turns,
            "seconds": round(time.monotonic() - self.begun, 1),
            **{f"{name}_seconds": round(value, 1) for name, value in self.collector.seconds.items()},
            "learning_rate": self.learner.learning_rate,
            **{name: round(value, 4) for name, value in statistics.items()},
            **earned,
            **_summary(results),
            "evaluation_seconds": round(time.monotonic() - begun, 1),
        }
        self.log.append(record)
        self.folder.write_log(self.log)
        if self.rank == 0:
            bar.write(_line(record))

    def _save(self) -> None:
        """Writes state and checkpoint."""
        self._check_update()
        self.folder.write_state({"learner": self.learner.state(), "log": self.log, "turns": self.collector.turns})
        self.folder.write_checkpoint(self.learner.average, self.processor)

    def _check_update(self) -> None:
        """Stops before weights that are no numbers are acted on or saved, in all processes at once."""
        loss, norm = self.learner.last_update
        if not np.isfinite(norm):
            what = f"the gradient's norm is {norm}" if np.isfinite(loss) else f"the loss is {loss}"
            raise TrainingError(
                f"{what} at update {self.learner.updates}: lower the learning rate; what was saved in "
                f"{self.config.out} is from before and is kept"
            )

    # ------------------------------------------------------------------------------------- several processes

    def _everywhere(self, here: bool) -> bool:
        """Whether it holds in every process."""
        if self.ranks == 1:
            return here
        flag = torch.tensor([float(here)], device=self.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MIN)
        return bool(flag.item() > 0.5)

    def _gather(self, results: NDArray[np.float64]) -> NDArray[np.float64]:
        """The results of all processes."""
        if self.ranks == 1:
            return results
        parts: list[Any] = [None] * self.ranks
        distributed.all_gather_object(parts, results)
        return np.concatenate(parts)

    def _out_of_time(self) -> bool:
        """Reads the clock, the same in every process, where a time is set."""
        if self.config.minutes is None:
            return False
        self._elapsed = (time.monotonic() - self.begun) / 60.0
        if self.ranks > 1:
            shared = torch.tensor([self._elapsed], device=self.device)
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
            self._elapsed = float(shared.item())
        return self._elapsed >= self.config.minutes

    def _decayed(self) -> float | None:
        """Share of `decay_minutes` that is over; None where updates are counted instead."""
        minutes, decay = self.config.minutes, self.config.decay_minutes
        if minutes is None or decay is None:
            return None
        return 1.0 - (minutes - self._elapsed) / decay

    # ------------------------------------------------------------------------------------------------ set-up

    def _specs(self, seeds: tuple[int, ...]) -> list[StreamsSpec]:
        collect, network = self.config.collect, self.processor.config
        workers, scenes = max(collect.processes // self.ranks, 1), self.scenes.training
        return [
            StreamsSpec(
                data=self.config.data,
                split=self.config.split,
                scenes=self.config.scenes,
                # Where there are fewer scenes than workers, the workers that would go empty play in all of them.
                training_scenes=scenes[self.rank * workers + worker :: self.ranks * workers] or scenes,
                first=worker * collect.streams,
                streams=collect.streams,
                image_size=network.image_size,
                patches_per_side=network.patches_per_side,
                chunk_size=network.chunk_size,
                seed=(*seeds, worker),
                config=collect,
                free=self.config.reinforce.free(collect.streams),
                mirrored=self.config.optimize.mirrored,
            )
            for worker in range(workers)
        ]

    def _build_ahead(self, pool: WorkerPool) -> FlatBuilders | None:
        """Builds the flats that the workers will come to, beside them."""
        collect = self.config.collect
        if self.rank > 0 or collect.builders < 1:
            return None
        dataset = FlatsDataset(self.config.split, scenes=self.config.scenes)
        seeds = dict(zip(dataset.scene_ids, dataset.seeds, strict=True))
        first = pool.workers * self.ranks * collect.shelf  # those the workers build themselves, at once
        evaluated = (dataset.scene_of(episode_id) for episode_id in self.scenes.evaluated)
        coming = dict.fromkeys([*evaluated, *self.scenes.training[first:], *self.scenes.training[:first]])
        return FlatBuilders(dataset.root, self.config.split, [seeds[scene] for scene in coming], collect.builders)

    def _choose_device(self, stack: ExitStack) -> torch.device:
        device = torch.device(choose_device(self.config.device))
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
            torch.set_float32_matmul_precision("high")
            # cuDNN's attention makes a plan for every new length, 1.3 ms each: acting was twice as slow with it.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if self.ranks > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            stack.callback(distributed.destroy_process_group)
        return device


def _check_device(config: OnlineConfig) -> None:
    """Raises TrainingError where the training device cannot draw but is to."""
    if config.collect.drawn_by != "gpu":
        return
    if torch.device(choose_device(config.device)).type != "cuda":
        raise TrainingError("collect.drawn_by 'gpu' needs a CUDA device; without one leave it at 'workers'")
    if find_spec("triton") is None:
        raise TrainingError(
            "collect.drawn_by 'gpu' needs Triton, which torch for CUDA brings along: pip install triton"
        )


def _initial_network(config: OnlineConfig) -> tuple[StreamVLNProcessor, StreamVLNForConditionalGeneration]:
    if config.checkpoint is not None:
        from streamvln_gym.agents.checkpoint import load_checkpoint

        model, processor = load_checkpoint(config.checkpoint, torch.float32)
    else:
        processor = StreamVLNProcessor.tiny()
        model = StreamVLNForConditionalGeneration.from_seed(processor.config, config.seed)
    for network in (model.config, processor.config):
        config.context.apply(network)
    return processor, model


def _summary(results: NDArray[np.float64]) -> dict[str, float]:
    """Means, and the success rates of the episodes that need memory, by kind, and of the others."""
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
    text += f"; SR {record['success']:.3f}, SPL {record['spl']:.3f}, NE {record['navigation_error']:.2f} m"
    return f"{text} ({record['evaluated']} episodes)"
