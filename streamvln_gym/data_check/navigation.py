"""Whether episodes can be navigated: starts on the mesh, goals within reach (`data check --navigation`)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from streamvln_gym.data_check.episode_file import CheckedFile
from streamvln_gym.data_check.report import DataProblem, Tally, some
from streamvln_gym.errors import SceneError
from streamvln_gym.vlnce.layouts import scan_path

_SCENE = "Check that scan and episode belong together (release, up axis); until then leave the episode out."


def check_navigation(checked: CheckedFile, scenes_dir: Path) -> list[DataProblem]:
    """Loads every scan of a file that is there and looks at the starts and goals of its episodes.

    Scenes without a scan are not looked at; a note says how many they are.

    Args:
        checked: the file.
        scenes_dir: the folder that scene ids are relative to.
    """
    from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

    by_scene: dict[str, list[str]] = defaultdict(list)
    for name, start in checked.starts.items():
        by_scene[start.scene].append(name)
    path, tally = checked.summary.path, Tally()
    problems: list[DataProblem] = []
    skipped: list[str] = []
    simulator = EmbeddedSimulator()
    try:
        for scene, names in tqdm(by_scene.items(), desc=f"navigation of {Path(path).name}", unit="scene"):
            scan = scan_path(scenes_dir, scene)
            if not scan.is_file():
                skipped.append(scene)
                continue
            try:
                simulator.load_scene(scan)
            except SceneError as error:
                remedy = "Repair or download the scan again; until then leave it out with `scenes`."
                problems.append(DataProblem("error", "scans", str(scan), str(error), remedy))
                continue
            for name in names:
                start = checked.starts[name]
                position = np.asarray(start.position, dtype=np.float64)
                if not simulator.is_navigable(position):
                    tally.add("error", "start", "the start is off the navigation mesh", _SCENE, name)
                elif start.goals and not np.isfinite(simulator.geodesic_distance(position, np.array(start.goals))):
                    tally.add("error", "unreachable", "the goal cannot be reached from the start", _SCENE, name)
    finally:
        simulator.close()
    if skipped:
        what = f"navigation was not checked in {len(skipped)} of its {len(by_scene)} scenes, whose scans are missing: "
        remedy = "Get the scans and check again."
        problems.append(DataProblem("note", "not navigated", path, what + some(skipped), remedy))
    return problems + tally.problems(path, len(checked.starts))
