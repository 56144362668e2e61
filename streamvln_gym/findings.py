"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report: `status` is "ok", "missing" (optional) or "problem"; `remedy` says what to do."""

    topic: str
    status: str
    detail: str
    remedy: str = ""
