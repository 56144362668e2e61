"""DAgger on disk: rounds of playing with the expert's labels, aggregation, training and evaluation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from streamvln_gym.devices import choose_device
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import TrainingError
from streamvln_gym.evaluation import EvaluationConfig, evaluate
from streamvln_gym.metrics import METRICS, summarize
from streamvln_gym.rollout import choose_episodes
from streamvln_gym.selection import open_dataset
from streamvln_gym.simulators.choice import resolve_simulator
from streamvln_gym.training.config import TrainConfig, TrainRecipe, flatten
from streamvln_gym.training.dagger_config import FREE_FIELDS, DAggerConfig
from streamvln_gym.training.dagger_table import read_row, write_json, write_row, write_table
from streamvln_gym.training.folder_lock import only_process
from streamvln_gym.training.recorder import identity_of, make_folder, record_scenes
from streamvln_gym.training.scene_workers import default_workers, scenes_by_size
from streamvln_gym.training.settings_files import with_contents
from streamvln_gym.training.trajectories import MIN_ACTIONS, load_trajectories
from streamvln_gym.training.trajectory_writer import read_notes
from streamvln_gym.whole_writes import whole_folder

if TYPE_CHECKING:
    from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
    from streamvln_gym.training.policy_recorder import PolicyRecordConfig, PolicyRecorder

SETTINGS = "dagger.json"
FIRST = "first"
EVALUATION = "evaluation"
ROW = "round.json"
_NEVER = 2**31


@dataclass(frozen=True)
class DAggerResult:
    """What a run came to.

    Attributes:
        rows: of the table: first policy (if it was evaluated), then round by round.
        model: folder of the last round's network, for `StreamVLNAgent.from_pretrained`.
    """

    rows: list[dict[str, Any]]
    model: Path


def dagger(
    config: DAggerConfig, report: Callable[[Sequence[Mapping[str, Any]]], object] = lambda rows: None
) -> DAggerResult:
    """Runs the rounds that are missing. `Round` says what each consists of.

    Layout of `config.out`::

        dagger.json            the settings; a run with others is refused
        first/model/           the first policy, where no checkpoint was given
        first/evaluation/      the run of `evaluate`, and round.json, its row of the table
        round_000/, ...        see `Round`
        table.json             a row per round

    Killed at any moment, the same call goes on and comes to the same files (of training.json all but `loss` and
    `seconds`); on a GPU as far as its arithmetic repeats itself. With several workers, a script that calls this needs
    the usual `if __name__ == "__main__":`.

    Args:
        config: the settings.
        report: is told the table's rows so far after every round.

    Raises:
        DatasetError: data cannot be had, the folder cannot be written, or a worker was killed.
        CheckpointError: the first policy cannot be loaded.
        TrainingError: the folder holds a run with other settings, no episode was kept, or training fails.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("DAgger is one process that starts others for the episodes: start it without a launcher")
    playable = _check(config)
    make_folder(config.out)
    with only_process(config.out, "running DAgger in"):
        _check_settings(config)
        first = policy = _first_policy(config)
        rows: list[dict[str, Any]] = []
        if config.evaluate_first:
            rows.append(_first_row(config, first))
        for number in range(config.rounds):
            this = Round(config, number, policy, policy if config.start_from == "previous" else first)
            rows.append(this.run(playable))
            policy = str(this.model)
            write_table(config.out, rows)
            report(rows)
    return DAggerResult(rows, Path(policy))


class Round:
    """One round. Each stage finds out by itself what of it is done.

    Layout of its folder::

        data/               trajectories that policy and expert drove, labelled by the expert; see `trajectory_writer`
        training/           the run of `sft.train` on demonstrations and all rounds' data so far
        training/model/     its network
        evaluation/         the run of `evaluate` on the evaluation split
        round.json          the row of the table; written last

    Args:
        config: of all rounds.
        number: from 0.
        policy: checkpoint that plays.
        start: checkpoint that training starts from.
    """

    def __init__(self, config: DAggerConfig, number: int, policy: str, start: str) -> None:
        self.config = config
        self.number = number
        self.beta = config.mixing.make()(number)
        self._policy = policy
        self._start = start
        self._folder = round_folder(config.out, number)

    @property
    def model(self) -> Path:
        """Folder of the trained network."""
        return self._folder / "training" / "model"

    def run(self, playable: EpisodeDataset) -> dict[str, Any]:
        """Does what is missing; returns the row of the table.

        Args:
            playable: the dataset whose episodes are recorded.
        """
        row = read_row(self._folder / ROW)
        if row is None:
            recorded = self._record(playable)
            trained = self._train()
            evaluated = _evaluate(self.config, str(self.model), self._folder)
            row = {"round": self.number, "beta": self.beta, "policy": self._policy, **recorded, **trained}
            row |= evaluated
            write_row(self._folder / ROW, row)
        for checkpoint in (self._folder / "training").glob("checkpoint-*"):  # nobody goes on from here any more
            shutil.rmtree(checkpoint)
        return row

    def _record(self, playable: EpisodeDataset) -> dict[str, Any]:
        """Plays the round's episodes; returns how many of what."""
        from streamvln_gym.training.policy_recorder import NOTES, is_played

        config, folder = self.config, self._folder / "data"
        record = config.recording(folder, self._policy)
        chosen = episodes_of_round(playable, config.rollout.episodes, self.number, config.seed)
        job = _policy_record_config(config, self.number, self.beta, self._policy, chosen)
        identity = identity_of(record, playable) | {"round": self.number, "beta": self.beta}
        missing = [name for name in chosen if not is_played(folder, playable, playable.episode(name))]
        open_scenes = {playable.scene_of(name) for name in missing}  # without any, no network need be loaded
        scenes = [scene for scene in scenes_by_size(playable, chosen) if scene in open_scenes]
        done = sum(playable.scene_of(name) not in open_scenes for name in chosen)
        title = f"round {self.number} on {playable.name}/{playable.split}"
        with tqdm(total=len(chosen), initial=done, desc=title, unit="episode") as bar:
            make = partial(_policy_recorder, job)
            workers = config.rollout.workers or default_workers("streamvln", self._policy, config.rollout.device)
            record_scenes(folder, identity, make, scenes, workers, bar)
        kept = load_trajectories(folder)
        notes = read_notes(folder, NOTES)
        steps = sum(note["steps"] for note in notes)
        return {
            "episodes": len(chosen),
            "kept": len(kept),
            "dropped": len(notes) - len(kept),
            "skipped": len(chosen) - len(notes),
            "frames": sum(map(len, kept)),
            "expert_share": sum(note["expert_steps"] for note in notes) / steps if steps else None,
            "take_overs": sum(note["take_overs"] for note in notes),
        }

    def _train(self) -> dict[str, Any]:
        """Trains on all that there is; returns the loss on this round's data afterwards."""
        from streamvln_gym.training.sft import train  # needs torch

        config = self.config
        folders = [round_folder(config.out, number) / "data" for number in range(self.number + 1)]
        usable = [folder for folder in folders if _has_windows(folder)]
        if not usable and not config.demonstrations:
            raise TrainingError(
                f"no episode of {folders[-1]} was kept ('skipped' in its episodes/ says why), and there are no "
                "demonstrations, so there is nothing to train on: start in another folder with a looser `keep`, a "
                "larger beta, more episodes or `demonstrations`"
            )
        share = "" if config.round_weight is None else f"={config.round_weight!r}"
        recipe = {item.name: getattr(config.train, item.name) for item in fields(TrainRecipe)}
        recipe["report"] = replace(config.train.report, eval_every=config.train.report.eval_every or _NEVER)
        result = train(
            TrainConfig(
                data=(*config.demonstrations, *(f"{folder}{share}" for folder in usable)),
                out=self._folder / "training",
                checkpoint=self._start,
                held_out=(str(folders[-1]),) if folders[-1] in usable else (),
                seed=config.seed + self.number,
                resume=True,
                **recipe,
            )
        )
        _free_gpu()  # for the processes that play
        return {"optimiser_steps": result.steps, "loss": result.eval_loss}


def _free_gpu() -> None:
    """Gives back what torch holds of a GPU's memory for later use."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def round_folder(out: Path, number: int) -> Path:
    """Where round `number` of a run lies."""
    return out / f"round_{number:03d}"


def episodes_of_round(dataset: EpisodeDataset, count: int, number: int, seed: int) -> list[str]:
    """The episodes of a round: `count` of a shuffled order in which scenes take turns, after those of the last round.

    Args:
        dataset: to choose from.
        count: how many; 0, or more than there are: all of them.
        number: of the round.
        seed: of the order, the same in all rounds.
    """
    order = choose_episodes(dataset, 0, seed)
    if not 0 < count < len(order):
        return order
    return [order[(number * count + offset) % len(order)] for offset in range(count)]


# ------------------------------------------------------------------------------------------------------------ helpers


def _check(config: DAggerConfig) -> EpisodeDataset:
    """Finds out before anything is written whether all that is named is there; returns the episodes to play.

    Raises:
        StreamVLNGymError: something is missing or malformed.
    """
    from streamvln_gym.training.dataset import StreamVLNWindows
    from streamvln_gym.training.mixture import parse_sources
    from streamvln_gym.training.start_checks import check_packages, check_recipe, read_processor

    check_recipe(config.train)
    check_packages(config.train)
    choose_device(config.rollout.device)
    sources = parse_sources(config.demonstrations)
    if config.round_weight is None and any(source.weight is not None for source in sources):
        raise ValueError("the demonstrations have weights, so the rounds need one too: set round_weight")
    if config.round_weight is not None and any(source.weight is None for source in sources):
        raise ValueError("round_weight is set, so the demonstrations need weights too: FOLDER=WEIGHT")
    processor = read_processor(config.checkpoint)
    _check_pictures(config, processor.config)
    for source in sources:
        StreamVLNWindows(source.folder, processor, privileged=config.train.auxiliary is not None).check()
    evaluation, rollout = config.evaluation, config.rollout
    if evaluation.data is None and Path(rollout.data).is_file():
        raise ValueError(
            f"the policy would be evaluated on the episodes it is trained on: {rollout.data} is one file, and "
            "evaluation.split says nothing about it. Set evaluation.data (--evaluation.data), to the same file if that "
            "is wanted, or write {split} in the path"
        )
    languages = rollout.languages or None
    open_dataset(evaluation.data or rollout.data, evaluation.split, rollout.data_dir, languages=languages)
    played = open_dataset(rollout.data, rollout.split, rollout.data_dir, rollout.scenes, languages=languages)
    resolve_simulator(rollout.simulator, played.name, config.recording(config.out, "").camera)
    return played


def _check_pictures(config: DAggerConfig, network: StreamVLNConfig) -> None:
    """Whether what the rounds record is what they train on.

    Raises:
        ValueError: it is not; the message says what to set.
    """
    from streamvln_gym.models.memory_strategies import strategy_of
    from streamvln_gym.training.dataset import check_augmentation

    train, pictures, patches = config.train, config.pictures, network.patches_per_side
    check_augmentation(train.augmentation, network, train.auxiliary is not None)
    if train.auxiliary and pictures.patches != patches:
        raise ValueError(
            f"the rounds would record targets of {pictures.patches} patches per side, but the network has {patches}: "
            f"set pictures.patches={patches}"
        )
    if strategy_of(network).needs_geometry and network.num_history and not pictures.depth:
        raise ValueError(
            f"the network's memory strategy {network.memory_strategy!r} needs depth, which the rounds record with "
            "pictures.depth: set it"
        )


def _check_settings(config: DAggerConfig) -> None:
    path = config.out / SETTINGS
    ours = {name: value for name, value in with_contents(flatten(config)).items() if name not in FREE_FIELDS}
    begun = [folder for folder in (config.out / FIRST, round_folder(config.out, 0)) if folder.exists()]
    if not path.exists() or not begun:  # where nothing was played, other settings do no harm
        if begun:
            raise TrainingError(f"{begun[0]} is there, but no {path} that says of which run: choose another folder")
        write_json(path, ours)
        return
    try:
        theirs = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): choose another folder") from error
    differences = [
        f"{name} was {theirs.get(name)!r} and is now {ours.get(name)!r}"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if differences:
        raise TrainingError(
            f"{config.out} holds a DAgger run with other settings: {'; '.join(differences)}. Go on with those of "
            f"{path}, or choose another folder"
        )


def _first_policy(config: DAggerConfig) -> str:
    """The first policy's checkpoint; random weights are written down, as every round may start from them."""
    if config.checkpoint is not None:
        return config.checkpoint
    target = config.out / FIRST / "model"
    if not target.exists():
        from streamvln_gym.agents import StreamVLNAgent
        from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
        from streamvln_gym.models.processing_streamvln import StreamVLNProcessor

        processor = StreamVLNProcessor.tiny()
        network = StreamVLNForConditionalGeneration.from_seed(processor.config, config.seed)
        with whole_folder(target) as folder:
            StreamVLNAgent(network, processor).save_pretrained(folder)
    return str(target)


def _first_row(config: DAggerConfig, policy: str) -> dict[str, Any]:
    """Evaluates the first policy, unless that is done."""
    folder = config.out / FIRST
    row = read_row(folder / ROW)
    if row is None:
        row = {"round": FIRST, "policy": policy, **_evaluate(config, policy, folder)}
        write_row(folder / ROW, row)
    return row


def _policy_record_config(
    config: DAggerConfig, number: int, beta: float, policy: str, chosen: Sequence[str]
) -> PolicyRecordConfig:
    from streamvln_gym.training.policy_recorder import PolicyRecordConfig

    return PolicyRecordConfig(
        record=config.recording(round_folder(config.out, number) / "data", policy),
        episode_ids=tuple(chosen),
        round_number=number,
        beta=beta,
        per=config.mixing.per,
        take_over=config.take_over,
        keep=config.keep,
        batch=config.rollout.batch,
    )


def _policy_recorder(job: PolicyRecordConfig) -> PolicyRecorder:
    from streamvln_gym.training.policy_recorder import PolicyRecorder

    return PolicyRecorder(job)


def _evaluate(config: DAggerConfig, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Evaluates a policy into `folder`; returns the means, and what they are of."""
    settings, rollout, pictures = config.evaluation, config.rollout, config.pictures
    result = evaluate(
        EvaluationConfig(
            out=folder / EVALUATION,
            checkpoint=checkpoint,
            data=Path(settings.data or rollout.data),
            data_dir=rollout.data_dir,
            simulator=rollout.simulator,
            split=settings.split,
            languages=rollout.languages,
            episodes=settings.episodes,
            max_steps=settings.max_steps,
            device=rollout.device,
            workers=rollout.workers,
            envs_per_worker=rollout.batch,
            width=pictures.width,
            height=pictures.height,
            supersampling=pictures.supersampling,
            engine="local",
            report=False,
        )
    )
    means, first = summarize(result.records), result.records[0]
    what = {name: result.identity[name] for name in ("dataset", "split", "simulator")}
    note = {"note": first["note"]} if "note" in first else {}
    return {
        **what,
        **note,
        "evaluated": len(result.records),
        **{name: means[name] for name in METRICS if name in means},
    }


def _has_windows(folder: Path) -> bool:
    return any(len(trajectory) >= MIN_ACTIONS for trajectory in load_trajectories(folder))
