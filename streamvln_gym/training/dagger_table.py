"""What became of each round, as a table: for people, and as table.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvln_gym.errors import TrainingError
from streamvln_gym.whole_writes import write_whole

TABLE = "table.json"

_COLUMNS = {
    "round": "round",
    "beta": "beta",
    "kept": "kept",
    "dropped": "dropped",
    "frames": "frames",
    "expert_share": "expert",
    "loss": "loss",
    "success": "SR",
    "spl": "SPL",
    "navigation_error": "NE (m)",
    "oracle_success": "OS",
}


def write_table(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes table.json, whole or not at all."""
    write_json(out / TABLE, [_as_json(row) for row in rows])


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Writes a round's row, whole or not at all; an infinite distance is written as the string "inf"."""
    write_json(path, _as_json(row))


def read_row(path: Path) -> dict[str, Any] | None:
    """What `write_row` wrote; None if there is no file.

    Raises:
        TrainingError: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return {key: math.inf if value == "inf" else value for key, value in row.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"{path} cannot be read ({error}): remove it, and the same command writes it anew"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def print_rounds(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one row per round; the title says what the evaluations were on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    last = rows[-1]
    title = "DAgger, evaluated on {dataset}/{split} ({evaluated} episodes), simulator {simulator}".format_map(last)
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name), 4 if name == "loss" else 2) for name in _COLUMNS))
    Console().print(table)


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: "inf" if isinstance(value, float) and math.isinf(value) else value for key, value in row.items()}


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else "inf"
    return str(value)
