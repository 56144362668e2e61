"""The table that `rollout` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from streamvln_gym.metrics import (
    METRICS,
    SHORT_NAMES,
    count_path_references,
    count_values,
    path_reference_note,
    summarize,
)
from streamvln_gym.rollout import UNTRAINED


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Prints one row per episode (of at most 20) and the means."""
    first = records[0]
    note = f" ({first['note']})" if "note" in first else ""
    title = f"{first['agent']}{note} on {first['dataset']}/{first['split']}, simulator {first['simulator']}"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("episode", no_wrap=True)
    present = [name for name in METRICS if any(name in record for record in records)]
    for name in present:
        table.add_column(SHORT_NAMES[name], justify="right", no_wrap=True)
    for record in records[:20]:
        table.add_row(record["episode_id"], *(_cell(name, record.get(name)) for name in present))
    if len(records) > 20:
        table.add_row(f"... {len(records) - 20} more", *("" for _ in present))
    means = summarize(records)
    table.add_section()
    table.add_row(f"mean of {len(records)}", *(_cell(name, means.get(name)) for name in present), style="bold")
    counts = count_values(records)
    if any(counts.get(name) != len(records) for name in present):
        table.add_row("of episodes", *(str(counts.get(name, 0)) for name in present))
    console = Console()
    console.print(table)
    if means["unreachable"]:
        console.print(f"{means['unreachable']:.0f} goals could not be reached; NE is the mean over the others.")
    if note := path_reference_note(count_path_references(records)):
        console.print(note, soft_wrap=True)
    if first.get("note") == UNTRAINED:
        console.print(
            "The agent's weights are random: these numbers say that the loop runs, nothing about StreamVLN.",
            style="yellow",
        )


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "inf"
    return f"{value:.0f}" if name in ("steps", "collisions") else f"{value:.2f}"
