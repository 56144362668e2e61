"""Which release of R2R-CE an episode file is, by the names of its folders and by what it holds.

What the releases changed (VLN-CE's data page and pull request #32): v1-1 puts start and goal into every reference
path and makes every goal's radius 3 m (the train split of v1's preprocessed files has 2 m); v1-2 adds the test split;
v1-3 gives every episode a new start heading (Room-to-Room's), has new ground truth and 109 episodes less in EnvDrop.
Start positions, goals and the number of episodes of the other splits are the same in all of them, so that a mixture
goes unnoticed: an agent then starts in another direction than the published results' agents did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvln_gym.data_check.report import DataProblem
from streamvln_gym.vlnce.layouts import ENVDROP_BEFORE_V1_3, LAYOUTS

_FIRST_POSITION = (-16.2672, 0.15184, 0.72078)
_FIRST_ROTATION_BEFORE_V1_3 = (0.0, 0.000796, 0.0, 1.0)
_OLD_PATHS = 0.01  # share of reference paths without start or goal from which a file is v1


@dataclass
class VersionFacts:
    """What of a file says its release.

    Attributes:
        episodes: how many.
        open_paths: episodes whose reference path lacks the start or the goal.
        small_radii: episodes with a goal of 2 m radius.
        first_heading: "old" or "new" if the episode is there whose heading before v1-3 is documented, else "".
    """

    episodes: int = 0
    open_paths: int = 0
    small_radii: int = 0
    first_heading: str = ""

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts an episode's record."""
        self.episodes += 1
        goals, path = record.get("goals") or (), record.get("reference_path") or ()
        if goals and path:
            ends = ((path[0], record["start_position"]), (path[-1], goals[0]["position"]))
            self.open_paths += any(math.dist(a, b) > 0.01 for a, b in ends)
            self.small_radii += goals[0].get("radius") == 2.0
        if math.dist(record["start_position"], _FIRST_POSITION) < 1e-3 and str(record["episode_id"]) == "1":
            old = all(
                abs(a - b) < 1e-4 for a, b in zip(record["start_rotation"], _FIRST_ROTATION_BEFORE_V1_3, strict=True)
            )
            self.first_heading = "old" if old else "new"


def folder_version(path: Path) -> str:
    """The release that the names of a file's folders say: "v1-3", ..., "" if they say none."""
    named = re.findall(r"R2R_VLNCE_(v1(?:-\d)?)(?![\d-])", str(path.absolute()))
    if named:
        return named[-1]
    return "v1" if "vln/mp3d/r2r/v1/" in path.absolute().as_posix() else ""


def guess_version(path: Path, split: str, facts: VersionFacts) -> tuple[str, str, list[DataProblem]]:
    """The release of an R2R-CE file ("v1-3", "before v1-3", "v1", or ""), the reason, and what contradicts it."""
    said = folder_version(path)
    seen, reason, sure = _from_content(split, facts)
    problems = []
    if said and seen and not _agree(said, seen):
        problems.append(
            DataProblem(
                "error" if sure else "warning",
                "version",
                str(path),
                f"the folder says {said}, but the file is {seen}: {reason}. Releases differ in start headings and "
                "ground truth, so that results cannot be compared.",
                "Take episodes and ground truth out of one release, best v1-3 "
                "(https://github.com/jacobkrantz/VLN-CE#data), and name the folder after it.",
            )
        )
    return (said, "its folder's name", problems) if said else (seen, reason, problems)


def _from_content(split: str, facts: VersionFacts) -> tuple[str, str, bool]:
    """Release, reason, and whether the reason is a number that the changelog states."""
    if facts.small_radii:
        return "v1", f"{facts.small_radii:,} goals have v1's radius of 2 m", True
    if facts.first_heading == "old":
        return "before v1-3", "episode 1 has the heading that v1-3 replaced", True
    if facts.first_heading == "new":
        return "v1-3", "episode 1 has another heading than before v1-3", True
    if split == "envdrop" and facts.episodes == ENVDROP_BEFORE_V1_3:
        return "before v1-3", "it has the 109 EnvDrop episodes that v1-3 removed", True
    if split == "envdrop" and facts.episodes == LAYOUTS["envdrop"].episodes["envdrop"]:
        return "v1-3", f"{facts.episodes:,} EnvDrop episodes", True
    if facts.episodes and facts.open_paths / facts.episodes > _OLD_PATHS:
        return "v1", f"{facts.open_paths:,} reference paths lack the start or the goal, which v1-1 added", False
    return "", "", False


def _agree(said: str, seen: str) -> bool:
    return said != "v1-3" if seen == "before v1-3" else said == seen
