"""What mkdocs.yml cannot say: `agents/` is documented under the name that it is installed under."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Lets mkdocstrings read a folder in which `streamvln_gym` holds `agents`, as the installed package does."""
    scratch = tempfile.TemporaryDirectory(prefix="streamvln_gym_docs_")
    package = Path(scratch.name) / "streamvln_gym"
    package.mkdir()
    for entry in (ROOT / "streamvln_gym").iterdir():
        if entry.name not in ("agents", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    (package / "agents").symlink_to(ROOT / "agents")
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["paths"] = [scratch.name]
    config["scratch"] = scratch  # goes when the build ends
    return config
