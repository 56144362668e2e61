"""Writes the page about a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from streamvln_gym.errors import EvaluationError


@dataclass(frozen=True)
class ReportConfig:
    """What `report` reads and writes.

    Attributes:
        run: folder that `evaluate --out` wrote, finished or not.
        out: the page to write (an .html file, or a folder for report.html); default: report.html in the run's folder.
        videos: copy the run's videos beside the page, so that its folder can be taken elsewhere; otherwise the page
            shows them where the run has them.
        scenes_dir: the folder that scene ids are relative to, for the maps; default: the flats' cache, and
            data/scene_datasets.
    """

    run: Path
    out: Path | None = None
    videos: bool = False
    scenes_dir: Path | None = None


def write_report(config: ReportConfig) -> Path:
    """Writes the page about a run and returns its path.

    The same run gives the same bytes. Scenes that are no longer on disk cost the maps their background, nothing more.

    Raises:
        EvaluationError: there is no run, it is corrupt, or the page cannot be written; the message says what to do.
    """
    from streamvln_gym.evaluation.report.page import render  # the command line shows its help without these
    from streamvln_gym.evaluation.report.run_files import read_reported_run
    from streamvln_gym.whole_writes import write_whole

    run = read_reported_run(config.run)
    page = _page_path(config)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        videos = _place_videos(config, page, [record["episode_id"] for record in run.records])
        html = render(run, config.scenes_dir, videos)
        write_whole(page, html, shared=True)
    except OSError as error:
        raise EvaluationError(f"cannot write the report {page}: {error}. Write it elsewhere with --out.") from error
    return page


def _page_path(config: ReportConfig) -> Path:
    if config.out is None:
        return config.run / "report.html"
    return config.out if config.out.suffix in (".html", ".htm") else config.out / "report.html"


def _place_videos(config: ReportConfig, page: Path, episode_ids: Iterable[str]) -> dict[str, str]:
    """The run's videos by episode id, as addresses relative to the page; copied beside it if that is wanted."""
    from streamvln_gym.evaluation.run_folder import VIDEOS, video_file

    files = {e: file for e in episode_ids if (file := video_file(config.run, e)).exists()}
    folder, beside = config.run / VIDEOS, page.parent / VIDEOS
    if config.videos and files and not (beside.is_dir() and beside.samefile(folder)):
        beside.mkdir(exist_ok=True)
        for file in files.values():
            shutil.copyfile(file, beside / file.name)
        folder = beside
    way = Path(os.path.relpath(folder, page.parent)).as_posix()
    return {episode_id: f"{quote(way)}/{quote(file.name)}" for episode_id, file in files.items()}
