"""The page about a run, as text: gathers what the template shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from streamvln_gym.episodes import scene_name
from streamvln_gym.errors import SceneError
from streamvln_gym.evaluation.failures import FAILURE_KINDS
from streamvln_gym.evaluation.report import charts
from streamvln_gym.evaluation.report.episodes import episode_data, episode_row, outcome_of
from streamvln_gym.evaluation.report.measures import MEASURES
from streamvln_gym.evaluation.report.run_files import ReportedRun, key_of
from streamvln_gym.evaluation.report.scene_maps import SceneFolders, scene_map
from streamvln_gym.evaluation.summary import summarize_run
from streamvln_gym.metrics import SUCCESS_DISTANCE, path_reference_note
from streamvln_gym.scene_graph import SceneGraph

_ASSETS = Path(__file__).parent / "assets"
_COLUMNS = ("navigation_error", "spl", "ndtw", "path_length", "steps", "collisions")
_WORDS = {
    "success": "success",
    "never_left_room": "never left the room",
    "wrong_turn": "wrong turn",
    "overshot": "overshot",
    "stopped_early": "stopped early",
    "no_stop": "no stop",
    "failed": "failed",
    "unjudged": "not judged",
}


def render(run: ReportedRun, scenes_dir: Path | None = None, videos: Mapping[str, str] | None = None) -> str:
    """The page as text.

    Args:
        run: see `run_files.ReportedRun`.
        scenes_dir: see `ReportConfig`.
        videos: episode id -> address, relative to the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    return environment.get_template("page.html.j2").render(**page_values(run, scenes_dir, videos or {}))


def page_values(run: ReportedRun, scenes_dir: Path | None, videos: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows."""
    records = run.records
    folders = _Folders(SceneFolders(str(run.identity.get("dataset", "")), scenes_dir))
    outcomes = [outcome_of(record) for record in records]
    rows = [episode_row(record, outcome) for record, outcome in zip(records, outcomes, strict=True)]
    data = [
        episode_data(record, run.timings.get(key_of(record)), videos.get(record["episode_id"])) for record in records
    ]
    maps = {scene_id: folders.map(scene_id) for scene_id in dict.fromkeys(r["scene_id"] for r in records)}
    counts = Counter(outcomes)
    summary = summarize_run(records)
    plots = [
        charts.success_by_length(summary["by_length"]),
        charts.error_histogram(records),
        charts.call_profile(run.timings.values()),
    ]
    return {
        "run": run,
        "identity": identity_rows(run),
        "is_flats": str(run.identity.get("dataset", "")).startswith("flats"),
        "note": summary.get("note", ""),
        "problems": folders.problems,
        "summary": summary,
        "path_reference": path_reference_note(summary["path_reference"]),
        "charts": [plot for plot in plots if plot is not None],
        "breakdowns": _breakdowns(summary),
        "failures": [(kind, meaning, counts[kind]) for kind, meaning in FAILURE_KINDS.items()],
        "failed": sum(counts[kind] for kind in (*FAILURE_KINDS, "failed")),
        "succeeded": counts["success"],
        "judged": len(records) - counts["unjudged"],
        "cut_off": sum(not record.get("stopped", True) for record in records),
        "rows": rows,
        "outcomes": [outcome for outcome in _WORDS if counts[outcome]],
        "scenes": list(dict.fromkeys(row.scene for row in rows)),
        "memory": sorted({row.needs_memory for row in rows} - {""}),
        "columns": [name for name in _COLUMNS if any(name in row.values for row in rows)],
        "measures": MEASURES,
        "has_length": bool(summary["by_length"]),
        "several_languages": "by_language" in summary,
        "words": _WORDS,
        "data": {
            "radius": round(100 * SUCCESS_DISTANCE),
            "scenes": maps,
            "episodes": data,
            "sort": {"length": [row.length for row in rows]}
            | {name: [row.sort.get(name) for row in rows] for name in _COLUMNS},
        },
        "missing_maps": sum(not scene for scene in maps.values()),
        "style": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "scripts": [(_ASSETS / name).read_text(encoding="utf-8") for name in ("map.js", "episode.js", "list.js")],
    }


def identity_rows(run: ReportedRun) -> list[tuple[str, str]]:
    """What was evaluated, as names and values; nested settings become names with a dot."""
    rows: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for inner, item in value.items():
                add(f"{name}.{inner}" if name else str(inner), item)
        elif value is not None:
            rows.append((name, value if isinstance(value, str) else json.dumps(value)))

    add("", run.identity)
    return [*rows, ("fingerprint", run.fingerprint), ("created", run.created)]


class _Folders:
    """Scenes on disk; what cannot be read is remembered as a problem instead of ending the report."""

    def __init__(self, folders: SceneFolders) -> None:
        self._folders = folders
        self._graphs: dict[str, SceneGraph | None] = {}
        self.problems: list[str] = []

    def graph(self, scene_id: str) -> SceneGraph | None:
        """The scene's rooms, None where they are not known."""
        if scene_id not in self._graphs:
            try:
                self._graphs[scene_id] = self._folders.graph(scene_id)
            except SceneError as error:
                self._graphs[scene_id] = None
                self.problems.append(str(error))
        return self._graphs[scene_id]

    def map(self, scene_id: str) -> dict[str, Any]:
        """What the page draws of a scene, empty where nothing is known of it."""
        graph = self.graph(scene_id)
        try:
            return scene_map(self._folders.scene(scene_id), graph)
        except SceneError as error:
            self.problems.append(str(error))
            return {}


def _breakdowns(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """Tables of parts of the episodes: title, and the summary's parts by name; those that tell something."""
    memory = {"no memory needed" if kind == "none" else kind: part for kind, part in summary["by_memory"].items()}
    scenes = {scene_name(scene_id): part for scene_id, part in summary["by_scene"].items()}
    tables = [
        ("Memory needed", memory, 2),
        ("Language", summary.get("by_language", {}), 2),
        ("Described path", summary["by_length"], 1),
        ("Scene", scenes, 1),
    ]
    return [(title, parts) for title, parts, least in tables if len(parts) >= least]
