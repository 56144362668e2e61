"""The command line `streamvln-gym`: one function per command, and each command is also a plain Python call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.report.writer import ReportConfig
from streamvln_gym.rollout import RolloutConfig
from streamvln_gym.serving.config import ServeConfig
from streamvln_gym.training.config import EstimateConfig, TrainConfig
from streamvln_gym.training.dagger_config import DAggerConfig
from streamvln_gym.training.online.config import OnlineConfig
from streamvln_gym.training.recorder import RecordConfig


@dataclass(frozen=True)
class BuildFlatsConfig:
    """What `build-flats` builds.

    Attributes:
        split: "train", "val_seen", "val_unseen", or a name of your own (with --scenes and --first-seed).
        scenes: how many scenes; default: the split's own number.
        first_seed: first scene seed; default: the split's own.
        out: folder to build into, for `--data DIR` and dataset=DIR; default: the cache.
        workers: processes; default: one for each CPU core.
    """

    split: str = "val_unseen"
    scenes: int | None = None
    first_seed: int | None = None
    out: Path | None = None
    workers: int | None = None


@dataclass(frozen=True)
class BuildNavmeshConfig:
    """What `build-navmesh` builds.

    Attributes:
        scenes: GLB files; a bare one is taken as Z-up (Matterport), as habitat does.
        out: folder to write into; default: beside each scene, where both simulators look for it.
        format: "navmesh", habitat's file, which both simulators read; "npz", this package's.
    """

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    format: Literal["navmesh", "npz"] = "navmesh"


@dataclass(frozen=True)
class ConvertConfig:
    """What `convert` reads and writes.

    Attributes:
        source: folder of a published StreamVLN checkpoint.
        target: folder to write, in this package's format; with the checksum of every tensor in conversion.json.
        tokenizer: folder with the tokenizer, where the checkpoint lacks it.
        vision_config: JSON file with the vision tower's sizes (a SigLIP config.json); default: SO400M/14-384.
    """

    source: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]
    tokenizer: Path | None = None
    vision_config: Path | None = None


@dataclass(frozen=True)
class DoctorConfig:
    """What `doctor` looks at.

    Attributes:
        data_dir: the folder with `datasets/` and `scene_datasets/`.
    """

    data_dir: Path = Path("data")


@dataclass(frozen=True)
class BudgetConfig:
    """What `budget` counts.

    Attributes:
        config: checkpoint folder or config.json; default: the published sizes.
        batch: samples at once.
        strategy: only this slow-memory strategy; default: all of them.
    """

    config: Path | None = None
    batch: int = 1
    strategy: Literal["none", "pooled", "full", "temporal_pool", "voxel"] | None = None


def _flag(values: list[str]) -> bool:
    if values not in ([], ["True"], ["False"]):
        raise ValueError("expected nothing, True or False")
    return values != ["False"]


Flag = Annotated[
    bool,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[True|False]",
        instance_from_str=_flag,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A switch that can do without a value."""


@dataclass(frozen=True)
class DataConfig:
    """What `data check PATH` looks at.

    Attributes:
        action: check: validates a data folder and says what to fix; exit code 1 if there is an error.
        path: a data folder (with `datasets/` and `scene_datasets/`), a part of one, or one episode file.
        scenes_dir: the folder that scene ids are relative to; default: the `scene_datasets` beside `datasets`.
        navigation: also load every scan and see whether starts are on the mesh and goals can be reached.
        json: print JSON.
    """

    action: tyro.conf.Positional[Literal["check"]]
    path: tyro.conf.Positional[Path]
    scenes_dir: Path | None = None
    navigation: Flag = False
    json: Flag = False


@dataclass(frozen=True)
class RolloutCommand(RolloutConfig):
    """What `rollout` does.

    Attributes:
        panel: draw below the videos what a StreamVLN agent remembers, decided and paid.
        viewer: show the run live in Rerun's viewer.
    """

    panel: Flag = True
    viewer: Flag = False


@dataclass(frozen=True)
class CompareConfig:
    """What `compare A B` compares.

    Attributes:
        first: folder of a finished evaluation, A.
        second: of another one, B.
        json: print JSON.
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    json: Flag = False


@dataclass(frozen=True)
class TrainCommand(TrainConfig):
    """What `train` does.

    Attributes:
        dry_run: only check options and data, and print what training would need on each GPU.
        estimate: see `EstimateConfig`.
    """

    dry_run: Flag = False
    estimate: tyro.conf.OmitArgPrefixes[EstimateConfig] = field(default_factory=EstimateConfig)

    def recipe(self) -> TrainConfig:
        """The settings of training alone."""
        return TrainConfig(**{item.name: getattr(self, item.name) for item in fields(TrainConfig)})


@dataclass(frozen=True)
class ReportCommand(ReportConfig):
    """What `report RUN` reads and writes; see `ReportConfig`."""

    run: tyro.conf.Positional[Path]
    videos: Flag = False


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Known errors end it with their message and exit code 1."""
    config = tyro.cli(
        Annotated[RolloutCommand, tyro.conf.subcommand("rollout", description="Play episodes with an agent.")]
        | Annotated[
            EvaluationConfig,
            tyro.conf.subcommand("evaluate", description="Play a whole split in parallel; goes on after any kill."),
        ]
        | Annotated[ReportCommand, tyro.conf.subcommand("report", description="Write the page about an evaluation.")]
        | Annotated[CompareConfig, tyro.conf.subcommand("compare", description="Compare two evaluations.")]
        | Annotated[
            BuildFlatsConfig, tyro.conf.subcommand("build-flats", description="Build furnished flats and episodes.")
        ]
        | Annotated[
            BuildNavmeshConfig,
            tyro.conf.subcommand("build-navmesh", description="Build navigation meshes of scenes, as habitat does."),
        ]
        | Annotated[RecordConfig, tyro.conf.subcommand("record", description="Record trajectories for training.")]
        | Annotated[TrainCommand, tyro.conf.subcommand("train", description="Train StreamVLN on trajectory folders.")]
        | Annotated[
            DAggerConfig, tyro.conf.subcommand("dagger", description="Play, label, train, evaluate; in rounds.")
        ]
        | Annotated[
            OnlineConfig,
            tyro.conf.subcommand("online-dagger", description="Train in environments that run beside the training."),
        ]
        | Annotated[ServeConfig, tyro.conf.subcommand("serve", description="Serve an agent to robots (WebSocket).")]
        | Annotated[BudgetConfig, tyro.conf.subcommand("budget", description="Count what frames cost the model.")]
        | Annotated[ConvertConfig, tyro.conf.subcommand("convert", description="Convert a published checkpoint.")]
        | Annotated[DataConfig, tyro.conf.subcommand("data", description="Check downloaded episodes and scans.")]
        | Annotated[DoctorConfig, tyro.conf.subcommand("doctor", description="Say what is installed and found.")],
        prog="streamvln-gym",
        description="Vision-and-language navigation as a Gymnasium environment, and StreamVLN as a policy.",
        args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )
    commands: dict[type, Callable[[Any], None]] = {
        RolloutCommand: _rollout,
        EvaluationConfig: _evaluate,
        ReportCommand: _report,
        CompareConfig: _compare,
        BuildFlatsConfig: _build_flats,
        BuildNavmeshConfig: _build_navmesh,
        RecordConfig: _record,
        TrainCommand: _train,
        DAggerConfig: _dagger,
        OnlineConfig: _train_online,
        ServeConfig: _serve,
        ConvertConfig: _convert,
        BudgetConfig: _budget,
        DataConfig: _data,
        DoctorConfig: _doctor,
    }
    try:
        commands[type(config)](config)
    except (StreamVLNGymError, gymnasium.error.Error, ValueError, OSError) as error:
        sys.exit(f"streamvln-gym: {error}")
    except KeyboardInterrupt:
        sys.exit("streamvln-gym: interrupted; finished episodes and scenes are kept")


def _rollout(config: RolloutConfig) -> None:
    from streamvln_gym.rollout import rollout

    records = rollout(config)
    if not records:
        sys.exit("streamvln-gym: there was no episode to play")
    from streamvln_gym.rollout_table import print_table

    print_table(records)
    if config.video:
        print(f"videos: {config.video.resolve()}")
    if config.rerun:
        print(f"recording: {config.rerun.resolve()} (open it with: rerun {config.rerun})")
    if config.json:
        print(f"records: {config.json.resolve()}")
    if config.predictions:
        print(f"predictions of {len(records)} episodes: {config.predictions.resolve()}")


def _evaluate(config: EvaluationConfig) -> None:
    from streamvln_gym.evaluation.engines.ranks import is_main
    from streamvln_gym.evaluation.evaluator import evaluate
    from streamvln_gym.evaluation.tables import print_run

    result = evaluate(config)
    if is_main():
        print_run(result.summary)
        print(f"results: {config.out.resolve()}")
        if config.report:
            print(f"report: {(config.out / 'report.html').resolve()}")


def _compare(config: CompareConfig) -> None:
    import json

    from streamvln_gym.evaluation.comparison import compare
    from streamvln_gym.evaluation.tables import print_comparison

    comparison = compare(config.first, config.second)
    if config.json:
        print(json.dumps(comparison.to_json(), indent=2, ensure_ascii=False))
    else:
        print_comparison(comparison)


def _report(config: ReportConfig) -> None:
    from streamvln_gym.evaluation.report import write_report

    print(f"report: {write_report(config).resolve()}")


def _train_online(config: OnlineConfig) -> None:
    from streamvln_gym.training.online.trainer import train_online

    train_online(config)
    print(f"checkpoint: {(config.out / 'checkpoint').resolve()}")
    print(f"log: {(config.out / 'log.jsonl').resolve()}")


def _serve(config: ServeConfig) -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        from streamvln_gym.serving.server import serve
    except ImportError as error:
        sys.exit(f"streamvln-gym: {error}")
    serve(config)


def _build_flats(config: BuildFlatsConfig) -> None:
    from streamvln_gym.cache import cache_dir
    from streamvln_gym.flats.building import build_scenes, merge_split
    from streamvln_gym.flats.dataset import split_seeds
    from streamvln_gym.flats.files import DATASET_NAME

    seeds = split_seeds(config.split, config.scenes, config.first_seed)
    root = config.out or cache_dir() / DATASET_NAME
    build_scenes(root, config.split, seeds, config.workers)
    path = merge_split(root, config.split, seeds)
    print(f"{len(seeds)} flats of the split {config.split!r} are in {root}; their episodes in {path}")
    if config.out:
        print(f"play them with: streamvln-gym rollout --data {config.out} --split {config.split}")


def _build_navmesh(config: BuildNavmeshConfig) -> None:
    from streamvln_gym.simulators.embedded.navmesh_source import write_scene_navmesh

    if not config.scenes:
        sys.exit("streamvln-gym: name at least one GLB file")
    for scene in config.scenes:
        print(write_scene_navmesh(scene, config.out, config.format))


def _train(config: TrainCommand) -> None:
    if config.dry_run:
        _estimate(config)
        return
    from streamvln_gym.training.sft import train

    result = train(config.recipe())
    if result.loss is not None:
        print(
            f"mean loss {result.loss:.4f}" + ("" if result.eval_loss is None else f", held out {result.eval_loss:.4f}")
        )
    for name, folder in {"adapter": result.adapter, "model": result.model}.items():
        if folder:
            print(f"{name} after {result.steps} steps: {folder.resolve()}")
    if result.model:
        print(f"play it with: streamvln-gym rollout --agent streamvln --checkpoint {result.model}")


def _estimate(config: TrainCommand) -> None:
    from streamvln_gym.training.dry_run import dry_run

    found = dry_run(config.recipe(), config.estimate)
    print(found.format())
    if found.fits is False:
        sys.exit("streamvln-gym: this would not fit")


def _dagger(config: DAggerConfig) -> None:
    from streamvln_gym.training.dagger import dagger
    from streamvln_gym.training.dagger_table import print_rounds

    result = dagger(config, print_rounds)
    print(f"play the last round's policy with: streamvln-gym rollout --agent streamvln --checkpoint {result.model}")


def _record(config: RecordConfig) -> None:
    from streamvln_gym.training.recorder import record

    summary = record(config)
    print(
        f"{summary.trajectories} trajectories with {summary.instructions} instructions and {summary.frames} pictures "
        f"are in {config.out}"
    )
    if summary.skipped:
        print(f"{summary.skipped} could not be recorded: see 'skipped' in {config.out / 'episodes'}")


def _budget(config: BudgetConfig) -> None:
    from streamvln_gym.models.budget import format_budget, read_budget_config
    from streamvln_gym.models.configuration_streamvln import MEMORY_STRATEGIES

    strategies = (config.strategy,) if config.strategy else MEMORY_STRATEGIES
    print(format_budget(read_budget_config(config.config), config.batch, strategies))


def _convert(config: ConvertConfig) -> None:
    from streamvln_gym.models import conversion

    vision = conversion.read_json(config.vision_config) if config.vision_config else None
    if vision is not None:
        vision = vision.get("vision_config", vision)
    report = conversion.convert_checkpoint(
        config.source, config.target, vision, config.tokenizer, progress=lambda name: print(f"writing {name}")
    )
    print(f"{len(report['tensors'])} tensors, {report['bytes'] / 1e9:.2f} GB, in {config.target.resolve()}")
    print(f"checksums: {(config.target / conversion.CHECKSUMS_NAME).resolve()}")
    print(f"left out, as the published network does not use them: {', '.join(report['left_out']) or 'nothing'}")


def _data(config: DataConfig) -> None:
    import json

    from streamvln_gym.data_check import check_data

    report = check_data(config.path, config.scenes_dir, config.navigation)
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if config.json else "\n".join(report.lines()))
    if not report.ok:
        sys.exit(1)


def _doctor(config: DoctorConfig) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    from streamvln_gym.doctor import diagnose

    findings = diagnose(config.data_dir)
    colours = {"ok": "green", "missing": "yellow", "problem": "red"}
    width = max(len(finding.topic) for finding in findings)
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        status = f"[{colours[finding.status]}]{finding.status:<8}[/]"
        console.print(f"{status}{finding.topic:<{width}}  {escape(finding.detail)}")
        if finding.remedy:
            console.print(Padding(f"-> {escape(finding.remedy)}", (0, 0, 0, 8)), style="dim", soft_wrap=False)
    problems = [finding.topic for finding in findings if finding.status == "problem"]
    if problems:
        sys.exit(f"streamvln-gym: something needed is wrong: {', '.join(problems)}")


if __name__ == "__main__":
    main()
