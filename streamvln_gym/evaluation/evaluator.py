"""`evaluate`: plays a split with an agent, in parallel, in a folder where it can go on after any kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.engines import ranks
from streamvln_gym.evaluation.identity import identity_of
from streamvln_gym.evaluation.run_folder import RunFolder, video_file
from streamvln_gym.evaluation.shards import Line
from streamvln_gym.evaluation.summary import summarize_run
from streamvln_gym.evaluation.work import Group, make_groups
from streamvln_gym.rollout import check_network, choose_episodes


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        out: its folder.
        identity: what it is of.
        records: one per episode, in the dataset's order: the lines of `episodes.jsonl`.
        summary: the content of `summary.json`.
    """

    out: Path
    identity: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any]


@dataclass
class Evaluation:
    """An evaluation while it is being played.

    Attributes:
        config: who plays what.
        dataset: the data.
        folder: locked.
        identity: what it is of.
        fingerprint: of the identity.
        wanted: ids of all episodes, in the dataset's order.
        groups: what is left to play.
        session: names this process's part of the run, in the names of its shards.
        bar: counts episodes.
        counted: ids of the finished episodes.
    """

    config: EvaluationConfig
    dataset: EpisodeDataset
    folder: RunFolder
    identity: dict[str, Any]
    fingerprint: str
    wanted: list[str]
    groups: list[Group]
    session: str
    bar: tqdm
    counted: set[str] = field(default_factory=set)
    _successes: float = 0.0
    _rated: int = 0

    def count(self, episode_id: str, success: float | None) -> None:
        """Counts a finished episode, once."""
        if episode_id not in self.counted:
            self._add(episode_id, success)
            self.bar.update()

    def count_earlier(self, results: Mapping[str, Line]) -> None:
        """Counts what was finished before."""
        for episode_id, line in results.items():
            self._add(episode_id, line.value.get("success"))

    def _add(self, episode_id: str, success: float | None) -> None:
        self.counted.add(episode_id)
        if success is not None:
            self._successes, self._rated = self._successes + success, self._rated + 1
            self.bar.set_postfix_str(f"SR {100 * self._successes / self._rated:.1f} %", refresh=False)

    def results_of(self, group: Group) -> Mapping[str, float | None]:
        """Successes of those of a group's episodes whose results are on the disk."""
        found = self.folder.finished(self.fingerprint, cut=False)
        return {e: found[e].value.get("success") for e in group.episode_ids if e in found}

    def missing_of(self, groups: Sequence[Group]) -> list[str]:
        """Those of the groups' episodes whose results are not on the disk, in the dataset's order."""
        found = self.folder.finished(self.fingerprint, cut=False)
        missing = {e for group in groups for e in group.episode_ids} - found.keys()
        return [e for e in self.wanted if e in missing]

    def say(self, text: str) -> None:
        """Tells the user something above the progress bar."""
        self.bar.write(f"streamvln-gym: {text}")

    def finish(self) -> EvaluationResult:
        """Merges the shards, and writes the summary and the report.

        Raises:
            EvaluationError: an episode is missing, or results contradict each other.
        """
        records = self.folder.merge(self.wanted, self.fingerprint)
        summary = {"fingerprint": self.fingerprint, "identity": self.identity, **summarize_run(records)}
        self.folder.write_summary(summary)
        if self.config.report:
            from streamvln_gym.evaluation.report import ReportConfig, write_report

            write_report(ReportConfig(self.folder.path, scenes_dir=Path(self.dataset.scenes_dir)))
        return EvaluationResult(self.config.out, self.identity, records, summary)


def evaluate(config: EvaluationConfig) -> EvaluationResult:
    """Plays what is not yet finished, and writes the run's folder (docs/evaluation.md says what is in it).

    Records are the same whatever the number of workers, and however often the run was killed and started again.

    Raises:
        StreamVLNGymError: data, checkpoint or simulator cannot be had, the folder holds another run, another process
            is writing into it, the disk is full, a result is damaged, or an episode kills its workers. The message says
            what to do; finished episodes are kept.
        ValueError: an option makes no sense.
    """
    engine = config.engine
    if engine == "auto":
        engine = "ranks" if ranks.launched() else "local"
    if engine == "ranks":
        return ranks.evaluate_together(config)
    if engine == "ray":
        from streamvln_gym.evaluation.engines.ray_cluster import play
    elif engine == "local":
        from streamvln_gym.evaluation.engines.local import play
    else:
        raise ValueError(f"unknown engine {engine!r}: use auto, local, ranks or ray")
    with begun(config) as run:
        play(run)
        return run.finish()


@contextmanager
def begun(config: EvaluationConfig) -> Iterator[Evaluation]:
    """Locks the folder, finds out what is left to play, and counts.

    Raises:
        StreamVLNGymError: see `evaluate`.
    """
    from streamvln_gym.evaluation.player import open_environment

    if config.agent == "streamvln":
        # The actors of a Ray cluster have devices of their own.
        check_network(config.checkpoint, None if config.engine == "ray" else config.device)
    env = open_environment(config, sensors=("instruction",))
    base: Any = env.unwrapped
    dataset: EpisodeDataset = base.dataset
    folder = RunFolder(config.out)
    with folder.locked():
        in_turn = choose_episodes(dataset, config.episodes, config.seed)
        if not in_turn:
            raise EvaluationError(f"{dataset.name}/{dataset.split} has no episodes: choose another split")
        place = {episode_id: k for k, episode_id in enumerate(dataset.episode_ids)}
        wanted = sorted(in_turn, key=place.__getitem__)
        _build(dataset, wanted, config.workers)
        identity = identity_of(config, dataset, base.simulator.name, wanted)
        env.close()
        fingerprint = folder.begin(identity, len(wanted))
        done = folder.finished(fingerprint)
        stray = done.keys() - set(wanted)
        if stray:
            raise EvaluationError(
                f"{folder.shards} has results of episode {min(stray)!r}, which is not among those of this run: give "
                "this evaluation another folder with --out"
            )
        films = in_turn if config.videos == "all" else in_turn[: config.videos]
        missing = [e for e in films if not video_file(config.out, e).exists()]
        groups = make_groups(dataset, wanted, config.batch, done, missing)
        title = f"{config.agent} on {dataset.name}/{dataset.split}"
        with tqdm(total=len(wanted), initial=len(done), desc=title, unit="episode", smoothing=0.05) as bar:
            run = Evaluation(config, dataset, folder, identity, fingerprint, wanted, groups, _new_session(folder), bar)
            run.count_earlier(done)
            yield run


def _build(dataset: EpisodeDataset, wanted: list[str], workers: int | None) -> None:
    """Builds the generated scenes that are missing, in parallel, before workers ask for them one by one."""
    build = getattr(dataset, "build", None)
    if build is not None:
        build(workers, {dataset.scene_of(episode_id) for episode_id in wanted})


def _new_session(folder: RunFolder) -> str:
    """A name that no shard in the folder has yet."""
    taken = {path.name.split("-")[1] for path in folder.shards.glob("*.jsonl")}
    return next(name for k in range(len(taken) + 1) if (name := f"s{k}") not in taken)
